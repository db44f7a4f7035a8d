"""What the help pages' pictures are drawn with: timelines say what they are given, knobs are those of the node."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("pack")


def share_of(picture: np.ndarray, colour: tuple[int, int, int]) -> float:
    """Of all pixels."""
    return float((np.abs(picture.astype(int) - colour).max(axis=-1) <= 4).mean())


@pytest.mark.parametrize(("share", "expected"), [(1.0, (1.0, 0.0)), (0.0, (0.0, 1.0)), (0.25, (0.25, 0.75))])
def test_a_cell_is_orange_as_high_as_its_share(share: float, expected: tuple[float, float]):
    from tools.helppictures.sheet import FULL, REUSED, Canvas, Cell, draw_cell

    canvas = Canvas(200, 200)
    draw_cell(canvas, Cell(0, 0, share), 0, 0, 200, 200)
    whole = canvas.finish()
    # dots and stripes take up to a third of the colour they lie on
    for colour, part in zip((FULL, REUSED), expected, strict=True):
        assert 0.35 * part <= share_of(whole, colour) <= part + 0.01


def test_a_plan_is_drawn_where_the_planning_puts_it():
    from tools.helppictures.panels import planned

    plan = planned("MotionCacheAutoregressiveSampler", None, frames=57, steps=20, ar_step=5)
    assert (plan.lanes, plan.columns, plan.begins) == (3, 30, (0, 5, 10))
    assert len(plan.cells) == 60 and all(cell.share == 1.0 for cell in plan.cells)


def test_knobs_of_a_picture_are_those_of_the_node(pack: ModuleType):
    from motioncache.nodes.cache import MotionCacheApply

    from tools.helppictures.runs import BALANCED, knobs

    names = {widget.id for widget in MotionCacheApply.define_schema().inputs} - {"model"}
    assert set(knobs()) == names and knobs()["preset"] == BALANCED
    turned = knobs(token_threshold=0.4)
    assert turned["preset"] == "custom" and turned["token_threshold"] == 0.4
    assert {name for name in names if turned[name] != knobs()[name]} == {"preset", "token_threshold"}


def test_large_pictures_are_packed_small():
    from tools.make_help_pictures import LARGEST, encoded

    noisy = np.random.default_rng(0).normal(128, 6, (200, 300, 3)).clip(0, 255).astype(np.uint8)
    assert LARGEST < 180_000 and len(encoded(noisy)) < 60_000


def test_every_picture_of_the_pages_can_be_drawn_again():
    from tools.helppictures.catalogue import PICTURES
    from tools.make_help_pictures import FOLDER

    assert set(PICTURES) == {path.stem for path in FOLDER.glob("*.webp")}


def test_steps_are_drawn_in_the_colour_of_their_part():
    from tools.helppictures.runs import Story
    from tools.helppictures.sheet import WIDTH, Canvas
    from tools.helppictures.storyboard import LANE, OF_PART, last_frame, steps

    frames = np.zeros((last_frame(2) + 1, 4, 4, 3), np.uint8)
    story = Story(frames, (("a", 2), ("b", 1)), (0, 2, 4), 6, (4, 6, 10), (0, 1, 3))
    assert [story.part_of(chunk) for chunk in range(3)] == [0, 0, 1]
    canvas = Canvas(WIDTH, 3 * LANE)
    steps(story, lambda chunk, row: OF_PART[story.part_of(chunk)], canvas, 0)
    whole = canvas.finish()
    first, second = (share_of(whole, OF_PART[part]) for part in (0, 1))
    assert second > 0.1 and abs(first / second - 2) < 0.1
