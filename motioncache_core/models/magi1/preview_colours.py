"""Preview colours: a linear map from a latent's 16 channels to red, green and blue, fitted to the VAE at hand.

How it is fitted: synthetic pictures (soft colour fields with hard-edged patches, a fixed seed) are encoded; every
latent is one equation, its target the mean colour of the 8 x 8 pixels that it stands for; ordinary least squares with a
constant term and a slight ridge gives 16 x 3 factors and a bias. That shows colours and coarse shapes, not detail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

RIDGE = 1e-4
"""Added to the diagonal of the normal equations, as a share of its mean: keeps unused channels at 0."""


@dataclass(frozen=True)
class PreviewColours:
    """Red, green and blue (-1..1) of a latent: ``latent @ factors + bias``.

    Args:
        factors: one row of three for every channel, as plain numbers.
        bias: three numbers.
        explained: share of the colours' variance that the map explains on what it was fitted to.
    """

    factors: tuple[tuple[float, float, float], ...]
    bias: tuple[float, float, float]
    explained: float


def fit_preview_colours(encode: Callable[[Tensor], Tensor], pictures: Tensor, scale: float) -> PreviewColours:
    """The map that best turns encoded pictures back into their colours.

    Args:
        encode: ``[1, 3, 1, H, W]`` in -1..1 -> ``[1, C, 1, h, w]``.
        pictures: ``[N, 3, H, W]`` in -1..1.
        scale: of latents in a preview over encoded ones (those that the transformer works on: 0.18215).

    Raises:
        ValueError: fewer than two pictures' worth of latents for the unknowns.
    """
    rows, colours = [], []
    for picture in pictures:
        latent = encode(picture[None, :, None])[0, :, 0].double().cpu() * scale
        rows.append(latent.flatten(1).T)
        mean = nn.functional.adaptive_avg_pool2d(picture.double().cpu(), tuple(latent.shape[1:]))
        colours.append(mean.flatten(1).T)
    x, y = torch.cat(rows), torch.cat(colours)
    if len(x) < 2 * (x.shape[1] + 1):
        raise ValueError(f"{len(x)} latents are too few to fit {x.shape[1]} channels; give larger or more pictures")
    centre, level = x.mean(0), y.mean(0)
    gram = (x - centre).T @ (x - centre)
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    factors = torch.linalg.solve(gram, (x - centre).T @ (y - level))
    left = (y - level - (x - centre) @ factors).square().sum()
    explained = 1.0 - float(left / (y - level).square().sum())
    bias = level - centre @ factors
    return PreviewColours(tuple(map(tuple, factors.tolist())), tuple(bias.tolist()), explained)


def synthetic_pictures(count: int = 6, size: int = 128, seed: int = 0) -> Tensor:
    """``[count, 3, size, size]`` pictures in -1..1 of many colours, always the same for a seed."""
    generator = torch.Generator().manual_seed(seed)
    grid = 2 * torch.rand(count, 3, 5, 5, generator=generator) - 1
    pictures = nn.functional.interpolate(grid, size=(size, size), mode="bicubic", align_corners=True)
    half = size // 2
    for picture in pictures:
        for _ in range(6):
            height, width = torch.randint(size // 8, half, (2,), generator=generator).tolist()
            top, left = torch.randint(0, half, (2,), generator=generator).tolist()
            colour = 2 * torch.rand(3, 1, 1, generator=generator) - 1
            picture[:, top : top + height, left : left + width] = colour
    return pictures.clamp(-1, 1)
