"""Line plots and Pareto plots as RGB pictures, drawn with Pillow alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from .axes import Axis
from .drawing import BLACK, GREY, LIGHT, Canvas, Colour, Spot, style, text_width

SIZE = (960, 600)
LETTERS = 13
"""Pixels of the names of ticks, the smallest letters."""
MARKS_ON_A_LINE = 12
RING = 9.5
NARROWEST_TICKS = 40.0
"""Pixels for the names of ticks, so that plots below each other begin at the same place."""
Better = Literal["low", "high"]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""


class Point(NamedTuple):
    """One run in a Pareto plot.

    Args:
        x: cost, or what else the x axis shows.
        y: quality; higher is better.
        label: written beside the point.
        low, high: ends of its error bar along y; both or neither.
    """

    x: float
    y: float
    label: str = ""
    low: float | None = None
    high: float | None = None


def line_plot(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    highlight: float | None = None,
    size: tuple[int, int] = SIZE,
    scale: int = 1,
    letters: int = LETTERS,
) -> np.ndarray:
    """Lines through (x, y) values; where y is not finite a line has a gap.

    Args:
        series: name -> values, each by rising x. The name is in the legend if there is more than one.
        title, x_label, y_label: what is written.
        highlight: x of a dashed line from bottom to top.
        size: width and height in pixels of the letters' scale: a smaller size has larger letters in it.
        scale: the picture is so many times as large.
        letters: height of the smallest letters in that scale.

    Returns:
        ``[height * scale, width * scale, 3]`` uint8.

    Raises:
        ValueError: if there is no finite value.
    """
    finite = [value for values in series.values() for value in values if math.isfinite(value[1])]
    styles = {name: style(number) for number, name in enumerate(series)}
    xs, ys = [x for x, _ in finite], [y for _, y in finite]
    legend = styles if len(styles) > 1 else {}
    figure = _Figure(size, title, x_label, y_label, xs, ys, legend, scale=scale, letters=letters)
    if highlight is not None:
        figure.upright_line(highlight, GREY)
    for name, values in series.items():
        colour, kind = styles[name]
        for stretch in _stretches(values):
            spots = [figure.spot(x, y) for x, y in stretch]
            if len(spots) > 1:
                figure.canvas.line(spots, colour, 2.0)
            every = max(1, math.ceil(len(values) / MARKS_ON_A_LINE))
            for spot in spots[::every]:
                figure.canvas.marker(spot, kind, colour, 3.5)
    return figure.canvas.finish()


def pareto_plot(
    series: Mapping[str, Sequence[Point | tuple[float, float, str]]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    better: Better = "low",
    references: Mapping[str, float] | None = None,
    size: tuple[int, int] = SIZE,
    scale: int = 1,
) -> np.ndarray:
    """Quality over cost: every series its own colour and marker, joined from left to right, the best points ringed.

    Args:
        series: name -> points, as :class:`Point` or plain (x, y, label).
        title, x_label, y_label: what is written.
        log_x: logarithmic x axis.
        better: which end of the x axis is the better one. Of y it is the upper.
        references: name -> x of a dashed line from bottom to top, for runs without a quality of their own.
        size, scale: as in :func:`line_plot`.

    Returns:
        ``[height * scale, width * scale, 3]`` uint8.

    Raises:
        ValueError: if there is neither point nor reference, a value is not finite, or (``log_x``) not positive.
    """
    references = references or {}
    runs = {name: [Point(*values) for values in points] for name, points in series.items()}
    points = [point for values in runs.values() for point in values]
    styles = {name: style(number) for number, name in enumerate(runs)}
    ys = [y for point in points for y in (point.y, point.low, point.high) if y is not None]
    xs = [point.x for point in points] + list(references.values())
    figure = _Figure(size, title, x_label, y_label, xs, ys, styles, log_x, bool(points), scale)
    for x in references.values():
        figure.upright_line(x, GREY)
    for name, values in runs.items():
        spots = [figure.spot(point.x, point.y) for point in sorted(values, key=lambda p: p[:2])]
        if len(spots) > 1:
            figure.canvas.line(spots, styles[name][0], 1.6)
    for name, values in runs.items():
        for point in values:
            figure.error_bar(point, styles[name][0])
            figure.canvas.marker(figure.spot(point.x, point.y), styles[name][1], styles[name][0])
    best = pareto_optimal([(point.x, point.y) for point in points], better)
    for point, is_best in zip(points, best, strict=True):
        if is_best:
            figure.canvas.ring(figure.spot(point.x, point.y), RING)
    figure.write_labels([(figure.spot(point.x, point.y), point.label) for point in points])
    for row, (name, x) in enumerate(references.items()):
        figure.write_reference(name, x, row)
    return figure.canvas.finish()


def pareto_optimal(points: Sequence[tuple[float, float]], better: Better = "low") -> list[bool]:
    """Which (x, y) points no other beats: none is at least as good in both and better in one.

    A higher y is better; of x the lower or the higher, as ``better`` says. Equal points are judged alike.
    """
    sign = 1.0 if better == "low" else -1.0
    costs = [(sign * x, y) for x, y in points]
    return [not any(x <= a and y >= b and (x, y) != (a, b) for x, y in costs) for a, b in costs]


@dataclass
class _Legend:
    """Rows of (name, style) that fit beside each other; ``None`` for a style is the ring."""

    rows: list[list[tuple[str, tuple[Colour, str] | None, float]]]
    size: int
    height: int = 24

    @classmethod
    def of(cls, entries: Mapping[str, tuple[Colour, str] | None], width: float, size: int) -> _Legend:
        rows: list[list[tuple[str, tuple[Colour, str] | None, float]]] = []
        right = width + 1.0
        for name, look in entries.items():
            needed = 44 + text_width(name, size)
            if right + needed > width:
                rows.append([])
                right = 0.0
            rows[-1].append((name, look, right))
            right += needed
        return cls(rows, size)

    def draw(self, canvas: Canvas, left: float, top: float) -> None:
        for number, row in enumerate(self.rows):
            y = top + number * self.height + self.height / 2
            for name, look, x in row:
                middle = (left + x + 12, y)
                if look is None:
                    canvas.ring(middle, RING - 2)
                else:
                    canvas.line([(middle[0] - 12, y), (middle[0] + 12, y)], look[0], 2.0)
                    canvas.marker(middle, look[1], look[0], 4.5)
                canvas.text((left + x + 29, y), name, self.size, anchor="lm")


class _Figure:
    """Title, legend and two axes with ticks, and where values lie between them."""

    def __init__(
        self,
        size: tuple[int, int],
        title: str,
        x_label: str,
        y_label: str,
        xs: Sequence[float],
        ys: Sequence[float],
        styles: Mapping[str, tuple[Colour, str]],
        log_x: bool = False,
        ringed: bool = False,
        scale: int = 1,
        letters: int = LETTERS,
    ):
        self.canvas, self.letters = Canvas(*size, scale), letters
        width, height = size
        legend = _Legend.of({**styles, **({"Pareto-optimal": None} if ringed else {})}, width - 120, letters + 1)
        top, bottom = 44 + len(legend.rows) * legend.height, height - 62
        self.y = Axis.around(ys or [0.0, 1.0], bottom, top)
        ticks = self.y.ticks(max(2, (bottom - top) // 50)) if ys else []
        left = 52 + max(NARROWEST_TICKS, *(text_width(name, letters) for _, name in ticks), 0.0)
        self.x = Axis.around(xs, left, width - 24, log_x)
        self.box: Box = (left, top, width - 24, bottom)
        self._draw_axes(title, x_label, y_label, ticks)
        legend.draw(self.canvas, left, 38)

    def spot(self, x: float, y: float) -> Spot:
        """Where a value lies."""
        return self.x.place(x), self.y.place(y)

    def upright_line(self, x: float, colour: Colour) -> None:
        place = self.x.place(x)
        self.canvas.line([(place, self.box[1]), (place, self.box[3])], colour, 1.4, dashed=True)

    def error_bar(self, point: Point, colour: Colour) -> None:
        if point.low is None or point.high is None:
            return
        x, low = self.spot(point.x, point.low)
        high = self.y.place(point.high)
        self.canvas.line([(x, low), (x, high)], colour, 1.4)
        for end in (low, high):
            self.canvas.line([(x - 5, end), (x + 5, end)], colour, 1.4)

    def write_reference(self, name: str, x: float, row: int) -> None:
        """The name near the lower end of its line, on the side with room, in a row of its own."""
        place = self.x.place(x)
        right = place + 6 + text_width(name, 13) < self.box[2]
        self.canvas.text(
            (place + (6 if right else -6), self.box[3] - 8 - 17 * row), name, 13, GREY, "ls" if right else "rs"
        )

    def write_labels(self, labels: Sequence[tuple[Spot, str]]) -> None:
        """Each beside its point, where it covers the fewest other labels and points."""
        taken: list[Box] = [(x - 7, y - 7, x + 7, y + 7) for (x, y), _ in labels]
        for (x, y), label in labels:
            if label:
                width, height = text_width(label, 13), 15
                places = [
                    (x + dx * (12 + width / 2) - width / 2, y + dy - height / 2)
                    for dx, dy in ((1, -14), (-1, -14), (1, 14), (-1, 14), (1, 0), (-1, 0), (0, -20), (0, 20))
                ]
                boxes: list[Box] = [(left, top, left + width, top + height) for left, top in places]
                best = min(boxes, key=lambda box: sum(_overlap(box, t) for t in taken) + 2 * _outside(box, self.box))
                taken.append(best)
                self.canvas.text((best[0], (best[1] + best[3]) / 2), label, 13, BLACK, "lm")

    def _draw_axes(self, title: str, x_label: str, y_label: str, y_ticks: Sequence[tuple[float, str]]) -> None:
        left, top, right, bottom = self.box
        for value, name in y_ticks:
            y = self.y.place(value)
            self.canvas.line([(left, y), (right, y)], LIGHT)
            self.canvas.line([(left - 5, y), (left, y)], BLACK)
            self.canvas.text((left - 9, y), name, self.letters, anchor="rm")
        for value, name in self.x.ticks(max(2, int(right - left) // 80)):
            x = self.x.place(value)
            self.canvas.line([(x, top), (x, bottom)], LIGHT)
            self.canvas.line([(x, bottom), (x, bottom + 5)], BLACK)
            self.canvas.text((x, bottom + 9), name, self.letters, anchor="ma")
        self.canvas.line([(left, top), (left, bottom), (right, bottom)], BLACK, 1.2)
        label = self.letters + 2
        self.canvas.text((left, 10), title, self.letters + 5)
        self.canvas.text(((left + right) / 2, self.canvas.height - 10), x_label, label, anchor="md")
        self.canvas.text((18, (top + bottom) / 2), y_label, label, upright=True)


def _stretches(values: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """The values between gaps."""
    found: list[list[tuple[float, float]]] = [[]]
    for x, y in values:
        if math.isfinite(y):
            found[-1].append((x, y))
        elif found[-1]:
            found.append([])
    return [stretch for stretch in found if stretch]


def _overlap(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def _outside(box: Box, frame: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, frame)
