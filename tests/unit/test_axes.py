"""Axes: values keep their place and order, ticks are round, few, inside, and named so that they differ."""

from __future__ import annotations

import pytest

from motioncache_core.axes import Axis

RANGES = [(0.2, 1.0), (31.2, 31.9), (0.98, 0.9991), (-3.0, 4.0), (12.0, 123456.0), (1e-7, 3e-6), (1e8, 9e8), (5.0, 5.0)]
KINDS = [(ends, log) for ends in RANGES for log in (False, True) if ends[0] > 0 or not log]


@pytest.mark.parametrize(("ends", "log"), KINDS)
def test_values_lie_inside_in_their_order(ends: tuple[float, float], log: bool):
    axis = Axis.around(ends, 600, 40, log)
    low, high = axis.place(ends[0]), axis.place(ends[1])
    assert 600 > low >= high > 40
    assert axis.place(axis.low) == pytest.approx(600) and axis.place(axis.high) == pytest.approx(40)
    if ends[0] == ends[1]:
        assert low == pytest.approx(320), "in the middle"


@pytest.mark.parametrize(("ends", "log"), KINDS)
@pytest.mark.parametrize("at_most", [4, 11])
def test_ticks_are_inside_few_and_told_apart(ends: tuple[float, float], log: bool, at_most: int):
    axis = Axis.around(ends, 0, 500, log)
    ticks = axis.ticks(at_most)
    values, names = [value for value, _ in ticks], [name for _, name in ticks]
    assert 2 <= len(ticks) <= at_most + 1
    assert values == sorted(values) and axis.low <= values[0] * (1 + 1e-9) and values[-1] <= axis.high * (1 + 1e-9)
    assert len(set(names)) == len(names)
    assert [float(name) for name in names] == pytest.approx(values, rel=1e-9, abs=1e-12)


def test_names_have_as_many_digits_as_the_step():
    assert [name for _, name in Axis(0.0, 1.0, 0, 100).ticks(5)] == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert [name for _, name in Axis(-1.0, 1.0, 0, 100).ticks(2)] == ["-1", "0", "1"]
    assert [name for _, name in Axis(1.0, 1000.0, 0, 100, log=True).ticks(4)] == ["1", "10", "100", "1000"]


def test_a_logarithmic_axis_gives_doublings_equal_room():
    axis = Axis.around([1.0, 8.0], 0, 300, log=True)
    places = [axis.place(value) for value in (1, 2, 4, 8)]
    steps = [b - a for a, b in zip(places, places[1:], strict=False)]
    assert steps == pytest.approx([steps[0]] * 3)


def test_what_has_no_place_is_refused():
    with pytest.raises(ValueError, match="nothing to draw"):
        Axis.around([], 0, 1)
    with pytest.raises(ValueError, match="only finite"):
        Axis.around([1.0, float("inf")], 0, 1)
    with pytest.raises(ValueError, match="no place for -2"):
        Axis.around([1.0, -2.0], 0, 1, log=True)
