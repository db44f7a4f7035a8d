"""Makes the pictures of the template browser: `python tools/host/run_tool.py tools.make_thumbnails [WORKFLOW ...]`.

The models of most workflows are too large to ship, so a picture shows what a workflow is for: frames of the tiny world
that ships (runs of the pack's own nodes, kept in `build/help_pictures` like those of the help pages), the prompts, and
the chunks as they were made. The files under `workflows/*.jpg` are its output.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image

from tools.bench.harness import pack
from tools.host.environment import REPO
from tools.make_workflows import WORKFLOWS
from tools.thumbnail_card import BLUE, COMPUTED, GREEN, MARGIN, ORANGE, SIZE, SOFT, Card
from tools.tinyworld.host import import_comfyui

if TYPE_CHECKING:
    from tools.helppictures.runs import Made, Runs, Story

FOLDER = REPO / "workflows"
QUALITY = 88
OF_PART = (BLUE, ORANGE, GREEN)
BADGES = {"SkyReels-V2": BLUE, "MAGI-1": (204, 90, 0), "no download": (0, 140, 105)}
"""What a card's corner says -> its colour."""
Drawing = Callable[[Card, "Runs"], None]


def cached(runs: Runs) -> Made:
    """A run with MotionCache."""
    from tools.helppictures.runs import knobs

    return runs(knobs())


def timeline(card: Card, made: Made, top: float = 366) -> None:
    """What was computed and reused, at the lower edge."""
    from tools.helppictures.panels import timeline as of_run

    cells = [(cell.lane, cell.column, cell.share or 0.0, COMPUTED) for cell in of_run(made).cells]
    card.chunks(cells, (MARGIN, top, SIZE[0] - MARGIN, SIZE[1] - 20))


def text_to_video(card: Card, runs: Runs) -> None:
    """A prompt, and the video that comes of it."""
    made = cached(runs)
    card.bubble("prompt", (MARGIN, 196, 190, 266), BLUE)
    card.arrow((202, 231), (248, 231))
    card.frames([made.frames[number] for number in (8, 32, 56)], 262, 126, 152, None)
    timeline(card, made)


def image_to_video(card: Card, runs: Runs) -> None:
    """A picture, and the video that it begins."""
    made = cached(runs)
    card.frame(made.frames[8], (MARGIN, 130, MARGIN + 152, 282), GREEN)
    card.words((MARGIN + 76, 310), "your picture", 26, SOFT, "mm")
    card.arrow((192, 206), (248, 206))
    card.frames([made.frames[number] for number in (20, 36, 52)], 262, 130, 152, None)
    timeline(card, made)


def video_to_video(card: Card, runs: Runs) -> None:
    """A video, and how it goes on."""
    made = cached(runs)
    card.frames([made.frames[number] for number in (4, 16)], MARGIN, 136, 146, GREEN)
    card.words((MARGIN + 151, 308), "your video", 26, SOFT, "mm")
    card.arrow((342, 209), (394, 209))
    card.frames([made.frames[number] for number in (36, 54)], 408, 136, 146, None)
    card.words((408 + 151, 308), "goes on", 26, SOFT, "mm")
    timeline(card, made)


def long_take(card: Card, runs: Runs) -> None:
    """A picture, and chunk after chunk behind it."""
    from tools.helppictures.storyboard import PARTS

    story = runs.story(*PARTS)
    card.frame(story.frames[0], (MARGIN, 150, MARGIN + 130, 280), GREEN)
    card.words((MARGIN + 65, 308), "your picture", 24, SOFT, "mm")
    card.arrow((170, 215), (214, 215))
    shown = [story.frames[number] for number in range(12, len(story.frames), 22)][:5]
    card.frames(shown, 226, 162, 94, None)
    of_story(card, story, lambda chunk: COMPUTED)


def of_story(card: Card, story: Story, colour: Callable[[int], tuple[int, int, int]], top: float = 366) -> None:
    """The steps of a storyboard's chunks, at the lower edge."""
    begins = [(chunk, begin) for chunk, begin in enumerate(story.begins)]
    cells = [(chunk, row, 1.0, colour(chunk)) for chunk, begin in begins for row in range(begin, begin + story.steps)]
    card.chunks(cells, (MARGIN, top, SIZE[0] - MARGIN, SIZE[1] - 20))


def storyboard(card: Card, runs: Runs) -> None:
    """Three prompts, one video."""
    from tools.helppictures.storyboard import PARTS, direction, last_frame

    story, chunk, wide = runs.story(*PARTS), 0, 224
    for number, ((prompt, chunks), colour) in enumerate(zip(PARTS, OF_PART, strict=True)):
        left = MARGIN + number * (wide + 20)
        card.bubble(f"{number + 1}: {direction(prompt)}", (left, 94, left + wide, 144), colour)
        shown = [story.frames[last_frame(place)] for place in range(chunk, chunk + chunks)]
        card.frames(shown, left, 160, (wide - 10) / 2, colour)
        chunk += chunks
    of_story(card, story, lambda place: OF_PART[story.part_of(place)], 300)


def two_endings(card: Card, runs: Runs) -> None:
    """A middle that two takes go on from."""
    from tools.helppictures.storyboard import ENDINGS, MIDDLE, direction, last_frame

    side = 118
    for number, (ending, colour) in enumerate(zip(ENDINGS, OF_PART[1:], strict=True)):
        story, top = runs.story(MIDDLE, ending), 114 + number * 184
        shown = [story.frames[last_frame(place)] for place in (2, 3)]
        if number == 0:
            middle = [story.frames[last_frame(place)] for place in (0, 1)]
            card.frames(middle, MARGIN, 205, side, BLUE)
        card.arrow((MARGIN + 2 * side + 20, 268 + 16 * (2 * number - 1)), (MARGIN + 2 * side + 82, top + side / 2))
        right = card.frames(shown, MARGIN + 2 * side + 96, top, side, colour)
        card.words((right + 14, top + side / 2 - 18), f"ending {number + 1}", 26, colour)
        card.words((right + 14, top + side / 2 + 18), direction(ending[0]), 26, SOFT)
    card.words((MARGIN + side + 5, 358), "made once", 28, SOFT, "mm")


def compare(card: Card, runs: Runs) -> None:
    """The same video without and with MotionCache, and what was computed."""
    plain, made = runs(), cached(runs)
    for number, (run, words) in enumerate(((plain, "without"), (made, "with MotionCache"))):
        left = MARGIN + number * 370
        card.frames([run.frames[n] for n in (20, 52)], left, 104, 166, (BLUE, ORANGE)[number])
        card.words((left, 300), words, 30)
        card.bar(run.computed, (left, 330, left + 342, 366), (BLUE, ORANGE)[number])
        card.words((left, 396), f"{run.computed:.0%} computed", 30, SOFT)
    near = made.psnr(plain)
    card.words((SIZE[0] / 2, 452), f"how alike? {near:.0f} dB", 34, anchor="mm")


KINDS: dict[str, tuple[str, Drawing]] = {
    "Try MotionCache": ("Try MotionCache", text_to_video),
    "Try a storyboard": ("Try a storyboard", storyboard),
    "Compare cache settings": ("Compare settings", compare),
    "text to video": ("Text to video", text_to_video),
    "image to video": ("Image to video", image_to_video),
    "video to video": ("Video to video", video_to_video),
    "several prompts": ("Several prompts", storyboard),
    "long take from image": ("Long take", long_take),
    "video continuation": ("Video continuation", video_to_video),
    "two endings": ("Two endings", two_endings),
    "storyboard": ("Storyboard", storyboard),
}
"""What a workflow's name ends or begins with -> title and drawing."""
TRAINED = "no download"


def drawn(name: str, runs: Runs) -> Image.Image:
    """A workflow's picture."""
    badge = next((badge for badge in BADGES if badge in name), TRAINED)
    kind = next(kind for kind in KINDS if name.startswith(kind) or name.removeprefix(badge).strip() == kind)
    title, drawing = KINDS[kind]
    card = Card(title, badge, BADGES[badge])
    drawing(card, runs)
    return card.finish()


def main() -> int:
    """Make the pictures of the workflows that are named, or of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workflows", nargs="*", choices=[[], *WORKFLOWS], help="names without ending; else all")
    parser.add_argument("--runs", type=Path, default=REPO / "build" / "help_pictures", help="where runs are kept")
    options = parser.parse_args()
    import_comfyui()
    pack.load()
    from tools.helppictures.runs import Runs

    torch.set_num_threads(1)  # the same sums on every machine
    runs = Runs(options.runs)
    for name in options.workflows or WORKFLOWS:
        drawn(name, runs).save(FOLDER / f"{name}.jpg", quality=QUALITY)
        print(FOLDER / f"{name}.jpg", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
