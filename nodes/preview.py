"""Seeing what the cache did."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..motioncache_core.models.skyreels_v2.plan import TEMPORAL
from ..motioncache_core.trace import Trace
from .host.latents import SPATIAL
from .sampling import Decisions

SHARE, STEP = "share of steps recomputed", "one step"
PATCH_PIXELS = 2 * SPATIAL


class MotionCacheDecisionMask(io.ComfyNode):
    """A run's token decisions -> one MASK a video frame."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheDecisionMask",
            display_name="Decisions as mask",
            category="MotionCache",
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
    def execute(cls, decisions: Trace, show: str, step: int) -> io.NodeOutput:
        steps = decisions.plan.steps
        if show == STEP and step >= steps:
            raise ValueError(f"step is {step}; the run has steps 0 to {steps - 1} (nearest: {steps - 1})")
        picture = decisions.share_computed() if show == SHARE else decisions.computed_at(step)
        return io.NodeOutput(to_video_frames(picture, 1 if decisions.plan.family == "skyreels_v2" else TEMPORAL))


def to_video_frames(picture: torch.Tensor, first: int = 1) -> torch.Tensor:
    """``[latent frames, h, w]`` values of tokens -> ``[video frames, 16 h, 16 w]``: 4 frames each.

    ``first``: video frames of the first latent frame, 1 for SkyReels-V2 and 4 for MAGI-1.
    """
    repeats = torch.tensor([first] + [TEMPORAL] * (picture.shape[0] - 1))
    frames = picture.repeat_interleave(repeats, dim=0)
    return frames.repeat_interleave(PATCH_PIXELS, dim=1).repeat_interleave(PATCH_PIXELS, dim=2)


NODES = [MotionCacheDecisionMask]
