"""Making videos with MAGI-1."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..motioncache_core.loop import RunState
from ..motioncache_core.models.magi1.plan import TEMPORAL, SamplingSettings, build_plan
from ..motioncache_core.models.magi1.prefix import ASPECTS
from ..motioncache_core.plan import Plan
from ..motioncache_core.report import Report
from ..motioncache_core.trace import Trace
from .host.checked_inputs import judged
from .host.chunk_session import RunSettings, token_grid
from .host.latents import SPATIAL
from .host.live_run import HIDDEN, Node, live_run
from .host.magi1_inputs import (
    CONTINUED,
    GUIDANCES,
    checked_steps,
    frames_to_make,
    given_frames,
    given_latents,
    guidance_for,
    steps_for,
    transformer_size,
)
from .host.magi1_model import SAMPLER_NAME
from .host.magi1_preview import callback_maker, preview_format
from .host.magi1_prompts import Schedule, Script
from .host.magi1_session import (
    PATCH,
    Magi1Guider,
    Magi1Session,
    active_magi1_cache,
    count_stored,
    ignored_changes,
)
from .host.model_support import attached_config, refuse_foreign_model
from .host.notify import notify
from .host.outcome import finished_run, run_outputs
from .host.roles import refuse_unsupported
from .host.run_inputs import seed_input, size_inputs, store_inputs
from .host.run_settings import KV_PRECISIONS
from .host.runs import check_size, listen, run_windows
from .host.thumbnails import latent_colours
from .host.versions import advanced, search_aliases
from .magi1_prompts import ChunkPrompts

ATTENTIONS = {"chunk-wise": "chunk-wise", "vanilla (window together)": "staged window"}
"""Name in the node -> in the plan."""
PLAN = ("steps", "shift", "window", "guidance", "clean_refresh", "attention", "steady_oldest")
MEMORY = ("kv_precision", "kv_place")
START = ("continue_from", "continue_frames", "aspect")
SOCKETS = ("start_image", "start_video", "start_latents", "vae")
"""Inputs of :func:`own_inputs` in the sampler's order."""


def own_inputs() -> dict[str, io.Input]:
    """Inputs of a MAGI-1 run that are the same wherever one is set up, by id."""
    settings = SamplingSettings()
    inputs = [
        *size_inputs(720, 720),
        io.Int.Input(
            "steps",
            default=0,
            min=0,
            max=1000,
            step=4,
            tooltip="Denoising steps of every chunk, a multiple of window. 0: as many as the model's example.",
        ),
        io.Float.Input(
            "shift",
            default=settings.shift,
            min=1.0,
            max=100.0,
            step=0.1,
            tooltip="Higher = more steps at strong noise.",
        ),
        io.Int.Input(
            "window",
            default=settings.window_chunks,
            min=1,
            max=16,
            tooltip="Chunks that are in work at once, each a stage behind the one before. Trained with 4.",
        ),
        io.Combo.Input(
            "guidance",
            options=GUIDANCES,
            tooltip="How the prompt is followed: base models need three passes a step, distilled ones one.",
        ),
        io.Boolean.Input(
            "clean_refresh",
            default=settings.clean_refresh,
            tooltip="One more pass for every finished chunk, as the original makes it: exact memory instead of "
            "the last noisy one. Off is a little faster.",
        ),
        advanced(
            io.Combo.Input(
                "attention",
                options=list(ATTENTIONS),
                tooltip="chunk-wise: one chunk a pass. vanilla: the window's chunks in one pass, as the "
                "original does; same video with clean_refresh, more memory, no MotionCache.",
            )
        ),
        advanced(
            io.Boolean.Input(
                "steady_oldest",
                default=True,
                tooltip="Distilled models: a second pass without history for the cleanest chunk, as they were "
                "made for. Off is faster and another model.",
            )
        ),
        *store_inputs("shifts the picture"),
        io.Combo.Input(
            "continue_from",
            options=CONTINUED,
            tooltip="Which frames of start_video or start_latents the new ones go on from.",
        ),
        io.Int.Input(
            "continue_frames",
            default=24,
            min=2 * TEMPORAL,
            max=100000,
            step=TEMPORAL,
            tooltip="How many of them.",
        ),
        io.Combo.Input(
            "aspect",
            options=list(ASPECTS),
            tooltip="Given frames of another shape: fit stretches (as the original), crop cuts off, pad adds black.",
        ),
        io.Image.Input("start_image", optional=True, tooltip="First frame. Needs vae."),
        io.Image.Input("start_video", optional=True, tooltip="Frames to go on from, 24 a second. Needs vae."),
        io.Latent.Input("start_latents", optional=True, tooltip="The same as latents of an earlier run."),
        io.Vae.Input(
            "vae",
            optional=True,
            tooltip="MAGI-1's VAE, for start_image, start_video and for the colours of previews.",
        ),
    ]
    return {one.id: one for one in inputs}


class MotionCacheMagi1Sampler(io.ComfyNode):
    """MODEL + prompt -> a video's LATENT, chunk by chunk, with a report."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        own = own_inputs()
        return io.Schema(
            node_id="MotionCacheMagi1Sampler",
            display_name=SAMPLER_NAME,
            category="MotionCache",
            **search_aliases("MAGI", "KSampler", "video to video", "long video"),
            description="Makes a video with MAGI-1 chunk by chunk, from text, an image or a video, any length.",
            inputs=[
                io.Model.Input("model", tooltip="MAGI-1, with or without MotionCache."),
                io.Conditioning.Input("positive", tooltip="What the video shows (MAGI-1 text encode)."),
                own["width"],
                own["height"],
                io.Int.Input(
                    "frames",
                    default=SamplingSettings().frames,
                    min=TEMPORAL,
                    max=100000,
                    step=TEMPORAL,
                    tooltip="Length, 24 a second. Made in chunks of 24, the surplus is cut off. A start video comes on "
                    "top; a start image is among them.",
                ),
                seed_input(),
                *(own[name] for name in (*PLAN, *MEMORY, *START)),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="Not used: MAGI-1 has learned its own empty prompt."
                ),
                *(own[name] for name in SOCKETS),
                ChunkPrompts.Input(
                    "chunk_prompts",
                    optional=True,
                    tooltip="Other prompts from certain chunks (seconds) on, from Prompt for chunks; positive holds "
                    "until the first of them begins.",
                ),
            ],
            outputs=run_outputs(),
            hidden=HIDDEN,
        )

    @classmethod
    def validate_inputs(
        cls,
        width: int | None,
        height: int | None,
        frames: int | None,
        steps: int | None,
        shift: float | None,
        window: int | None,
        attention: str | None,
        clean_refresh: bool | None,
        guidance: str | None = None,
        kv_precision: str | None = None,
        kv_place: str | None = None,
        continue_from: str | None = None,
        aspect: str | None = None,
    ) -> bool | str:
        """Plan with what is typed on the node when the graph is queued, before anything loads."""
        needed = {"width": width, "height": height, "frames": frames, "steps": steps, "shift": shift, "window": window}
        needed |= {"attention": attention, "clean_refresh": clean_refresh}
        others = {"guidance": guidance, "continue_from": continue_from, "aspect": aspect}

        def plan() -> None:
            check_size(width, height, 2 * SPATIAL)
            _plan(frames, steps, shift, window, attention, clean_refresh)

        return judged(cls, needed, {**others, "kv_precision": kv_precision, "kv_place": kv_place}, plan)

    @classmethod
    def execute(
        cls,
        model: io.Model.Type,
        positive: Any,
        width: int,
        height: int,
        frames: int,
        seed: int,
        steps: int,
        shift: float,
        window: int,
        guidance: str,
        clean_refresh: bool,
        attention: str,
        steady_oldest: bool,
        kv_precision: str,
        kv_place: str,
        continue_from: str,
        continue_frames: int,
        aspect: str,
        negative: Any = None,
        start_image: Tensor | None = None,
        start_video: Tensor | None = None,
        start_latents: dict[str, Tensor] | None = None,
        vae: Any = None,
        chunk_prompts: Schedule | None = None,
    ) -> io.NodeOutput:
        node = Node.of(cls.hidden, "MotionCacheMagi1Sampler")
        refuse_foreign_model(model, "magi1")
        check_size(width, height, 2 * SPATIAL)
        info = model.model.info
        passes, notice = guidance_for(info, guidance, steady_oldest)
        script = Script.of(positive, chunk_prompts, info.architecture.text_dim)
        given_length = given_frames(
            start_image, start_video, start_latents, vae, width, height, continue_from, continue_frames
        )
        plan = _plan(
            frames_to_make(frames, given_length),
            steps_for(info, passes, steps),
            shift,
            window,
            attention,
            clean_refresh,
            guidance=passes,
            start_latents=given_length,
        )
        chunks = plan.windows[0].chunks
        given_chunks = sum(chunk.number is None for chunk in chunks)
        script.check_length(len(chunks) - given_chunks)
        config = attached_config(model.model_options)
        cache, inactive = active_magi1_cache(config, plan)
        unused = "negative is not used: MAGI-1 has learned its own empty prompt." if negative is not None else None
        said = [
            notice,
            script.notice,
            unused,
            inactive and f"MotionCache is not active: {inactive}",
            ignored_changes(model.model_options),
        ]
        if any(said):
            notify(node.id, "\n".join(filter(None, said)))
        patched = model.clone()
        settings = RunSettings(seed, "euler", cache, None, KV_PRECISIONS[kv_precision], kv_place == "CPU")
        guider = Magi1Guider(patched, plan, script.options)
        refuse_unsupported(guider.original_conds, patched.model_options, plan)
        latent_size = (height // SPATIAL, width // SPATIAL)
        rows, columns = token_grid(*latent_size, PATCH)
        count_stored(patched.model_options, patched, plan, settings, rows * columns)
        report = Report(plan, cache or config, transformer_size(info, script.longest), inactive)
        trace = Trace(plan, rows, columns)
        given = given_latents(
            start_image, start_video, start_latents, vae, width, height, aspect, continue_from, continue_frames
        )
        batch = 1 if given is None else given.shape[0]
        state = RunState.new(plan, batch, 16, *latent_size, patched.load_device)
        texts = script.texts(len(chunks), given_chunks, info.architecture.text_tokens, batch)
        colours = latent_colours(preview_format(vae))
        with live_run(node, plan, cache, trace, colours) as live:
            session = Magi1Session(plan, settings, state, listen(report, trace, live), texts)
            run_windows(session, guider, given, None, callback_maker(vae))
        length = frames // TEMPORAL + (given_length if given_length > 1 else 0)
        video = patched.model.process_latent_out(session.state.video[:, :, :length]).cpu()
        return finished_run(video, report, trace, live.payload())


def _plan(frames: int, steps: int, shift: float, window: int, attention: str, clean_refresh: bool, **more: Any) -> Plan:
    """The run's calls. Raises ValueError for settings that cannot be sampled."""
    settings = SamplingSettings(
        frames=frames,
        steps=checked_steps(steps, window),
        shift=shift,
        window_chunks=window,
        attention=ATTENTIONS.get(attention, attention),
        clean_refresh=clean_refresh,
        **more,
    )
    return build_plan(settings)


NODES = [MotionCacheMagi1Sampler]
