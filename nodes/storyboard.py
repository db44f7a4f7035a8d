"""A video as a chain of nodes: add chunks with a prompt of their own as often as wanted, then finish it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..motioncache_core.config import CacheConfig
from .host.checked_inputs import wrong_value
from .host.decode_stream import Decoding
from .host.latents import InputError
from .host.live_run import HIDDEN, Node
from .host.model_support import attach_config, attached_config
from .host.notify import notify
from .host.outcome import finished_run, run_outputs
from .host.take_run import Outcome, add_stretch, go_on
from .host.takes import Stretch, Take
from .host.versions import advanced, search_aliases
from .takes import VideoTake, autosave_input, autosave_memory_input, autosave_of, autosave_problem

SAME_NOISE, OWN_NOISE = "continue", "own seed"
AS_MODEL, CACHE_OFF = "as the MODEL says", "off"


class MotionCacheGenerateChunks(io.ComfyNode):
    """A take -> the same take with chunks more."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheGenerateChunks",
            display_name="Generate chunks",
            category="MotionCache/storyboard",
            **search_aliases("storyboard", "extend video", "continue video", "prompt travel"),
            description=(
                "Adds chunks to a video, with a prompt and settings of their own. Changing it makes these chunks and "
                "what follows again, and nothing before."
            ),
            inputs=[
                VideoTake.Input("take", tooltip="The video so far."),
                io.Conditioning.Input("positive", tooltip="What the new chunks show."),
                io.Int.Input(
                    "chunks",
                    default=2,
                    min=1,
                    max=1000,
                    tooltip="How many chunks. SkyReels-V2: 20 frames each (chunk_size 5), MAGI-1: 24.",
                ),
                io.Float.Input(
                    "guidance",
                    default=6.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How strictly the prompt is followed. 1 = no guidance, half the work. Not used by MAGI-1.",
                ),
                io.Combo.Input(
                    "noise",
                    options=[SAME_NOISE, OWN_NOISE],
                    tooltip="continue: the noise of the video's seed goes on; own seed: that of the seed below.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Used with 'own seed': another seed makes another version of these chunks.",
                ),
                io.Combo.Input(
                    "cache",
                    options=[AS_MODEL, CACHE_OFF],
                    tooltip="off: compute everything in these chunks, whatever the MODEL's MotionCache says.",
                ),
                advanced(
                    io.Float.Input(
                        "threshold",
                        default=-1.0,
                        min=-1.0,
                        max=100.0,
                        step=0.0001,
                        tooltip="Replaces chunk_threshold and token_threshold of the MODEL's MotionCache in these "
                        "chunks; higher = faster. -1: as the MODEL says.",
                    )
                ),
                autosave_input(),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Another MODEL (LoRA, other cache settings) for these chunks; without, the one before.",
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="What they must not show; without, the one before. Not used by MAGI-1.",
                ),
                autosave_memory_input(),
            ],
            outputs=[
                VideoTake.Output(display_name="take"),
                io.String.Output(display_name="summary", tooltip="The totals so far in a few lines."),
            ],
            hidden=HIDDEN,
        )

    @classmethod
    def validate_inputs(cls, noise: str | None, cache: str | None, autosave: str | None = "") -> bool | str:
        """Refuse unknown names and a bad file name when the graph is queued."""
        return wrong_value(cls, noise=noise, cache=cache) or autosave_problem(autosave) or True

    @classmethod
    def execute(
        cls,
        take: Take,
        positive: Any,
        chunks: int,
        guidance: float,
        noise: str,
        seed: int,
        cache: str,
        threshold: float,
        autosave: str = "",
        model: Any = None,
        negative: Any = None,
        autosave_memory: bool = False,
    ) -> io.NodeOutput:
        node = Node.of(cls.hidden, "MotionCacheGenerateChunks")
        before = take.stretches[-1] if take.stretches else None
        model = model if model is not None else before.model if before else take.model
        acting, notice = _with_cache(model, cache, threshold)
        stretch = Stretch(
            first=take.chunks,
            chunks=chunks,
            seed=take.settings.seed if noise == SAME_NOISE else seed,
            model=model,
            positive=positive,
            negative=before.negative if negative is None and before and take.settings.takes_negative else negative,
            guidance=guidance,
        )
        take, notices = add_stretch(take, stretch, acting)
        said = [text for text in (notice, *notices) if text]
        if said:
            notify(node.id, "\n".join(said))
        saver = autosave_of(autosave, autosave_memory, take, node.id)
        outcome = go_on(take, node, autosave=saver)
        summary = _progress(outcome, take)
        ui = {"text": [summary], "motioncache": [outcome.payload]}
        return io.NodeOutput(outcome.take, summary, ui=ui)


def with_threshold(config: CacheConfig, threshold: float) -> CacheConfig:
    """Cache settings with the threshold of a take's part in place of both of theirs; below 0 they stay as they are."""
    return config if threshold < 0 else config.with_changes(chunk_threshold=threshold, token_threshold=threshold)


def _with_cache(model: Any, cache: str, threshold: float) -> tuple[Any, str | None]:
    """(MODEL with a stretch's own cache settings, a notice)."""
    config = attached_config(model.model_options)
    if cache == AS_MODEL and threshold < 0:
        return model, None
    if config is None:
        return model, "The MODEL has no MotionCache: cache and threshold of this node have no effect."
    if cache == CACHE_OFF:
        config = config.with_changes(granularity="off")
    model = model.clone()
    attach_config(model, with_threshold(config, threshold))
    return model, None


def _progress(outcome: Outcome, before: Take) -> str:
    """Where a take stands after a node, and what it costs."""
    take = outcome.take
    done, total = len(take.finished), take.chunks
    lines = [f"{done} of {total} chunks finished, {total - done} in flight.", take.report.text()]
    if outcome.store is not None:
        lines.append(f"{outcome.store}; this node's output holds {take.bytes_beside(before) / 2**30:.2g} GB more.")
    return "\n".join(lines)


class MotionCacheFinishVideo(io.ComfyNode):
    """A take -> its LATENT, all chunks clean."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheFinishVideo",
            display_name="Finish video",
            category="MotionCache/storyboard",
            **search_aliases("storyboard", "end video", "long video"),
            description="Finishes the chunks that are still in flight and gives the whole video.",
            inputs=[VideoTake.Input("take", tooltip="The video so far."), autosave_input(), autosave_memory_input()],
            outputs=[
                *run_outputs(),
                VideoTake.Output(display_name="take", tooltip="The finished video, for Decode chunk."),
            ],
            hidden=HIDDEN,
        )

    @classmethod
    def validate_inputs(cls, autosave: str | None = "") -> bool | str:
        """Refuse a bad file name when the graph is queued."""
        return autosave_problem(autosave) or True

    @classmethod
    def execute(cls, take: Take, autosave: str = "", autosave_memory: bool = False) -> io.NodeOutput:
        if not take.stretches:
            raise InputError("take has no chunks yet; put Generate chunks between Begin video and Finish video")
        node = Node.of(cls.hidden, "MotionCacheFinishVideo")
        notice = None if take.complete else take.settings.closing(take.stretches)
        if notice:
            notify(node.id, notice)
        saver = autosave_of(autosave, autosave_memory, take, node.id)
        outcome = go_on(take, node, finish=True, autosave=saver)
        take = outcome.take
        return finished_run(take.latents(), take.report, take.trace, outcome.payload, take)


class MotionCacheDecodeChunk(io.ComfyNode):
    """A take -> frames of what has become clean since the last of these nodes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheDecodeChunk",
            display_name="Decode chunk",
            category="MotionCache/storyboard",
            **search_aliases("storyboard", "streaming decode", "VAE decode video", "preview video"),
            description=(
                "Turns the chunks that are finished since the last Decode chunk into frames, the same ones as decoding "
                "the whole video. Put it between Generate chunks nodes, or behind Finish video."
            ),
            inputs=[
                VideoTake.Input("take", tooltip="The video so far."),
                io.Vae.Input("vae", tooltip="Wan's VAE for SkyReels-V2, MAGI-1's for MAGI-1."),
            ],
            outputs=[
                VideoTake.Output(
                    display_name="take", tooltip="Go on from here, so that the next one decodes only what is new."
                ),
                io.Image.Output(
                    display_name="IMAGE",
                    tooltip="The new frames. Nodes behind it are left out where there are none yet.",
                ),
                io.Int.Output(display_name="frames", tooltip="How many frames came before these."),
            ],
        )

    @classmethod
    def execute(cls, take: Take, vae: Any) -> io.NodeOutput:
        before = take.stream.given if take.stream is not None else 0
        new = take.latents(take.decoded, take.stream is None)
        decoding = Decoding(vae, take.stream, new, last=take.complete)
        pieces = list(decoding)
        frames = torch.cat(pieces, dim=1).flatten(0, 1) if pieces else ExecutionBlocker(None)
        take = replace(take, decoded=len(take.finished), stream=decoding.stream)
        return io.NodeOutput(take, frames, before)


NODES = [MotionCacheGenerateChunks, MotionCacheFinishVideo, MotionCacheDecodeChunk]
