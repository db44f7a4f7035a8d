"""Pictures for the pages of the nodes that make a video part by part.

``tools.bench.harness.pack.load`` comes before this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from motioncache.motioncache_core.drawing import BLACK, COLOURS, GREY, LIGHT, WHITE, Canvas, Colour
from PIL import Image, ImageDraw

from .runs import Runs, Story
from .sampler_knobs import AUTOREGRESSIVE, plans
from .sheet import GAP, MARGIN, WIDTH, WORDS, Sheet

RIGHT, DOWN = "red ball moves right.safetensors", "red ball moves down.safetensors"
PARTS = ((RIGHT, 2), (DOWN, 2), (RIGHT, 2))
MIDDLE = (RIGHT, 2)
ENDINGS = (DOWN, 2), (RIGHT, 2)
OF_PART: tuple[Colour, ...] = (COLOURS[0], COLOURS[1], COLOURS[2])
FINISH: Colour = GREY
LANE, LEFT = 26, 26
TEMPORAL, CHUNK = 4, 5
RED = 80
"""How much more red than green, of 255, the ball is."""


def last_frame(chunk: int) -> int:
    """Number of a chunk's last video frame."""
    return TEMPORAL * (CHUNK * (chunk + 1) - 1)


def direction(prompt: str) -> str:
    return prompt.removesuffix(".safetensors").rpartition(" ")[2]


def strip(sheet: Sheet, story: Story, chunks: Sequence[int], side: int) -> None:
    """The last frame of each of these chunks with the way of the ball, below a bar in the colour of its part."""
    for place, chunk in enumerate(chunks):
        left, colour = MARGIN + place * (side + GAP), OF_PART[story.part_of(chunk)]
        sheet.draw(0, lambda c, y, x=left, colour=colour: c.rectangle(x, y, x + side, y + 7, colour))
    sheet.space(9)
    sheet.strip([with_way(story, chunk, side) for chunk in chunks], side)


def with_way(story: Story, chunk: int, side: int) -> np.ndarray:
    """A chunk's last frame, enlarged, and a white line from where the red ball was when the chunk began."""
    last = last_frame(chunk)
    picture = Image.fromarray(story.frames[last]).resize((side, side), Image.Resampling.LANCZOS)
    scale = side / story.frames.shape[1]
    first = last_frame(chunk - 1) if chunk else 0
    line = [tuple((place + 0.5) * scale for place in ball(story.frames[frame])) for frame in range(first, last + 1, 4)]
    draw = ImageDraw.Draw(picture)
    draw.line(line, WHITE, 3)
    x, y = line[-1]
    draw.ellipse((x - 4, y - 4, x + 4, y + 4), WHITE)
    return np.asarray(picture)


def ball(frame: np.ndarray) -> tuple[float, float]:
    """Column and row of the middle of what is red."""
    red = frame[..., 0].astype(int) - frame[..., 1] > RED
    rows, columns = np.nonzero(red)
    return float(columns.mean()), float(rows.mean())


def steps(story: Story, colour_of: Callable[[int, int], Colour], canvas: Canvas, top: float) -> None:
    """Chunks by rows of the run, one cell a step, with a line where each part's node ends.

    Args:
        colour_of: (chunk, row) -> colour of the cell.
    """
    rows = story.ends[-1]
    across = (WIDTH - MARGIN - LEFT) / rows
    bottom = top + len(story.begins) * LANE
    for chunk, begin in enumerate(story.begins):
        y = round(top + chunk * LANE)
        canvas.text((LEFT - 6, y + LANE / 2), str(chunk), 21, GREY, anchor="rm")
        for row in range(begin, begin + story.steps):
            x, right = round(LEFT + row * across), round(LEFT + (row + 1) * across)
            canvas.rectangle(x, y, right - 1.4, y + LANE - 2.4, colour_of(chunk, row))
    for row in story.ends[:-1]:
        x = round(LEFT + row * across)
        canvas.rectangle(x - 2, top - 3, x + 1, bottom + 2, WHITE)
        canvas.rectangle(x - 1, top - 3, x, bottom + 2, BLACK)


def legend(sheet: Sheet, entries: Sequence[tuple[str, Colour]]) -> None:
    """What the colours mean, each on a place of its own."""
    across = (WIDTH - 2 * MARGIN) / len(entries)

    def draw(canvas: Canvas, top: float) -> None:
        for number, (words, colour) in enumerate(entries):
            x = MARGIN + number * across
            canvas.rectangle(x, top + 3, x + 20, top + 23, colour)
            canvas.text((x + 28, top), words, WORDS, GREY)

    sheet.draw(WORDS + 9, draw)


def storyboard(runs: Runs) -> np.ndarray:
    """Three prompts: frames, and which chunks follow which prompt."""
    story, sheet = runs.story(*PARTS), Sheet()
    chunks = range(len(story.begins))
    sheet.line("The last frame of every chunk, and the ball's way")
    strip(sheet, story, chunks, (WIDTH - 2 * MARGIN + GAP) // len(chunks) - GAP)
    sheet.line("Steps of 6 chunks, by the prompt they follow")
    sheet.space(4)
    sheet.draw(len(chunks) * LANE + 8, partial(steps, story, lambda chunk, row: OF_PART[story.part_of(chunk)]))
    words = [f"part {number}: {direction(prompt)}" for number, (prompt, _) in enumerate(PARTS, 1)]
    legend(sheet, list(zip(words, OF_PART, strict=True)))
    sheet.note(
        "Black line: a node ends. Its last chunks are not done yet; they go on in the next node, with their own prompt."
    )
    return sheet.finish()


def decode_chunk(runs: Runs) -> np.ndarray:
    """Which node computes what, and which frames come out behind it."""
    story, sheet = runs.story(*PARTS), Sheet()
    nodes = (*OF_PART, FINISH)

    def of_node(chunk: int, row: int) -> Colour:
        return nodes[next(number for number, end in enumerate(story.ends) if row < end)]

    sheet.line("Steps of 6 chunks, by the node that makes them")
    sheet.space(4)
    sheet.draw(len(story.begins) * LANE + 8, partial(steps, story, of_node))
    sheet.line("Frames that come out behind it")
    names = (*(f"part {number}" for number in range(1, len(PARTS) + 1)), "Finish video")
    before = 0
    for name, colour, finished in zip(names, nodes, story.finished, strict=True):
        until = last_frame(finished - 1) + 1 if finished else 0
        words = f"{before} to {until - 1}" if until > before else "none yet"
        span = before / len(story.frames), until / len(story.frames)
        sheet.draw(34, partial(_frames_of, name, words, colour, span))
        before = until
    return sheet.finish()


def _frames_of(name: str, words: str, colour: Colour, span: tuple[float, float], canvas: Canvas, top: float) -> None:
    left, right = MARGIN + 160, WIDTH - MARGIN - 130
    canvas.text((MARGIN, top + 14), name, WORDS, anchor="lm")
    canvas.rectangle(left, top + 4, right, top + 24, LIGHT)
    begin, end = (left + share * (right - left) for share in span)
    if end > begin:
        canvas.rectangle(begin, top + 4, end, top + 24, colour)
    canvas.text((WIDTH - MARGIN, top + 14), words, WORDS, GREY, anchor="rm")


def two_endings(runs: Runs) -> np.ndarray:
    """Two takes that go on from one middle."""
    sheet = Sheet()
    for number, ending in enumerate(ENDINGS, 1):
        story = runs.story(MIDDLE, ending)
        sheet.line(f"Ending {number}: {direction(ending[0])}")
        chunks = range(len(story.begins))
        strip(sheet, story, chunks, (WIDTH - 2 * MARGIN + GAP) // len(chunks) - GAP)
    legend(sheet, [("the middle, made once", OF_PART[0]), ("the ending", OF_PART[1])])
    return sheet.finish()


def sliding_window(runs: Runs) -> np.ndarray:
    """Windows that overlap, and one that slides."""
    inputs = {"frames": 137, "steps": 20, "window": 57, "overlap": 17}
    note = "137 frames, window 57. Where windows overlap, each waits for the one before."
    rows = [(f"history {value}", {**inputs, "history": value}) for value in ("latents", "sliding window")]
    return plans(AUTOREGRESSIVE, rows, 24, note)


PICTURES: dict[str, Callable[[Runs], np.ndarray]] = {
    "storyboard": storyboard,
    "decode_chunk": decode_chunk,
    "two_endings": two_endings,
    "sliding_window": sliding_window,
}
"""Name -> drawing."""
