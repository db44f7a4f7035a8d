"""How far a run's frames are from a reference's, where the sprite moves and where nothing does."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from motioncache_core.quality import mean_psnr, ssim
from tools.tinyworld.world import Scene, World, measure, sprite_regions

MOVING, STILL = "moving", "still"
REACH = 1.35
"""Radius of the region around a sprite, in its own radii: the sprite with its soft edge, and where a small error puts
it."""

Regions = dict[str, Tensor]
"""Name -> bool ``[F, H, W]``."""


def regions(frames: Tensor, scene: Scene) -> Regions:
    """Where the moving sprites of these frames are, and where no sprite is.

    Args:
        frames: ``[F, H, W, 3]`` of the reference run; its sprites are tracked by colour.
    """
    world = World()
    centres = measure(frames.numpy(), scene, world).centres
    discs = torch.from_numpy(sprite_regions(centres, frames.shape[1], REACH * world.radius))
    moves = torch.tensor([sprite.motion != "none" for sprite in scene.sprites])
    return {MOVING: discs[moves].any(0), STILL: ~discs.any(0)}


def compare(frames: Tensor, reference: Tensor, where: Regions, perceptual: Perceptual | None) -> dict[str, float]:
    """PSNR in dB and SSIM by region, and ColorVideoVDP in just-objectionable-difference units (10 = no difference)."""
    found = {}
    for name, mask in where.items():
        found[f"psnr {name}"] = mean_psnr(frames, reference, mask)
        found[f"ssim {name}"] = float(ssim(frames, reference, mask).nanmean())
        if perceptual is not None:
            found[f"cvvdp {name}"] = perceptual(torch.where(mask[..., None], frames, reference), reference)
    return found


def shows(frames: Tensor, scene: Scene) -> dict[str, Any]:
    """Whether a run still shows what was asked, beside the world's truth."""
    found = measure(np.asarray(frames), scene)
    return {"right": bool(found.direction_right and found.colour_right), "background_psnr": found.background_psnr}


Perceptual = Callable[[Tensor, Tensor], float]


def make_perceptual(fps: float) -> Perceptual:
    """ColorVideoVDP of a video beside its reference, each ``[F, H, W, 3]``, seen on a 4K monitor at its usual distance.

    Outside of a region the video is the reference itself, so that only the region counts. Source: Mantiuk et al.,
    SIGGRAPH 2024, by the authors' package ``cvvdp``, whose weights come with it.
    """
    import pycvvdp

    with _quiet():
        metric = pycvvdp.cvvdp(display_name="standard_4k", device=torch.device("cpu"))

    def judge(frames: Tensor, reference: Tensor) -> float:
        with _quiet():
            found, _ = metric.predict(frames.numpy(), reference.numpy(), dim_order="FHWC", frames_per_second=fps)
        return float(found)

    return judge


@contextlib.contextmanager
def _quiet():  # noqa: ANN202 - a context manager
    """The package draws a progress bar for every call."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield
