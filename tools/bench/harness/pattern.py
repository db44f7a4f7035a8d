"""Fixed patterns of full, partial and reused steps with a wanted computed fraction, and a region that moves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from motioncache_core.events import Decision, Outcome

PARTIAL = (0.25, 0.75)
"""Share of a chunk's tokens that a partial step may compute."""


@dataclass(frozen=True)
class Pattern:
    """What every chunk does in its steps.

    Args:
        outcomes: one a step; the first is full.
        share: of the tokens that a partial step computes.
    """

    outcomes: tuple[Outcome, ...]
    share: float

    @property
    def fraction(self) -> float:
        """Computed fraction, but for rounding to whole tokens."""
        return (self.outcomes.count("full") + self.share * self.outcomes.count("partial")) / len(self.outcomes)


def make_pattern(fraction: float, steps: int) -> Pattern:
    """A pattern with all three outcomes in it, spread evenly over the steps.

    Raises:
        ValueError: so few steps, or such a fraction, leave no room for all three.
    """
    if steps < 3:
        raise ValueError(f"steps is {steps}; full, partial and reused steps need at least 3 (nearest: 3)")
    counts = [(full, part) for full, part in product(range(1, steps - 1), repeat=2) if full + part < steps]
    low, high = PARTIAL
    fits = [(full, part) for full, part in counts if low <= _share(fraction, steps, full, part) <= high]
    if not fits:
        reach = [(full + share * part) / steps for full, part in counts for share in PARTIAL]
        nearest = min(max(fraction, min(reach)), max(reach))
        raise ValueError(
            f"computed fraction is {fraction}; {steps} steps with full, partial and reused ones among them reach "
            f"{min(reach):.3g} to {max(reach):.3g} (nearest: {nearest:.3g})"
        )

    def oddness(counts: tuple[int, int]) -> tuple[float, float]:
        return round(abs(_share(fraction, steps, *counts) - 0.5), 6), abs(counts[1] - steps / 2)

    full, part = min(fits, key=oddness)
    return Pattern(("full", *_spread(full - 1, part, steps - full - part)), _share(fraction, steps, full, part))


def chunk_pattern(fraction: float, steps: int) -> Pattern:
    """A pattern of full and reused steps only, the nearest to a computed fraction with both in it.

    Raises:
        ValueError: fewer than 2 steps.
    """
    if steps < 2:
        raise ValueError(f"steps is {steps}; full and reused steps need at least 2 (nearest: 2)")
    full = min(max(round(fraction * steps), 1), steps - 1)
    return Pattern(("full", *_spread(full - 1, 0, steps - full)), 1.0)


def replay(
    decision: Decision, pattern: Pattern, frames: int, grid: tuple[int, int], branch: int, device: torch.device
) -> None:
    """Put the pattern's answer in place of the policy's.

    Args:
        frames: latent frames of the chunk.
        grid: token rows and columns of a latent frame.
        branch: moves the region a little.
    """
    outcome = pattern.outcomes[decision.step]
    decision.mask, decision.computed, decision.waited = None, decision.total if outcome == "full" else 0, False
    if outcome == "partial":
        mask = moving_region(frames, *grid, pattern.share, decision.step, decision.chunk, branch)
        decision.mask, decision.computed = mask.to(device), int(mask.sum())


def _share(fraction: float, steps: int, full: int, part: int) -> float:
    return (fraction * steps - full) / part


def _spread(full: int, part: int, reused: int) -> list[Outcome]:
    places = [((i + 0.5) / full, "full") for i in range(full)]
    places += [((i + 0.5) / part, "partial") for i in range(part)]
    places += [((i + 0.5) / reused, "reused") for i in range(reused)]
    return [outcome for _, outcome in sorted(places)]


@lru_cache(maxsize=4096)
def moving_region(frames: int, rows: int, columns: int, share: float, step: int, chunk: int, branch: int) -> Tensor:
    """``[frames * rows * columns]`` bool, frame-major: in every frame the tokens nearest to a centre that moves.

    The centre moves on from frame to frame, step to step and chunk to chunk, is a little elsewhere for every branch,
    and leaves the picture on one side to come back on the other. Every frame has the same number of tokens.
    """
    count = min(max(round(share * rows * columns), 1), rows * columns - 1)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    mask = torch.zeros(frames, rows * columns, dtype=torch.bool)
    for frame in range(frames):
        time = frame + frames * chunk
        centre_y = (0.3 + 0.05 * time + 0.03 * step + 0.02 * branch) * rows
        centre_x = (0.2 + 0.08 * time + 0.05 * step + 0.03 * branch) * columns
        distance = _around(y - centre_y, rows) ** 2 + _around(x - centre_x, columns) ** 2
        mask[frame, torch.argsort(distance.flatten(), stable=True)[:count]] = True
    return mask.flatten()


def _around(offset: Tensor, size: int) -> Tensor:
    return (offset + size / 2) % size - size / 2
