"""MAGI-1's schedule: its time table, the stages of its window of chunks, and how far back a chunk looks.

Time runs from 0 (noise) to 1 (clean). Source: MAGI-1 (arXiv 2505.13211) and its public inference code; facts only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Curve = Literal["sd3", "square", "piecewise", "identity"]
Shortcut = Literal["8,16,16", "16,16,8"]

SHORT_RUN = 12
"""The step count whose steps are not evenly spaced: three to a quarter, of lengths 2 + 1 + 1 or 1 + 1 + 2."""


def time_table(
    steps: int, curve: Curve = "sd3", shift: float = 3.0, shortcut: Shortcut = "8,16,16"
) -> tuple[float, ...]:
    """``steps + 1`` rising times as float32 values, 0 first.

    ``sd3`` squares the even grid u and bends it: u / s / (1 + (1 / s - 1) u). Computed in float32: thresholds such as
    0.3 are compared with exactly these values (with 3/4 of the steps done the time is 0.30000001).
    """
    grid = _grid(steps, shortcut)
    if curve in ("sd3", "square"):
        grid = grid**2
    if curve == "sd3":
        inverse = 1.0 / shift
        grid = inverse * grid / (1 + (inverse - 1) * grid)
    elif curve == "piecewise":
        steep = 0.5 + (grid - 0.875) * (0.5 / (1 - 0.875))
        grid = torch.where(grid < 0.875, grid * (0.5 / 0.875), steep)
    return tuple(grid.tolist())


def _grid(steps: int, shortcut: Shortcut) -> Tensor:
    if steps != SHORT_RUN:
        return torch.linspace(0, 1, steps + 1)
    sixteenths = (0.0, 1.0, 2.0) if shortcut == "16,16,8" else (0.0, 2.0, 3.0)
    quarters = torch.linspace(0, 1, 5).unsqueeze(1)
    return (quarters + torch.tensor(sixteenths) / 16).flatten()[: steps + 1]


def as_float32(t: float) -> float:
    """A time as the float32 value that the network is given."""
    return float(torch.tensor(t, dtype=torch.float32))


def intervals(steps: int, shortcut: Shortcut = "8,16,16") -> tuple[float, ...]:
    """Relative length of every step of a stage, as a distilled model is told it; 1 unless 3 divides the steps."""
    if steps % 3:
        return (1.0,) * steps
    pattern = (1.0, 1.0, 2.0) if shortcut == "16,16,8" else (2.0, 1.0, 1.0)
    return pattern * (steps // 3)


def stride_of(steps: int, interval: float) -> float:
    """What the network of a distilled model is told about the length of its steps."""
    return 8.0 / interval if steps == SHORT_RUN else steps / 2.0


@dataclass(frozen=True)
class Stage:
    """A stretch of the run in which the same chunks are active.

    Args:
        first, stop: active chunks.
        oldest, youngest: how many stages the first and the last active chunk have behind them.
    """

    first: int
    stop: int
    oldest: int
    youngest: int

    def step_of(self, chunk: int, inner: int, steps_per_stage: int) -> int:
        """Steps that an active chunk has behind it at the stage's step ``inner``."""
        return (self.oldest - (chunk - self.first)) * steps_per_stage + inner


def stages(chunks: int, window: int, ready: int) -> list[Stage]:
    """Stages of a run over ``chunks`` chunks of which the leading ``ready`` ones are given.

    A chunk enters every stage; once ``window`` of them are active the oldest one leaves, clean.
    """
    return [
        Stage(
            first=max(ready, newest - window + 1),
            stop=min(chunks, newest + 1),
            oldest=min(window, newest - ready + 1) - 1,
            youngest=max(0, newest - chunks + 1),
        )
        for newest in range(ready, chunks + window - 1)
    ]


EVERYTHING = -1
"""Chunks in sight: all."""

_PREFIX_DEFAULT = 8


def chunks_in_sight(step: int, steps: int, by_noise: Sequence[int]) -> int:
    """How many chunks, itself included, a chunk attends to before its step ``step``.

    ``by_noise`` divides the steps into equal parts, noisiest first; empty: everything.
    """
    return by_noise[step // (steps // len(by_noise))] if by_noise else EVERYTHING


def clean_chunks_in_sight(clean: int, by_noise: Sequence[int]) -> int:
    """The same for a finished chunk that is passed once more; ``clean`` -1: as many as in the last steps."""
    if not by_noise:
        return EVERYTHING
    return by_noise[-1] if clean == EVERYTHING else clean


def given_chunks_in_sight(clean: int, by_noise: Sequence[int]) -> int:
    """The same for a given chunk at the start of the video."""
    if clean != EVERYTHING:
        return clean
    return by_noise[-1] if by_noise else _PREFIX_DEFAULT


def sight(chunk: int, in_sight: int) -> tuple[int, int]:
    """First and one past the last chunk that ``chunk`` attends to."""
    return (0 if in_sight == EVERYTHING else max(0, chunk + 1 - in_sight)), chunk + 1
