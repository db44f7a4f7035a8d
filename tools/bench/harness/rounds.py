"""Alternating rounds: every variant once a round, the order turned round each time, ratios within a round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of some measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


def order(names: Sequence[str], round_index: int) -> list[str]:
    """Forwards in even rounds, backwards in odd ones: a slow drift of the machine falls on both sides of a pair."""
    return list(names) if round_index % 2 == 0 else list(reversed(names))


def alternate(
    names: Sequence[str], rounds: int, measure: Callable[[str, int], float]
) -> Iterator[dict[str, list[float]]]:
    """Seconds of every variant in every round so far, after each round.

    Args:
        measure: (variant, round) -> seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds):
        for name in order(names, index):
            seconds[name].append(measure(name, index))
        yield seconds


def speed_up(seconds: Sequence[float], baseline: Sequence[float]) -> Spread:
    """How many times faster than the baseline, round by round."""
    return Spread.of([base / own for own, base in zip(seconds, baseline, strict=True)])
