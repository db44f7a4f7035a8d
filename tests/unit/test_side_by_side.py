"""Pictures in a row keep their pixels; the heat map rises in brightness."""

from __future__ import annotations

import numpy as np
import pytest

from motioncache_core.side_by_side import GAP, HEADER, heat, side_by_side


def picture(seed: int, height: int = 40, width: int = 300) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_pictures_are_kept_pixel_by_pixel_below_their_words():
    one, two = picture(0), picture(1)
    row = side_by_side([("one", one), ("two", two)])
    assert row.shape == (40 + HEADER, 2 * 300 + GAP, 3)
    assert np.array_equal(row[HEADER:, :300], one) and np.array_equal(row[HEADER:, 300 + GAP :], two)
    assert (row[HEADER:, 300 : 300 + GAP] == 255).all()
    for left in (0, 300 + GAP):
        assert row[:HEADER, left : left + 60].min() < 60, "words"


def test_small_pictures_are_enlarged_in_whole_pixels_until_the_words_fit():
    small = picture(2, 8, 16)
    row = side_by_side([("words of some length", small)])
    factor = row.shape[1] // 16
    assert factor > 5 and row.shape == (8 * factor + HEADER, 16 * factor, 3)
    assert np.array_equal(row[HEADER::factor, ::factor], small)
    assert row[:HEADER, -2:].min() == 255, "the last letter is not cut off"


def test_pictures_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="one size"):
        side_by_side([("a", picture(0)), ("b", picture(0)[:, 1:])])
    with pytest.raises(ValueError, match="one size"):
        side_by_side([])


def test_heat_is_lighter_for_more_and_clips_the_rest():
    colours = heat(np.linspace(0, 1, 101)[None])[0].astype(float)
    brightness = colours @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(brightness) > 0).all()
    assert brightness[0] < 5 and brightness[-1] > 230
    assert np.array_equal(heat(np.array([[-1.0, 2.0]])), heat(np.array([[0.0, 1.0]])))
