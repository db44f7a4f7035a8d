"""One axis of a plot: from values to pixels, and round numbers along it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

ROOM = 0.06
"""Share of the axis that stays free at either end."""


@dataclass(frozen=True)
class Axis:
    """Values ``low``..``high`` lie at the pixels ``start``..``stop``, evenly or by their logarithm."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    @classmethod
    def around(cls, values: Sequence[float], start: float, stop: float, log: bool = False) -> Axis:
        """With all values inside and some room; equal values come to lie in the middle.

        Raises:
            ValueError: if there is no value, one is not finite, or one of a logarithmic axis is not positive.
        """
        if not values:
            raise ValueError("there is nothing to draw: no values")
        if not all(math.isfinite(value) for value in values):
            raise ValueError("only finite values can be drawn")
        if log and min(values) <= 0:
            raise ValueError(f"a logarithmic axis has no place for {min(values):g}; values must be above 0")
        low, high = _forth(min(values), log), _forth(max(values), log)
        room = (high - low) * ROOM
        if high - low <= 1e-9 * max(1.0, abs(low), abs(high)):
            room = 0.1 if log else max(abs(low) * 0.05, 1e-3)
        return cls(_back(low - room, log), _back(high + room, log), start, stop, log)

    def place(self, value: float) -> float:
        """Pixel of a value."""
        low, high = _forth(self.low, self.log), _forth(self.high, self.log)
        return self.start + (_forth(value, self.log) - low) / (high - low) * (self.stop - self.start)

    def ticks(self, at_most: int) -> list[tuple[float, str]]:
        """Round values on the axis, at most about that many, with their names."""
        values = _log_ticks(self.low, self.high, at_most) if self.log else []
        if len(values) >= (2 if self.high >= 10 * self.low else 3):
            return [(value, f"{value:.6g}") for value in values]
        step = _round_step((self.high - self.low) / max(1, at_most))
        while len(values := _multiples(step, self.low, self.high)) < 2:
            step = _round_step(step / 2.5)
        size = max(abs(self.low), abs(self.high))
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        if digits <= 6 and size < 1e7:
            return [(value, f"{round(value, digits) + 0.0:.{digits}f}") for value in values]  # + 0: no -0
        digits = math.ceil(math.log10(size / step)) + 1
        return [(value, f"{value:.{digits}g}") for value in values]


def _multiples(step: float, low: float, high: float) -> list[float]:
    return [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _round_step(step: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return power * next((factor for factor in (1, 2, 5) if factor * power >= step * (1 - 1e-9)), 10)


def _log_ticks(low: float, high: float, at_most: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1,)):
        values = [factor * 10.0**decade for decade in decades for factor in factors]
        values = [value for value in values if low <= value <= high]
        if len(values) <= at_most:
            return values
    return values[:: math.ceil(len(values) / at_most)]


def _forth(value: float, log: bool) -> float:
    return math.log10(value) if log else value


def _back(value: float, log: bool) -> float:
    return 10.0**value if log else value
