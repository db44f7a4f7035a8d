"""Help pages in a real browser: opened as an artist opens them, every picture loads, in both front ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tools.host.environment import REPO
from tools.host.stage import SHOTS, Stage
from tools.make_help_pictures import named_in

PAGES = sorted((REPO / "web" / "docs").glob("*.md"))
ADD = """kind => {
  app.graph.clear();
  const node = LiteGraph.createNode(kind);
  node.pos = [200, 300];
  app.graph.add(node);
  app.canvas.ds.scale = 0.6;
  app.canvas.ds.offset = [900, 100];  // beside the side bar
  app.canvas.selectNode(node);
  app.canvas.setDirty(true, true);
}"""
CONTENT = "() => document.querySelector('.node-help-content h1')?.textContent"
LOADED = """count => {
  const images = [...document.querySelectorAll('.node-help-content img')];
  return images.length === count && images.every((image) => image.complete);
}"""
IMAGES = """() => [...document.querySelectorAll('.node-help-content img')].map((image) => {
  const room = image.closest('.node-help-content').clientWidth;
  return [new URL(image.src).pathname, image.naturalWidth, image.clientWidth <= room];
})"""


WIDE = """() => {
  const page = document.querySelector('.node-help-content').getBoundingClientRect();
  const tables = [...document.querySelectorAll('.node-help-content table')];
  return tables.map((table) => Math.round(table.getBoundingClientRect().right - page.right)).filter((over) => over > 0);
}"""
"""By how many pixels tables are cut off at the right."""


@pytest.fixture(scope="module", params=["1.32.9", "1.58.1"])
def stage(request: pytest.FixtureRequest, browser: Any) -> Iterator[Stage]:
    comfy = request.getfixturevalue("comfy" if request.param == "1.32.9" else "new_front")
    made = Stage.open(browser, comfy, f"{request.param} help", False)
    yield made
    made.page.context.close()
    assert not [error for error in made.errors if "motioncache" in error.lower()]


def open_help(stage: Stage, kind: str, title: str) -> None:
    """Select a node of this class and press the info button above it."""
    stage.page.evaluate(ADD, kind)
    stage.until(lambda: stage.page.evaluate(CONTENT) == title or pressed(stage), 90)
    stage.until(lambda: stage.page.evaluate(CONTENT) == title, 90)


def pressed(stage: Stage) -> bool:
    """The newer front end keeps its panel open and follows the selection; else there is a button."""
    button = stage.page.locator("[data-testid=info-button]").first
    if not button.is_visible():
        return False
    button.click()
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_picture_of_a_page_loads_and_every_table_fits(stage: Stage, page: Any) -> None:
    addresses = [address for _, address in named_in(page)]
    open_help(stage, page.stem, page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# "))
    stage.page.wait_for_function(LOADED, arg=len(addresses), timeout=60_000)
    found = stage.page.evaluate(IMAGES)
    assert [path.rpartition("/docs/")[2] for path, _, _ in found] == addresses
    assert all(width >= 300 and fits for _, width, fits in found), found
    assert not stage.page.evaluate(WIDE), "a long word in a table that no line can be broken in"
    SHOTS.mkdir(parents=True, exist_ok=True)
    if addresses:
        stage.shot(page.stem)
