"""Noise levels of a call as the network sees them: time embeddings per latent frame and row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .tokens import pack_rows


def frame_rate_index(fps: float) -> int:
    """Which frame-rate term a video takes: 0 for 16 fps, 1 for any other rate."""
    return 0 if fps == 16 else 1


@dataclass(frozen=True)
class PackedLevels:
    """Modulation for a packed sequence.

    Args:
        modulation: ``[U, 6, C]`` of the distinct levels.
        index: ``[N]`` level of every packed token, ``None`` if there is only one level.
    """

    modulation: Tensor
    index: Tensor | None

    def spread(self, part: Tensor) -> Tensor:
        """``[U, C]`` -> ``[1, N, C]``, or ``[1, 1, C]`` if there is only one level."""
        return (part if self.index is None else part[self.index]).unsqueeze(0)


class Levels:
    """Time embeddings of a call's distinct (timestep, frame rate) pairs.

    Args:
        network: has ``freq_dim``, ``time_embedding``, ``time_projection``.
        timesteps: for every row, of every latent frame.
        fps: for every row, frame-rate index of every latent frame.
        fps_terms: ``[2, 6 * C]`` float32 or ``None``.
        like: sets device and dtype.
    """

    def __init__(
        self,
        network: nn.Module,
        timesteps: Sequence[Sequence[int]],
        fps: Sequence[Sequence[int]],
        fps_terms: Tensor | None,
        like: Tensor,
    ):
        self.timesteps = [tuple(row) for row in timesteps]
        pairs = [list(zip(*row, strict=True)) for row in zip(timesteps, fps, strict=True)]
        distinct = sorted({pair for row in pairs for pair in row})
        self.index = [[distinct.index(pair) for pair in row] for row in pairs]
        sinusoid = _sinusoid([t for t, _ in distinct], network.freq_dim).to(device=like.device, dtype=like.dtype)
        self.embedding = network.time_embedding(sinusoid)
        """``[U, C]``, what the head takes."""
        projected = network.time_projection(self.embedding).unflatten(1, (6, -1)).float()
        if fps_terms is not None:
            projected = projected + fps_terms[[rate for _, rate in distinct]].to(like.device).unflatten(1, (6, -1))
        self.projected = projected
        """``[U, 6, C]`` float32, what the blocks take and distances are measured on."""
        self.modulation = projected.to(like.dtype)

    def of_row(self, row: int) -> Tensor:
        """``[F, 6, C]`` projection of a row's latent frames, or ``[1, 6, C]`` if they share one."""
        index = self.index[row]
        return self.projected[index[:1] if len(set(index)) == 1 else index]

    def of_tokens(self, per_frame: int) -> Tensor | None:
        """``[R, L]`` level of every token, ``None`` if there is only one level."""
        if len(self.embedding) == 1:
            return None
        frames = torch.tensor(self.index, device=self.embedding.device)
        return frames.repeat_interleave(per_frame, dim=1)

    def packed(self, chosen: Sequence[Tensor | None], per_frame: int) -> PackedLevels:
        """Modulation of the chosen tokens of all rows in one sequence."""
        index = self.of_tokens(per_frame)
        return PackedLevels(self.modulation, None if index is None else pack_rows(index, chosen))


def _sinusoid(timesteps: Sequence[int], width: int) -> Tensor:
    """``[U, width]`` cosines, then sines; float64, since the angles are large."""
    half = width // 2
    frequencies = torch.pow(10000.0, -torch.arange(half, dtype=torch.float64) / half)
    angles = torch.outer(torch.tensor(timesteps, dtype=torch.float64), frequencies)
    return torch.cat([angles.cos(), angles.sin()], dim=1)
