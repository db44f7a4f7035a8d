"""Seeing what the cache did."""

from __future__ import annotations

import uuid
from typing import Any

import torch
from comfy_api.latest import io

from ..motioncache_core.models.skyreels_v2.plan import TEMPORAL
from ..motioncache_core.overlay import heat, overlay
from ..motioncache_core.replay import replayed
from ..motioncache_core.sweep import parse_report
from ..motioncache_core.trace import Trace
from .host.checked_inputs import wrong_value
from .host.latents import SPATIAL
from .host.live_run import HIDDEN, LiveRun, Node
from .host.outcome import Decisions
from .host.versions import search_aliases

SHARE, STEP = "share of steps recomputed", "one step"
PATCH_PIXELS = 2 * SPATIAL
PREVIEW_ID = "MotionCacheMotionMaskPreview"
"""ComfyUI runs a node in a class of its own with another name, so the view is told this one."""
THUMBNAIL_SIDE = 320
"""Pixels of the view's pictures along their longer side."""


class MotionCacheDecisionMask(io.ComfyNode):
    """A run's token decisions -> one MASK a video frame."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheDecisionMask",
            display_name="Decisions as mask",
            category="MotionCache",
            **search_aliases("recomputed tokens", "cache mask"),
            description="White where the picture was recomputed, black where it was reused; one mask a video frame.",
            inputs=[
                Decisions.Input("decisions", tooltip="From the pack's samplers."),
                io.Combo.Input(
                    "show", options=[SHARE, STEP], tooltip="How often each place was recomputed, or one step."
                ),
                io.Int.Input("step", default=0, min=0, max=1000, tooltip="Which step of every chunk, for 'one step'."),
            ],
            outputs=[io.Mask.Output(display_name="MASK")],
        )

    @classmethod
    def validate_inputs(cls, show: str | None) -> bool | str:
        """Refuse an unknown name when the graph is queued."""
        return wrong_value(cls, show=show) or True

    @classmethod
    def execute(cls, decisions: Trace, show: str, step: int) -> io.NodeOutput:
        check_step(decisions, show, step)
        picture = decisions.share_computed() if show == SHARE else decisions.computed_at(step)
        return io.NodeOutput(to_video_frames(picture, first_frames(decisions)))


def to_video_frames(picture: torch.Tensor, first: int = 1) -> torch.Tensor:
    """``[latent frames, h, w]`` values of tokens -> ``[video frames, 16 h, 16 w]``: 4 frames each.

    ``first``: video frames of the first latent frame, 1 for SkyReels-V2 and 4 for MAGI-1.
    """
    repeats = torch.tensor([first] + [TEMPORAL] * (picture.shape[0] - 1))
    frames = picture.repeat_interleave(repeats, dim=0)
    return frames.repeat_interleave(PATCH_PIXELS, dim=1).repeat_interleave(PATCH_PIXELS, dim=2)


class MotionCacheMotionMaskPreview(io.ComfyNode):
    """A run's decisions, its report and its video -> the video with what was recomputed drawn over it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=PREVIEW_ID,
            display_name="Motion mask preview",
            category="MotionCache",
            description=(
                "Shows on the finished video which parts were recomputed and how strongly they move, as pictures and "
                "in a view to step through."
            ),
            inputs=[
                Decisions.Input("decisions", tooltip="From the pack's samplers."),
                io.Combo.Input(
                    "show", options=[SHARE, STEP], tooltip="How often each place was recomputed, or one step."
                ),
                io.Int.Input("step", default=0, min=0, max=1000, tooltip="Which step of every chunk, for 'one step'."),
                io.Float.Input(
                    "opacity",
                    default=0.7,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How strongly the stripes cover the video. 0 = not at all.",
                ),
                io.String.Input(
                    "report",
                    optional=True,
                    force_input=True,
                    tooltip="The report of the same run: phases, distances and times for the view.",
                ),
                io.Image.Input("images", optional=True, tooltip="The decoded video, to draw over."),
            ],
            outputs=[
                io.Image.Output(display_name="overlay", tooltip="The video with stripes where it was recomputed."),
                io.Mask.Output(display_name="MASK", tooltip="White where recomputed; one mask a video frame."),
                io.Image.Output(
                    display_name="heat_map", tooltip="Motion of every place, relative within its frame: dark = still."
                ),
            ],
            hidden=HIDDEN,
            is_output_node=True,
            **search_aliases("heat map", "overlay", "recomputed tokens", "cache visualizer", "motion weights"),
        )

    @classmethod
    def validate_inputs(cls, show: str | None) -> bool | str:
        """Refuse an unknown name when the graph is queued."""
        return wrong_value(cls, show=show) or True

    @classmethod
    def execute(
        cls,
        decisions: Trace,
        show: str,
        step: int,
        opacity: float,
        report: str | None = None,
        images: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        check_step(decisions, show, step)
        told = None if report is None else parse_report(report)
        picture = decisions.share_computed() if show == SHARE else decisions.computed_at(step)
        motion = decisions.motion(None if show == SHARE else step)
        first = first_frames(decisions)
        masks, movement = to_video_frames(picture, first), to_video_frames(motion, first)
        if images is not None:
            masks, movement = fitted(masks, images), fitted(movement, images)
        background = heat(movement) * 0.5 if images is None else images[..., :3]
        drawn = overlay(background, masks, opacity)
        shown = show_finished(Node.of(cls.hidden, PREVIEW_ID), decisions, told, images, first)
        return io.NodeOutput(drawn, masks, heat(movement), ui={"motioncache": [shown]})


def check_step(decisions: Trace, show: str, step: int) -> None:
    """Raise ValueError for a step that the run did not have."""
    steps = decisions.plan.steps
    if show == STEP and step >= steps:
        raise ValueError(f"step is {step}; the run has steps 0 to {steps - 1} (nearest: {steps - 1})")


def first_frames(decisions: Trace) -> int:
    """Video frames of the first latent frame: 1 for SkyReels-V2, 4 for MAGI-1."""
    return 1 if decisions.plan.family == "skyreels_v2" else TEMPORAL


def fitted(pictures: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """``[N, h, w]`` pictures of tokens in the size and number of ``[N', H, W, 3]`` images.

    Raises:
        ValueError: there are more images than video frames.
    """
    count, height, width = images.shape[:3]
    if count > pictures.shape[0]:
        raise ValueError(
            f"images has {count} frames; the run that made these decisions has {pictures.shape[0]} (nearest: "
            f"{pictures.shape[0]}). Connect the video decoded from the same run"
        )
    pictures = pictures[:count]
    padded = [-(-side // PATCH_PIXELS) * PATCH_PIXELS for side in (height, width)]
    if padded == list(pictures.shape[1:]):  # odd sizes are padded up to whole tokens
        return pictures[:, :height, :width]
    return torch.nn.functional.interpolate(pictures.unsqueeze(1), (height, width), mode="nearest").squeeze(1)


def show_finished(
    node: Node,
    decisions: Trace,
    report: dict[str, Any] | None,
    images: torch.Tensor | None,
    first: int,
) -> dict[str, Any]:
    """Put a finished run on a node's view, with a small picture of every latent frame's last video frame."""
    shown_by = node.id or "", node.kind, node.workflow, node.prompt
    state = replayed(decisions, report, uuid.uuid4().hex[:12], *shown_by)
    run = LiveRun(state)
    if images is not None:
        small = shrunk(images)
        for lane, (start, stop) in enumerate(state.lane_frames):
            last = [min(first + TEMPORAL * frame, len(small)) - 1 for frame in range(start, stop)]
            run.show(lane, small[last].numpy())
    if node.id is not None:
        run.put_finished()
    return run.payload()


def shrunk(images: torch.Tensor) -> torch.Tensor:
    """``[N, H, W, 3]`` -> uint8, the longer side at most :data:`THUMBNAIL_SIDE`."""
    frames = images[..., :3].movedim(-1, 1)
    factor = THUMBNAIL_SIDE / max(frames.shape[2:])
    if factor < 1:
        size = [max(1, round(side * factor)) for side in frames.shape[2:]]
        frames = torch.nn.functional.interpolate(frames, size, mode="area")
    return (frames.movedim(1, -1).clamp(0, 1) * 255).round().to(torch.uint8).contiguous()


NODES = [MotionCacheDecisionMask, MotionCacheMotionMaskPreview]
