"""The shipped workflows in the newest front end's Nodes 2.0, where nodes are tallest: none lies on another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest

from tools.host.environment import REPO
from tools.host.stage import Stage
from tools.make_workflows import WORKFLOWS

LOAD = """async (workflow) => {
  await app.loadGraphData(workflow);
  const boxes = app.graph.nodes.map((node) => node.getBounding());
  const left = Math.min(...boxes.map((b) => b[0])), top = Math.min(...boxes.map((b) => b[1]));
  app.canvas.ds.scale = 0.5;
  app.canvas.ds.offset = [100 - left, 100 - top];
  app.canvas.setDirty(true, true);
}"""
BOXES = """() => app.graph.nodes.map((node) => {
  const drawn = document.querySelector(`[data-node-id="${node.id}"]`)?.getBoundingClientRect();
  if (!drawn) return null;
  const scale = app.canvas.ds.scale;
  return [node.title, ...[drawn.left, drawn.top, drawn.right, drawn.bottom].map((edge) => Math.round(edge / scale))];
})"""
WINDOW = {"width": 2600, "height": 1400}
"""Everything is in it at half its size; the page leaves out nodes that are not."""
ROOM = 20
"""Pixels between two nodes."""


@pytest.fixture(scope="module")
def stage(new_front: Any, browser: Any) -> Iterator[Stage]:
    context = browser.new_context(viewport=WINDOW)
    made = Stage.open(browser, new_front, "1.58.1 layout", True, context)
    yield made
    context.close()


def settled(stage: Stage, count: int) -> list[list[Any]]:
    """The nodes' (title, left, top, right, bottom) once they are all there and have found their sizes."""

    def all_there() -> list[list[Any]] | None:
        found = stage.page.evaluate(BOXES)
        return found if None not in found and len(found) == count else None

    stage.until(all_there, 60)
    return stage.steady(lambda: stage.page.evaluate(BOXES))


@pytest.mark.parametrize("name", WORKFLOWS)
def test_no_node_lies_on_another(stage: Stage, name: str) -> None:
    workflow = json.loads((REPO / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    stage.page.evaluate(LOAD, workflow)
    boxes = settled(stage, len(workflow["nodes"]))
    stage.shot(name)
    over = [
        (one[0], other[0], round(min(right, right_2) - max(left, left_2)), round(min(low, low_2) - max(top, top_2)))
        for one, other in combinations(boxes, 2)
        for (_, left, top, right, low), (_, left_2, top_2, right_2, low_2) in [(one, other)]
        if min(right, right_2) - max(left, left_2) > -ROOM and min(low, low_2) - max(top, top_2) > -ROOM
    ]
    assert not over, "(node, node, overlap across, overlap down)"
