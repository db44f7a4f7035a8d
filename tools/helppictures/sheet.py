"""One picture of a help page: lines of words, small pictures in a row, timelines in the colours of the view.

Drawn 720 pixels wide, for a side bar that is 270 pixels wide until somebody widens it: few words, in large letters.
``tools.bench.harness.pack.load`` comes before this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from motioncache.motioncache_core.drawing import BLACK, COLOURS, GREY, LIGHT, WHITE, Canvas, Colour, text_width
from motioncache.motioncache_core.timeline import PHASES
from PIL import Image

WIDTH, MARGIN, GAP = 720, 8, 8
TITLE, WORDS = 27, 24
FULL, REUSED = COLOURS[4], COLOURS[0]
"""Computed and reused, as in the view and in the report."""
AXIS = 24
LANE_NAME = 22


@dataclass(frozen=True)
class Cell:
    """A step of a chunk.

    Args:
        lane, column: where it lies.
        share: of its tokens that were computed; ``None``: not known before the run.
        phase: name of :data:`PHASES`; "none" for no mark.
        wasted: computed although nothing comes of it.
    """

    lane: int
    column: int
    share: float | None = 1.0
    phase: str = "none"
    wasted: bool = False


@dataclass(frozen=True)
class Timeline:
    """Chunks by rows of the run.

    Args:
        lanes, columns: how many of each.
        cells: what happens; where there is none a chunk waits or is finished.
        begins: column in which each lane begins, for the outline of its steps.
        steps: of every chunk.
    """

    lanes: int
    columns: int
    cells: tuple[Cell, ...]
    begins: tuple[int, ...] = ()
    steps: int = 0


class Sheet:
    """Grows from top to bottom; :meth:`finish` draws it."""

    def __init__(self) -> None:
        self.y = float(MARGIN)
        self._drawn: list[Callable[[Canvas], None]] = []
        self._pasted: list[tuple[int, int, np.ndarray]] = []

    def line(self, left: str, right: str = "", size: int = TITLE) -> None:
        """Words at the left, and grey ones at the right end of the same line, or below where there is no room."""
        y = self.y
        self._drawn.append(lambda c: c.text((MARGIN, y), left, size, anchor="la"))
        if right and text_width(left, size) + text_width(right, WORDS) + 20 > WIDTH - 2 * MARGIN:
            self.y += size + 5
        below = self.y + (size - WORDS if self.y == y else 0)
        if right:
            self._drawn.append(lambda c: c.text((WIDTH - MARGIN, below), right, WORDS, GREY, anchor="ra"))
        self.y += size + 8

    def note(self, words: str, colour: Colour = GREY) -> None:
        """Words over as many lines as they take."""
        line = ""
        for word in [*words.replace(" %", "\N{NO-BREAK SPACE}%").split(" "), ""]:
            longer = f"{line} {word}".strip()
            if not word or text_width(longer, WORDS) > WIDTH - 2 * MARGIN:
                y = self.y
                self._drawn.append(lambda c, line=line, y=y: c.text((MARGIN, y), line, WORDS, colour))
                self.y += WORDS + 5
                line = word
            else:
                line = longer
        self.y += 3

    def space(self, pixels: float = 6) -> None:
        self.y += pixels

    def strip(
        self,
        pictures: Sequence[np.ndarray],
        side: int,
        names: Sequence[str] = (),
        timeline: Timeline | None = None,
        smooth: Sequence[bool] | bool = True,
    ) -> None:
        """Square pictures in a row, names above them, the timeline in the room that is left.

        Args:
            pictures: ``[H, W, 3]`` uint8.
            side: pixels that each takes.
            names: of the pictures, and one more of the timeline.
            smooth: enlarge smoothly (frames) or with sharp edges (tokens).
        """
        kinds = [smooth] * len(pictures) if isinstance(smooth, bool) else list(smooth)
        lefts = [MARGIN + number * (side + GAP) for number in range(len(pictures) + 1)]
        if names:
            for left, name in zip(lefts, names, strict=False):
                self._drawn.append(lambda c, x=left, y=self.y, name=name: c.text((x, y), name, WORDS, GREY))
            self.y += WORDS + 5
        for left, picture, kind in zip(lefts, pictures, kinds, strict=False):
            way = Image.Resampling.LANCZOS if kind else Image.Resampling.NEAREST
            resized = Image.fromarray(picture).resize((side, side), way)
            self._pasted.append((left, round(self.y), np.asarray(resized)))
        if timeline is not None:
            box = (lefts[-1], self.y, WIDTH - MARGIN, self.y + side)
            self._drawn.append(lambda c: draw_timeline(c, timeline, box))
        self.y += side + GAP

    def timeline(self, timeline: Timeline, lane: float = 24) -> None:
        """A timeline over the whole width."""
        box = (MARGIN, self.y, WIDTH - MARGIN, self.y + timeline.lanes * lane + AXIS)
        self._drawn.append(lambda c: draw_timeline(c, timeline, box))
        self.y = box[3] + GAP

    def draw(self, height: float, drawing: Callable[[Canvas, float], None]) -> None:
        """Room of that height for a drawing that is told where it begins."""
        y = self.y
        self._drawn.append(lambda c: drawing(c, y))
        self.y += height

    def picture(self, picture: np.ndarray) -> None:
        """A picture over the whole width, ``[H, W, 3]`` uint8."""
        width = WIDTH - 2 * MARGIN
        height = round(picture.shape[0] * width / picture.shape[1])
        resized = Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS)
        self._pasted.append((MARGIN, round(self.y), np.asarray(resized)))
        self.y += height + GAP

    def legend(self, *, phases: bool = True, partly: bool = True, reused: bool = True, wasted: bool = False) -> None:
        """What the colours of the timelines mean."""
        entries: list[tuple[str, Cell | None]] = [("computed", Cell(0, 0))]
        if partly:
            entries.append(("partly", Cell(0, 0, 0.5)))
        if reused:
            entries.append(("reused", Cell(0, 0, 0.0)))
        if wasted:
            entries.append(("computed for nothing", Cell(0, 0, wasted=True)))
        if phases:
            entries += [("warm-up", Cell(0, 0, 1.0, "warm-up")), ("as a whole", Cell(0, 0, 1.0, "chunk"))]
        left, y = float(MARGIN), self.y
        for words, cell in entries:
            width = 28 + text_width(words, WORDS)
            if left + width > WIDTH - MARGIN:
                left, y = MARGIN, y + WORDS + 8
            self._drawn.append(lambda c, x=left, y=y, cell=cell: draw_cell(c, cell, x, y + 2, 21, 21))
            self._drawn.append(lambda c, x=left, y=y, words=words: c.text((x + 28, y), words, WORDS, GREY))
            left += width + 22
        self.y = y + WORDS + 9

    def finish(self) -> np.ndarray:
        """``[H, 720, 3]`` uint8."""
        canvas = Canvas(WIDTH, round(self.y + MARGIN - GAP / 2))
        for draw in self._drawn:
            draw(canvas)
        whole = canvas.finish()
        for left, top, picture in self._pasted:
            height, width = picture.shape[:2]
            whole[top : top + height, left : left + width] = picture
        return whole


def draw_timeline(canvas: Canvas, timeline: Timeline, box: tuple[float, float, float, float]) -> None:
    """Lanes from top to bottom, numbered, with the rows of the run below."""
    left, top, right, bottom = box
    left += LANE_NAME
    across = (right - left) / timeline.columns
    down = min((bottom - top - AXIS) / timeline.lanes, 44)
    gap = 1 if across > 4 else 0.3
    for lane in range(timeline.lanes):
        y = top + lane * down
        canvas.text((left - 6, y + down / 2), str(lane), min(21, round(down)), GREY, anchor="rm")
        if timeline.begins:
            begin = left + timeline.begins[lane] * across
            _frame(canvas, begin, y, begin + timeline.steps * across - gap, y + down - 2)
    for cell in timeline.cells:
        draw_cell(canvas, cell, left + cell.column * across, top + cell.lane * down, across - gap, down - 2)
    every = next((n for n in (1, 2, 5, 10, 20, 50, 100) if n * across >= 62), 200)
    for column in range(0, timeline.columns, every):
        place = (left + (column + 0.5) * across, top + timeline.lanes * down + 1)
        canvas.text(place, str(column), 20, GREY, anchor="ma")


def draw_cell(canvas: Canvas, cell: Cell, x: float, y: float, width: float, height: float) -> None:
    """Orange from below: computed; blue with dots: reused; a line on top: warm-up; half a line: the chunk as one."""
    right, bottom = round(x + width), round(y + height)  # whole pixels: crisp, and small when packed
    x, y = round(x), round(y)
    width, height = right - x, bottom - y
    if cell.wasted:
        canvas.rectangle(x, y, x + width - 0.4, y + height - 0.4, LIGHT)
        canvas.line([(x, y + height), (x + width, y)], GREY, 1.2)
        return
    share = 0.5 if cell.share is None else cell.share
    split = round(y + height * (1 - share))
    if share < 1:
        canvas.rectangle(x, y, x + width - 0.4, split, REUSED)
        if width > 6:
            dots(canvas, x, y, x + width, split)
    if share > 0:
        canvas.rectangle(x, split, x + width - 0.4, y + height - 0.4, FULL)
        if share < 1 and width > 6:
            stripes(canvas, x, split, x + width, y + height)
    if cell.phase in (PHASES[1], PHASES[2]):
        line = width if cell.phase == PHASES[1] else width / 2
        canvas.rectangle(x, y, x + line - 0.4, y + 2.6, BLACK)


def dots(canvas: Canvas, left: float, top: float, right: float, bottom: float) -> None:
    """White dots, 5 pixels apart."""
    y = top + 5
    while y + 2 < bottom:
        x = left + 2
        while x + 2 < right:
            canvas.rectangle(x, y, x + 0.7, y + 0.7, WHITE)
            x += 5
        y += 5


def stripes(canvas: Canvas, left: float, top: float, right: float, bottom: float) -> None:
    """Thin dark lines from the lower left to the upper right, 5 pixels apart."""
    width, height = right - left, bottom - top
    offset = 4.0
    while offset < width + height:
        start = (left + max(0.0, offset - height), top + min(offset, height))
        stop = (left + min(offset, width), top + max(0.0, offset - width))
        canvas.line([start, stop], (120, 80, 0), 0.9)
        offset += 5


def _frame(canvas: Canvas, left: float, top: float, right: float, bottom: float) -> None:
    canvas.line([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], LIGHT, 1.0)
