"""How the still background of a long video changes from chunk to chunk, beside the world's truth."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from motioncache_core.models.skyreels_v2.plan import TEMPORAL
from tools.tinyworld.world import Scene, World, background, colour_share, measure, sprite_regions

from . import table

MEASURES = ("mean", "contrast", "saturation")
BACKGROUND, SPRITES = "background PSNR", "sprites"
TRAINED = 5
"""Chunks of the clips that the model was trained on."""
REACH = 1.35
"""Radius of the disc around a sprite that is not background, in its own radii."""

Row = dict[str, Any]


def chunk_frames(chunks: int, latents: int) -> list[slice]:
    """Pixel frames of each chunk of so many latent frames; the first latent frame stands for one."""
    edges = [0, *(TEMPORAL * (latents * (number + 1) - 1) + 1 for number in range(chunks))]
    return [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]


def look(frames: Tensor, seen: Tensor) -> dict[str, float]:
    """Mean and standard deviation of the grey values, and mean saturation, of some pixels of frames.

    Saturation is the largest less the smallest channel of a pixel, which, other than HSV's, is not large in the dark.

    Args:
        frames: ``[F, H, W, 3]`` in 0..1.
        seen: bool ``[F, H, W]``; contrast is each frame's own.
    """
    grey = frames.mean(dim=-1)
    return {
        "mean": float(grey[seen].mean()),
        "contrast": statistics.mean(float(one[own].std(correction=0)) for one, own in zip(grey, seen, strict=True)),
        "saturation": float((frames.amax(dim=-1) - frames.amin(dim=-1))[seen].mean()),
    }


def beside_truth(frames: Tensor, scene: Scene) -> dict[str, float]:
    """How far what no sprite covers is off the world's own background there, as shares of it and as PSNR in dB, and the
    area of the sprites in shares of the true one. A sprite that leaves the picture changes only the last.
    """
    pictures, world = frames.numpy(), World()
    size = pictures.shape[1]
    found = measure(pictures, scene, world)
    away = sprite_regions(found.centres, size, REACH * world.radius).any(0)
    for sprite in scene.sprites:
        away |= colour_share(pictures, sprite.colour) > 0
    seen = torch.from_numpy(~away)
    truth = torch.from_numpy(background(scene.background, size)).expand_as(frames)
    own, true = look(frames, seen), look(truth, seen)
    error = float(((frames - truth)[seen] ** 2).mean())
    off = {name: own[name] / true[name] - 1 for name in MEASURES}
    return {**off, BACKGROUND: -10 * math.log10(max(error, 1e-10)), SPRITES: found.area}


def by_chunk(frames: Tensor, scene: Scene, chunks: int, latents: int) -> list[dict[str, float]]:
    """All measures of every chunk of a video ``[F, H, W, 3]``."""
    return [beside_truth(frames[part], scene) for part in chunk_frames(chunks, latents)]


def mean_curve(rows: Sequence[Row], way: str, name: str) -> list[float]:
    """A measure by chunk, mean over clips."""
    curves = [[chunk[name] for chunk in row["chunks"]] for row in rows if row["way"] == way]
    return [statistics.mean(values) for values in zip(*curves, strict=True)]


def ways(rows: Sequence[Row]) -> list[str]:
    """Ways of going on, in the order of the rows."""
    return list(dict.fromkeys(row["way"] for row in rows))


def comparison(rows: Sequence[Row]) -> str:
    """One line a way: first chunk, last chunk of the trained length, last chunk of all."""
    last = len(rows[0]["chunks"])
    shown = (1, min(TRAINED, last), last)
    where = "chunk " + " / ".join(map(str, shown))
    head = (
        "continuation",
        *(f"{name} of the background, % off the truth, {where}" for name in MEASURES),
        f"its PSNR, {where}",
        f"sprites' area, {where}",
    )
    lines = []
    for way in ways(rows):
        cells = [way]
        for name in (*MEASURES, BACKGROUND, SPRITES):
            curve = mean_curve(rows, way, name)
            form, unit = ("+.1f", 100) if name in MEASURES else (".1f" if name == BACKGROUND else ".2f", 1)
            cells.append(" / ".join(f"{unit * curve[chunk - 1]:{form}}" for chunk in shown))
        lines.append(cells)
    return table.lines(head, lines)


def sheet(frames: Tensor, columns: Sequence[int]) -> np.ndarray:
    """Some frames of a video beside each other, ``[H, W * columns, 3]`` uint8."""
    chosen = torch.cat([frames[column] for column in columns], dim=1)
    return (chosen * 255).round().to(torch.uint8).numpy()
