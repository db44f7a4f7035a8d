"""Pictures beside each other with words above, and differences as a heat map."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .drawing import Canvas, text_width

HEAT = ((0, 0, 4), (63, 15, 114), (150, 40, 110), (221, 81, 58), (252, 165, 10), (252, 255, 200))
"""From no difference to the largest: every step is lighter, so that it reads without colours too."""
HEADER, GAP, TEXT = 30, 8, 15


def heat(values: np.ndarray) -> np.ndarray:
    """``[H, W]`` of 0..1 (others are clipped) -> ``[H, W, 3]`` uint8: black, purple, orange, pale yellow."""
    places = np.linspace(0.0, 1.0, len(HEAT))
    colours = np.array(HEAT, dtype=np.float64)
    planes = [np.interp(values, places, colours[:, channel]) for channel in range(3)]
    return np.stack(planes, axis=-1).round().astype(np.uint8)


def side_by_side(pictures: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """Pictures of one size in a row, each below its words; small ones are enlarged until the words fit.

    Args:
        pictures: (words, ``[H, W, 3]`` uint8).

    Returns:
        ``[height, width, 3]`` uint8 on white.

    Raises:
        ValueError: if there is none, or their sizes differ.
    """
    sizes = {picture.shape for _, picture in pictures}
    if len(sizes) != 1:
        raise ValueError(f"pictures of one size go side by side, got {sorted(sizes)}")
    height, width, _ = sizes.pop()
    needed = max(text_width(words, TEXT) for words, _ in pictures)
    factor = max(1, math.ceil(needed / width))
    height, width = height * factor, width * factor
    canvas = Canvas(len(pictures) * (width + GAP) - GAP, HEADER + height)
    for number, (words, _) in enumerate(pictures):
        canvas.text((number * (width + GAP), HEADER / 2), words, TEXT, anchor="lm")
    row = canvas.finish()
    for number, (_, picture) in enumerate(pictures):
        left = number * (width + GAP)
        row[HEADER:, left : left + width] = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    return row
