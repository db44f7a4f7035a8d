"""Distances: how much a chunk's input changed since its last step, as plain numbers.

The relative L1 change and its polynomial are TeaCache's (arXiv 2411.19108); MotionCache (arXiv 2605.01725) keeps them.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import torch
from torch import Tensor

EPSILON = 1e-8


def relative_l1(now: Tensor, before: Tensor) -> float:
    """Mean absolute change over mean absolute value before, over all entries.

    A device synchronisation: the decision that follows is taken on the host.
    """
    return float((now - before).abs().mean() / (before.abs().mean() + EPSILON))


def relative_l1_per_token(now: Tensor, before: Tensor) -> Tensor:
    """The same for every token: ``[B, S, L, C]`` -> ``[L]``, means over samples, slots and channels."""
    change = (now - before).abs().mean(dim=(0, 1, 3))
    return change / (before.abs().mean(dim=(0, 1, 3)) + EPSILON)


def polynomial(relative: float | Tensor, coefficients: Sequence[float], *, clamp: bool = True) -> float | Tensor:
    """Horner's rule, highest power first; clamped at 0 unless told (an accumulator must not fall)."""
    value = coefficients[0] if isinstance(relative, float) else torch.full_like(relative, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * relative + coefficient
    if not clamp:
        return value
    return max(value, 0.0) if isinstance(value, float) else value.clamp_min(0.0)


def table_distance(table: Sequence[tuple[float, float]], timestep_before: float, timestep: float) -> float:
    """Difference of a table's interpolated accumulated distance between two timesteps, never negative.

    ``table`` holds (timestep, accumulated distance) pairs in any order; outside its range the end value holds.
    """
    points = sorted(table)
    return abs(_interpolate(points, timestep) - _interpolate(points, timestep_before))


def _interpolate(points: Sequence[tuple[float, float]], at: float) -> float:
    place = bisect.bisect_left(points, (at,))
    if place == 0:
        return points[0][1]
    if place == len(points):
        return points[-1][1]
    (x0, y0), (x1, y1) = points[place - 1], points[place]
    return y0 + (y1 - y0) * (at - x0) / (x1 - x0)
