"""Drawing with Pillow alone: smooth lines and markers, crisp text in Pillow's own font, colours for every eye."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Spot = tuple[float, float]
"""Pixels from the left and from the top."""
Colour = tuple[int, int, int]

BLACK, GREY, LIGHT, WHITE = (0, 0, 0), (110, 110, 110), (224, 224, 224), (255, 255, 255)
COLOURS: tuple[Colour, ...] = (
    *((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167)),
    *((230, 159, 0), (86, 180, 233), (0, 0, 0)),
)
"""Okabe and Ito's palette, which colour-blind people can tell apart, without the yellow, which is faint on white."""
_UP = ((0.0, -1.15), (1.05, 0.8), (-1.05, 0.8))
MARKERS: dict[str, tuple[Spot, ...]] = {
    "circle": tuple((math.cos(turn * math.tau / 48), math.sin(turn * math.tau / 48)) for turn in range(48)),
    "square": ((-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)),
    "triangle": _UP,
    "diamond": ((0.0, -1.25), (1.25, 0.0), (0.0, 1.25), (-1.25, 0.0)),
    "triangle down": tuple((x, -y) for x, y in _UP),
    "star": tuple(
        (
            (1.35 if point % 2 == 0 else 0.55) * math.sin(point * math.pi / 5),
            -(1.35 if point % 2 == 0 else 0.55) * math.cos(point * math.pi / 5),
        )
        for point in range(10)
    ),
    "plus": tuple(
        (x * turn_x - y * turn_y, x * turn_y + y * turn_x)
        for turn_x, turn_y in ((1, 0), (0, 1), (-1, 0), (0, -1))
        for x, y in ((0.4, -0.4), (1.2, -0.4), (1.2, 0.4))
    ),
}
"""Outlines around (0, 0), of about radius 1."""
SCALE = 3


def style(number: int) -> tuple[Colour, str]:
    """Colour and marker of the series of that number; the first 49 pairs differ, the first 7 in both."""
    names = list(MARKERS)
    return COLOURS[number % len(COLOURS)], names[(number + number // len(COLOURS)) % len(names)]


def text_width(text: str, size: int) -> float:
    """Pixels that a line of text takes."""
    return _font(size).getlength(" ".join(text.split()))


class Canvas:
    """A white picture. Shapes are drawn three times as large and shrunk; text comes last, at its own size.

    Args:
        width, height: in the units that everything is drawn in.
        scale: pixels of the picture for a unit.
    """

    def __init__(self, width: int, height: int, scale: int = 1):
        self.width, self.height, self.scale = width, height, scale
        self._shapes = Image.new("RGB", (width * SCALE, height * SCALE), WHITE)
        self._draw = ImageDraw.Draw(self._shapes)
        self._texts: list[tuple[Spot, str, int, Colour, str, bool]] = []

    def line(self, spots: Sequence[Spot], colour: Colour, width: float = 1.0, dashed: bool = False) -> None:
        """A line through the spots; a dashed one goes straight from the first to the last."""
        pieces = _dashes(spots[0], spots[-1]) if dashed else zip(spots, spots[1:], strict=False)
        for start, stop in pieces:
            self._stroke(start, stop, colour, width / 2)
        if not dashed:
            for x, y in spots[1:-1]:
                self._draw.ellipse(_around(x, y, width / 2), fill=colour)

    def rectangle(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """A filled rectangle."""
        self._draw.rectangle((*_scaled((left, top)), *_scaled((right, bottom))), fill=colour)

    def marker(self, spot: Spot, kind: str, colour: Colour, radius: float = 5.0) -> None:
        """One of :data:`MARKERS` with a white rim, so that neighbours stay apart."""
        for size, fill in ((radius + 1.2, WHITE), (radius, colour)):
            self._draw.polygon([_scaled((spot[0] + x * size, spot[1] + y * size)) for x, y in MARKERS[kind]], fill=fill)

    def ring(self, spot: Spot, radius: float, colour: Colour = BLACK, width: float = 1.6) -> None:
        """A circle's outline."""
        self._draw.ellipse(_around(*spot, radius), outline=colour, width=round(width * SCALE))

    def text(
        self, spot: Spot, text: str, size: int = 14, colour: Colour = BLACK, anchor: str = "la", upright: bool = False
    ) -> None:
        """A line of text with a white rim.

        Args:
            spot: of the anchor.
            text: made one line; what the font lacks becomes a box.
            size: of the font in pixels.
            colour: of the letters.
            anchor: Pillow's two letters: l, m, r across and a (ascender), m, s (baseline), d (descender) down.
            upright: turned to be read from below, centred on the spot (``anchor`` is not used).
        """
        self._texts.append((spot, " ".join(text.split()), size, colour, anchor, upright))

    def finish(self) -> np.ndarray:
        """The picture, ``[height * scale, width * scale, 3]`` uint8."""
        scale = self.scale
        picture = self._shapes.resize((self.width * scale, self.height * scale), Image.Resampling.BOX)
        draw = ImageDraw.Draw(picture)
        for (x, y), text, size, colour, anchor, upright in self._texts:
            x, y, size = x * scale, y * scale, size * scale
            if upright:
                turned = _letters(text, size).transpose(Image.Transpose.ROTATE_90)
                place = (round(x - turned.width / 2), round(y - turned.height / 2))
                picture.paste(colour, (*place, place[0] + turned.width, place[1] + turned.height), turned)
            else:
                place = (round(x), round(y))  # letters between pixels would be blurred
                draw.text(place, text, fill=colour, font=_font(size), anchor=anchor, stroke_width=2, stroke_fill=WHITE)
                draw.text(place, text, fill=colour, font=_font(size), anchor=anchor)
        return np.asarray(picture).copy()

    def _stroke(self, start: Spot, stop: Spot, colour: Colour, half: float) -> None:
        """A straight line as a polygon: Pillow's own lines differ in width by their direction."""
        length = math.dist(start, stop) or 1.0
        x, y = (start[1] - stop[1]) / length * half, (stop[0] - start[0]) / length * half
        corners = [
            (px + side * x, py + side * y)
            for (px, py), side in zip((start, start, stop, stop), (1, -1, -1, 1), strict=True)
        ]
        self._draw.polygon([_scaled(corner) for corner in corners], fill=colour)


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _letters(text: str, size: int) -> Image.Image:
    """The text as a mask."""
    left, top, right, bottom = _font(size).getbbox(text, anchor="la")
    mask = Image.new("L", (max(1, math.ceil(right - left)), max(1, math.ceil(bottom - top))), 0)
    ImageDraw.Draw(mask).text((-left, -top), text, fill=255, font=_font(size), anchor="la")
    return mask


def _dashes(start: Spot, stop: Spot, length: float = 5.0) -> list[tuple[Spot, Spot]]:
    """Pieces of that many pixels with equal gaps."""
    way = max(math.dist(start, stop), length)
    ends = [min(1.0, piece * length / way) for piece in range(math.ceil(way / length) + 1)]
    spots = [(start[0] + (stop[0] - start[0]) * share, start[1] + (stop[1] - start[1]) * share) for share in ends]
    return list(zip(spots[::2], spots[1::2], strict=False))


def _around(x: float, y: float, radius: float) -> tuple[float, float, float, float]:
    """Box of a circle, on the large canvas."""
    return (x - radius) * SCALE, (y - radius) * SCALE, (x + radius) * SCALE, (y + radius) * SCALE


def _scaled(spot: Spot) -> Spot:
    return spot[0] * SCALE, spot[1] * SCALE
