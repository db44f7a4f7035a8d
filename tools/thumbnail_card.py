"""One picture of the template browser: frames, arrows, chunks and a few large words on a dark card."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from motioncache_core.drawing import COLOURS, Colour

SIZE = (768, 492)
"""Width and height; the browser shows it about 300 pixels wide."""
FINE = 2
"""Shapes are drawn so many times as large and shrunk."""
BACK, PAPER, SOFT, WORDS = (24, 26, 31), (40, 43, 51), (150, 156, 168), (240, 242, 246)
BLUE, ORANGE, GREEN = COLOURS[0], COLOURS[4], COLOURS[2]
COMPUTED, REUSED = ORANGE, BLUE
MARGIN = 28
Box = tuple[float, float, float, float]


class Card:
    """A dark card with a title; all places are in pixels of the finished picture."""

    def __init__(self, title: str, badge: str, colour: Colour) -> None:
        self._picture = Image.new("RGB", (SIZE[0] * FINE, SIZE[1] * FINE), BACK)
        self._draw = ImageDraw.Draw(self._picture)
        self.words((MARGIN, 48), title, 46)
        width = self._font(30).getlength(badge) / FINE + 28
        self._rounded((SIZE[0] - MARGIN - width, 24, SIZE[0] - MARGIN, 72), colour, 12)
        self.words((SIZE[0] - MARGIN - width / 2, 48), badge, 30, (255, 255, 255), "mm")

    def words(
        self, place: tuple[float, float], text: str, size: int, colour: Colour = WORDS, anchor: str = "lm"
    ) -> None:
        """A line of text."""
        spot = (place[0] * FINE, place[1] * FINE)
        self._draw.text(spot, text, fill=colour, font=self._font(size), anchor=anchor)

    def frame(self, frame: np.ndarray, box: Box, colour: Colour | None = None) -> None:
        """A video frame, ``[H, W, 3]`` uint8, with a rim of that colour."""
        left, top, right, bottom = (round(edge * FINE) for edge in box)
        resized = Image.fromarray(frame).resize((right - left, bottom - top), Image.Resampling.LANCZOS)
        self._picture.paste(resized, (left, top))
        self._draw.rectangle((left, top, right, bottom), outline=colour or SOFT, width=(5 if colour else 2) * FINE)

    def frames(
        self, frames: Sequence[np.ndarray], left: float, top: float, side: float, colour: Colour | None
    ) -> float:
        """Frames in a row; where the row ends."""
        for number, frame in enumerate(frames):
            x = left + number * (side + 10)
            self.frame(frame, (x, top, x + side, top + side), colour)
        return left + len(frames) * (side + 10) - 10

    def arrow(self, start: tuple[float, float], end: tuple[float, float], colour: Colour = WORDS) -> None:
        """A thick arrow."""
        (x, y), (u, v) = start, end
        length = max(1.0, float(np.hypot(u - x, v - y)))
        across, down = (u - x) / length, (v - y) / length
        neck = (u - 18 * across, v - 18 * down)
        self._draw.line([(x * FINE, y * FINE), (neck[0] * FINE, neck[1] * FINE)], fill=colour, width=7 * FINE)
        side = (13 * -down, 13 * across)
        head = [(u, v), (neck[0] + side[0], neck[1] + side[1]), (neck[0] - side[0], neck[1] - side[1])]
        self._draw.polygon([(a * FINE, b * FINE) for a, b in head], fill=colour)

    def bubble(self, text: str, box: Box, colour: Colour) -> None:
        """A prompt."""
        self._rounded(box, colour, 14)
        self.words(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), text, 30, (255, 255, 255), "mm")

    def chunks(self, cells: Sequence[tuple[int, int, float, Colour]], box: Box) -> None:
        """Steps of chunks, time from left to right.

        Args:
            cells: (chunk, row, share that was computed, colour of what was computed).
        """
        lanes, columns = (max(cell[axis] for cell in cells) + 1 for axis in (0, 1))
        across, down = (box[2] - box[0]) / columns, min((box[3] - box[1]) / lanes, 34)
        for lane, column, share, colour in cells:
            left, top = box[0] + column * across, box[1] + lane * down
            right, bottom = left + across - 1.5, top + down - 4
            split = bottom - share * (bottom - top)
            self._rectangle((left, top, right, bottom), REUSED if share < 1 else colour)
            if share > 0:
                self._rectangle((left, split, right, bottom), colour)

    def bar(self, share: float, box: Box, colour: Colour) -> None:
        """A bar that is filled to a share."""
        self._rounded(box, PAPER, 10)
        self._rounded((box[0], box[1], box[0] + share * (box[2] - box[0]), box[3]), colour, 10)

    def finish(self) -> Image.Image:
        """The picture."""
        return self._picture.resize(SIZE, Image.Resampling.LANCZOS)

    def _rectangle(self, box: Box, colour: Colour) -> None:
        left, top, right, bottom = (edge * FINE for edge in box)
        if right > left and bottom > top:
            self._draw.rectangle((left, top, right, bottom), fill=colour)

    def _rounded(self, box: Box, colour: Colour, radius: float) -> None:
        scaled = tuple(edge * FINE for edge in box)
        self._draw.rounded_rectangle(scaled, radius * FINE, fill=colour)

    @staticmethod
    def _font(size: int) -> ImageFont.FreeTypeFont:
        return ImageFont.load_default(size * FINE)
