"""Rotary position embedding over (frame, row, column) with learned frequencies.

Frames count from the start of the video; rows and columns are centred on the picture and scaled so that every picture
covers about the area of 16 by 16 tokens. Source: SandAI-org/MAGI-1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .casting import Build

REFERENCE_AREA = 256
"""Tokens of the picture whose coordinates are not scaled."""


class LearnedBands(nn.Module):
    """The learned frequencies, ``head_dim / 8`` of them, the same for all three axes."""

    def __init__(self, head_dim: int, build: Build):
        super().__init__()
        self.bands = build.precise_parameter(head_dim // 8)

    def forward(self, start: int, grid: tuple[int, int, int], device: torch.device) -> Tensor:
        """Sines, then cosines, of a chunk's tokens: ``[F * H * W, 6 * bands]`` float32.

        Args:
            start: its first latent frame in the video.
            grid: its latent frames, token rows and token columns.
        """
        bands = self.bands.to(device=device, dtype=torch.float32)
        frames, height, width = grid
        axes = torch.meshgrid(*positions(start, frames, height, width, device), indexing="ij")
        angles = torch.stack(axes, dim=-1).flatten(0, 2).unsqueeze(-1) * bands
        angles = angles.flatten(1)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


def positions(start: int, frames: int, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates of frames, token rows and token columns, float32."""
    ratio = math.sqrt(height * width / REFERENCE_AREA)
    along = torch.arange(start, start + frames, dtype=torch.float32, device=device)
    return along, _centred(height, ratio, device), _centred(width, ratio, device)


def _centred(size: int, ratio: float, device: torch.device) -> Tensor:
    """``size`` coordinates around 0 that span ``size / ratio - 1``."""
    place = torch.arange(size, dtype=torch.float32, device=device) - (size - 1) / 2
    return place / max(size - 1, 1) * (size / ratio - 1)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn ``[N, heads, d]`` by a table ``[N, 2 * a]`` of :class:`LearnedBands`.

    Channel i goes with channel a + i (i < a); those from 2 a on stay as they are.
    """
    sin, cos = (part.unsqueeze(1) for part in table.chunk(2, dim=1))
    half = sin.shape[-1]
    left, right, rest = x.split([half, half, x.shape[-1] - 2 * half], dim=-1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin, rest], dim=-1)
