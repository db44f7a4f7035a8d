"""Drawing over a video: which tokens were recomputed, and how strongly they move. Plain tensors, values 0 to 1."""

from __future__ import annotations

import torch
from torch import Tensor

TOKEN_COLOUR = (213 / 255, 94 / 255, 0.0)
"""Vermilion of Okabe and Ito's palette; stripes tell it apart without colours."""
RAMP = ((0, 32, 77), (66, 78, 108), (125, 124, 120), (188, 175, 111), (255, 234, 70))
"""From still to moving, rising in lightness; the page's heat map has the same."""
STRIPE = 8
"""Pixels from one stripe to the next."""


def heat(values: Tensor) -> Tensor:
    """``[...]`` of 0..1 (others are clipped) -> ``[..., 3]`` colours."""
    ramp = torch.tensor(RAMP, dtype=torch.float32) / 255
    place = values.float().clamp(0, 1) * (len(ramp) - 1)
    below = place.floor().clamp(max=len(ramp) - 2).long()
    return torch.lerp(ramp[below], ramp[below + 1], (place - below).unsqueeze(-1))


def overlay(images: Tensor, masks: Tensor, opacity: float) -> Tensor:
    """Stripes in the tokens' colour over what was recomputed.

    Args:
        images: ``[N, H, W, 3]``.
        masks: ``[N, H, W]`` share recomputed.
        opacity: 0 leaves the images as they are.
    """
    height, width = masks.shape[1:]
    diagonal = (torch.arange(height).view(-1, 1) + torch.arange(width).view(1, -1)) % STRIPE < STRIPE // 4
    strength = torch.where(diagonal, 1.0, 0.35) * masks.float() * opacity
    return torch.lerp(images.float(), torch.tensor(TOKEN_COLOUR), strength.unsqueeze(-1))


def within_frames(weights: Tensor) -> Tensor:
    """``[F, h, w]`` -> the same with every frame from 0 to 1: motion weights are relative within a frame."""
    low, high = weights.amin(dim=(1, 2), keepdim=True), weights.amax(dim=(1, 2), keepdim=True)
    return (weights - low) / (high - low).clamp_min(1e-6)
