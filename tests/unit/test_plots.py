"""Plots: colours and shapes where the data say, gaps, rings, labels that do not cover each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from motioncache_core import plots
from motioncache_core.drawing import COLOURS, MARKERS, Canvas, style
from motioncache_core.plots import Point, line_plot, pareto_optimal, pareto_plot

WORDS = {"title": "A title", "x_label": "seconds", "y_label": "PSNR, dB"}


def columns(picture: np.ndarray, colour: Sequence[int]) -> np.ndarray:
    """Columns that hold the colour, below the legend."""
    return np.flatnonzero((picture[80:] == colour).all(axis=-1).any(axis=0))


def rows(picture: np.ndarray, colour: Sequence[int]) -> np.ndarray:
    return np.flatnonzero((picture[80:] == colour).all(axis=-1).any(axis=1))


def test_a_line_follows_its_values():
    rising = line_plot({"": [(i, i * 2.0) for i in range(50)]}, **WORDS)
    assert rising.shape == (600, 960, 3) and rising.dtype == np.uint8
    blue = (rising == COLOURS[0]).all(axis=-1)
    left, right = columns(rising, COLOURS[0])[[0, -1]]
    assert blue[:, left + 5].nonzero()[0].mean() > blue[:, right - 5].nonzero()[0].mean() + 300, "up is less"


def test_values_that_are_not_finite_leave_a_gap():
    whole = [(float(i), 1.0 + 0.1 * (i % 2)) for i in range(40)]
    holed = [(x, math.nan if 15 <= x <= 25 else y) for x, y in whole]
    gaps = [np.diff(columns(line_plot({"": v}, **WORDS), COLOURS[0])).max() for v in (whole, holed)]
    assert gaps[0] <= 2 and gaps[1] > 100
    with pytest.raises(ValueError, match="nothing to draw"):
        line_plot({"": [(0.0, math.nan)]}, **WORDS)


def test_the_highlight_is_an_upright_line_at_its_place():
    values = {"": [(float(i), 1.0) for i in range(11)]}
    plain, marked = line_plot(values, **WORDS), line_plot(values, **WORDS, highlight=7.0)
    changed = np.flatnonzero((plain != marked).any(axis=(0, 2)))
    left, right = columns(plain, COLOURS[0])[[0, -1]]
    assert changed.max() - changed.min() <= 3
    assert changed.mean() == pytest.approx(left + 0.7 * (right - left), abs=4)


def test_one_line_needs_no_legend_and_two_have_one():
    one = line_plot({"a": [(0, 0), (1, 1)]}, **WORDS)
    two = line_plot({"a": [(0, 0), (1, 1)], "b": [(0, 1), (1, 0)]}, **WORDS)
    assert not (one[38:62] == COLOURS[0]).all(axis=-1).any()
    assert (two[38:62] == COLOURS[0]).all(axis=-1).any() and (two[38:62] == COLOURS[1]).all(axis=-1).any()


def test_a_long_legend_is_wrapped_and_leaves_the_points_in_sight():
    names = [f"a rather long name of a series, number {number}" for number in range(9)]
    picture = pareto_plot({name: [(i, i, "")] for i, name in enumerate(names)}, **WORDS)
    for number in range(len(names)):
        assert len(columns(picture, style(number)[0]))


def test_styles_differ_in_colour_and_shape():
    assert len({style(number) for number in range(49)}) == 49
    assert len({style(number)[0] for number in range(7)}) == len({style(number)[1] for number in range(7)}) == 7


def test_markers_differ_without_their_colours():
    drawn = []
    for kind in MARKERS:
        canvas = Canvas(30, 30)
        canvas.marker((15, 15), kind, (0, 0, 0), radius=8)
        drawn.append(canvas.finish().astype(float))
    for i, one in enumerate(drawn):
        assert all(np.abs(one - other).mean() > 4 for other in drawn[i + 1 :]), list(MARKERS)[i]


@pytest.mark.parametrize("better", ["low", "high"])
def test_pareto_optimal_points_are_those_that_none_beats(better: str):
    sign = 1 if better == "low" else -1
    points = [(1.0, 10.0), (2.0, 20.0), (3.0, 15.0), (2.0, 19.0), (1.5, 10.0), (2.0, 20.0), (4.0, 21.0)]
    expected = [True, True, False, False, False, True, True]
    assert pareto_optimal([(sign * x, y) for x, y in points], better) == expected
    assert pareto_optimal([]) == []


def rings(monkeypatch: pytest.MonkeyPatch, **arguments) -> list[tuple[float, float]]:
    """Where a plot's rings lie, beside the legend's."""
    found = []
    draw = Canvas.ring

    def ring(self: Canvas, spot: tuple[float, float], radius: float) -> None:
        found.append((spot, radius))
        draw(self, spot, radius)

    monkeypatch.setattr(Canvas, "ring", ring)
    pareto_plot(**arguments, **WORDS)
    return [spot for spot, radius in found if radius == plots.RING]


def test_the_best_points_are_ringed_over_all_series(monkeypatch: pytest.MonkeyPatch):
    series = {"a": [(1.0, 30.0, ""), (3.0, 35.0, "")], "b": [(2.0, 29.0, ""), (4.0, 36.0, "")]}
    places = rings(monkeypatch, series=series)
    assert len(places) == 3
    assert places == sorted(places, key=lambda spot: -spot[1]), "from the cheapest and worst to the best"
    assert len(rings(monkeypatch, series=series, better="high")) == 1


def test_a_series_is_joined_from_left_to_right_in_any_order():
    points = [(1.0, 30.0, ""), (2.0, 33.0, ""), (3.0, 34.0, "")]
    one, other = (pareto_plot({"a": values}, **WORDS) for values in (points, points[::-1]))
    assert np.array_equal(one, other)


def test_error_bars_reach_their_ends():
    barred = pareto_plot({"a": [Point(1, 30, low=25, high=32), Point(2, 35)]}, **WORDS)
    left = columns(barred, COLOURS[0])[0]
    bar = np.flatnonzero((barred[80:, left + 5] == COLOURS[0]).all(axis=-1))
    assert np.ptp(bar) == pytest.approx(0.7 * np.ptp(rows(barred, COLOURS[0])), rel=0.05), "25 to 32 of 25 to 35"


def test_a_reference_is_drawn_alone_and_beside_points():
    alone = pareto_plot({}, references={"without cache": 12.0}, **WORDS)
    assert len(np.unique(alone.reshape(-1, 3), axis=0)) > 10
    near, far = (pareto_plot({"a": [(1, 30, "x")]}, references={"r": x}, **WORDS) for x in (2.0, 100.0))
    assert columns(far, COLOURS[0]).mean() <= columns(near, COLOURS[0]).mean()
    with pytest.raises(ValueError, match="nothing to draw"):
        pareto_plot({}, **WORDS)
    with pytest.raises(ValueError, match="logarithmic"):
        pareto_plot({"a": [(0.0, 1.0, "")]}, log_x=True, **WORDS)


def test_names_of_references_at_the_same_place_do_not_cover_each_other(monkeypatch: pytest.MonkeyPatch):
    spots = {}
    monkeypatch.setattr(Canvas, "text", lambda self, spot, text, *more, **named: spots.update({text: spot}))
    pareto_plot({"a": [(1, 30, "")]}, references={"vanilla": 2.0, "chunk-wise": 2.0}, **WORDS)
    assert abs(spots["vanilla"][1] - spots["chunk-wise"][1]) >= 14


def test_labels_keep_off_each_other_and_stay_inside(monkeypatch: pytest.MonkeyPatch):
    found = []
    write = Canvas.text
    monkeypatch.setattr(Canvas, "text", lambda self, *a, **k: (found.append((a, k)), write(self, *a, **k)))
    labels = [f"threshold {number}" for number in range(6)]
    pareto_plot({"a": [(1 + 0.002 * i, 30 + 0.01 * i, label) for i, label in enumerate(labels)]}, **WORDS)
    spots = {a[1]: a[0] for a, _ in found}
    boxes = [(x, y - 7, x + plots.text_width(label, 13), y + 7) for label in labels for x, y in [spots[label]]]
    assert all(plots._overlap(a, b) == 0 for i, a in enumerate(boxes) for b in boxes[i + 1 :])
    assert all(box[0] >= 50 and box[2] <= 960 - 24 and box[1] > 40 and box[3] < 600 - 62 for box in boxes)


def test_words_of_a_user_may_have_line_ends_and_any_letters():
    picture = pareto_plot({"a\nb": [(1, 2, "two\nlines"), (2, 3, "雪 → é")]}, title="", x_label="\n", y_label=" ")
    assert picture.shape == (600, 960, 3)
