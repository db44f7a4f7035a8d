"""The view on a storyboard's nodes: the plan up to each of them before the run, and the whole video so far after it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tools.host.environment import REPO
from tools.host.server import ComfyServer
from tools.host.stage import Stage

PART, FINISH, BEGIN = "MotionCacheGenerateChunks", "MotionCacheFinishVideo", "MotionCacheBeginVideo"
STORY = REPO / "workflows" / "Try a storyboard (no download).json"
SAME_MODEL = """([begin, part]) => {
  const node = window.mc.node(begin);
  const id = node.inputs[node.findInputSlot("model")].link;
  const link = node.graph.getLink?.(id) ?? node.graph.links[id];
  const to = window.mc.node(part, 2);
  node.graph.getNodeById(link.origin_id).connect(link.origin_slot, to, to.findInputSlot("model"));
}"""


@pytest.mark.parametrize(("front", "vue"), [("1.32.9", False), ("1.58.1", True)])
def test_parts_show_the_plan_and_the_run_up_to_them(
    browser: Any, comfy: ComfyServer, request: pytest.FixtureRequest, front: str, vue: bool
) -> None:
    host = comfy if front == "1.32.9" else request.getfixturevalue("new_front")
    stage = Stage.open(browser, host, f"storyboard {front}", vue)
    graph = json.loads(STORY.read_text(encoding="utf-8"))
    stage.page.evaluate("async (workflow) => await app.loadGraphData(workflow)", graph)
    stage.page.wait_for_function("kind => window.mc.view(kind)", arg=FINISH, timeout=120_000)
    for at in range(3):
        stage.set(PART, "chunks", 1, at)
    stage.set(BEGIN, "steps", 10)

    def lanes(kind: str, at: int = 0) -> int:
        plan = stage.call("v.plan", kind, at)
        return len(plan["lanes"]) if plan else 0

    stage.until(lambda: [lanes(PART, 0), lanes(PART, 1), lanes(PART, 2), lanes(FINISH)] == [1, 2, 3, 3])
    stage.set(PART, "chunks", 2, 1)
    stage.until(lambda: [lanes(PART, 0), lanes(PART, 1), lanes(PART, 2), lanes(FINISH)] == [1, 3, 4, 4])
    own = "the parts of this video have cache settings of their own"

    def part_off(off: bool) -> None:
        """Turn the last part's cache off, or on again."""
        stage.set(PART, "cache", "off" if off else "as the MODEL says", 2)
        stage.until(lambda: (stage.call("v.plan.cache", FINISH) == "none") == off)
        stage.until(lambda: (own in stage.state(FINISH)["words"][1]) == off)
        assert stage.call("v.plan.cache", PART, 1) != "none"

    part_off(True)
    part_off(False)
    # the same MODEL on another part changes nothing
    stage.page.evaluate(SAME_MODEL, [BEGIN, PART])
    stage.page.wait_for_timeout(2000)
    assert own not in stage.state(FINISH)["words"][1]
    stage.look(PART, 1, 0.8)
    assert stage.state(PART, 1)["words"][0].endswith("reuse can begin at step 5 (exact)")
    assert stage.call("v.parts.status.scrollHeight <= v.parts.status.clientHeight + 1", PART, 1), "no word is cut"
    stage.shot("plan")
    stage.queue()
    last = stage.finished(FINISH)
    assert last["run"]["status"] == "finished"
    assert len(last["run"]["cells"]) == 4 * 10
    shown = [len(stage.finished(PART, at)["run"]["cells"]) for at in range(3)]
    assert shown == sorted(shown) and 0 < shown[0] < shown[1] < shown[2] < 4 * 10
    stage.look(FINISH, 0, 0.8)
    stage.shot("after")
    assert not [error for error in stage.errors if "motioncache" in error.lower()]
    stage.page.context.close()
