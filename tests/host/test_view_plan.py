"""The view before a run, in a real browser: what it cannot know, long takes, servers that go away, a mouse at rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tools.host.server import ComfyServer
from tools.host.stage import SAMPLER, Stage, sampler_graph

APPLY = "MotionCacheApply"
UNKNOWN = "the cache settings could not be read from the graph"


@pytest.fixture(scope="module")
def stage(browser: Any, comfy: ComfyServer) -> Iterator[Stage]:
    made = Stage.open(browser, comfy, "plan 1.32.9 classic", False)
    yield made
    made.page.context.close()
    assert not [error for error in made.errors if "motioncache" in error.lower()]


@pytest.fixture
def planned(stage: Stage) -> Stage:
    """The plan of a graph that has not run."""
    stage.graph(sampler_graph() | {"id": "3f1d6c1e-54cf-4a4f-8fb8-0d0a6d2c9a11"})
    stage.look()
    stage.call("v.setMode('plan')")  # a run of the same node that a script queued earlier may be shown
    stage.until(lambda: says(stage, "3 chunks × 20 steps, reuse can begin at step 4"))
    return stage


def says(stage: Stage, words: str) -> bool:
    return words in " | ".join(stage.state()["words"])


def test_a_cell_under_the_mouse_may_vanish(planned: Stage) -> None:
    """The view goes on drawing when the plan shrinks below a mouse that rests."""
    box = planned.call("v.parts.timeline.getBoundingClientRect().toJSON()")
    planned.page.mouse.move(box["x"] + 24 + 29.5 * (box["width"] - 26) / 30, box["y"] + 50)
    planned.until(lambda: says(planned, "chunk 2, step 19:"))
    planned.set(SAMPLER, "frames", 17)
    planned.until(lambda: says(planned, "1 chunk × 20 steps"), 60)
    planned.settle()
    assert planned.state()["words"][2].startswith("chunk 0, step ")
    planned.set(SAMPLER, "steps", 9)
    planned.until(lambda: says(planned, "1 chunk × 9 steps"), 60)
    planned.page.mouse.move(5, 500)


def test_the_legend_says_what_a_plan_can_know(planned: Stage) -> None:
    assert planned.call("v.parts.legend.partial.textContent") == "may be reused"
    assert planned.call("v.parts.legend.heat.offsetWidth") == 0


FETCH = """kind => {
  class Fetch extends LiteGraph.LGraphNode {
    constructor(title) {
      super(title);
      this.isVirtualNode = true;
      this.addWidget("combo", "Constant", "model", () => {}, { values: ["model"] });
      this.addOutput("MODEL", "MODEL");
    }
  }
  LiteGraph.registerNodeType("a virtual node that fetches", Fetch);
  const node = LiteGraph.createNode("a virtual node that fetches");
  app.graph.add(node);
  node.connect(0, window.mc.node(kind), window.mc.node(kind).findInputSlot("model"));
}"""
SWITCH = """kind => {
  class Switch extends LiteGraph.LGraphNode {
    constructor(title) {
      super(title);
      for (const name of ["first", "second"]) this.addInput(name, "MODEL");
      this.addOutput("MODEL", "MODEL");
    }
  }
  LiteGraph.registerNodeType("a switch of models", Switch);
  const node = LiteGraph.createNode("a switch of models");
  app.graph.add(node);
  const apply = window.mc.node("MotionCacheApply");
  const loader = app.graph.getNodeById(app.graph.links[apply.inputs[apply.findInputSlot("model")].link].origin_id);
  apply.connect(0, node, 0);
  loader.connect(0, node, 1);
  node.connect(0, window.mc.node(kind), window.mc.node(kind).findInputSlot("model"));
}"""


@pytest.mark.parametrize("between", [FETCH, SWITCH], ids=["fetch", "switch"])
def test_what_cannot_be_read_from_the_graph_is_not_claimed(planned: Stage, between: str) -> None:
    planned.page.evaluate(between, SAMPLER)
    planned.until(lambda: says(planned, UNKNOWN), 60)
    assert not says(planned, "no MotionCache")
    pixels = planned.pixels("timeline")
    orange = pixels[..., 0].astype(int) - pixels[..., 2]
    assert orange.max() < 40, "no cell claims to be computed"


NUMBER = """([kind, input]) => {
  class Number extends LiteGraph.LGraphNode {
    constructor(title) {
      super(title);
      this.addOutput("INT", "INT");
    }
  }
  LiteGraph.registerNodeType("a number", Number);
  const node = LiteGraph.createNode("a number");
  app.graph.add(node);
  node.connect(0, window.mc.node(kind), window.mc.node(kind).findInputSlot(input));
}"""


def test_a_knob_that_another_node_feeds_is_not_claimed(planned: Stage) -> None:
    planned.page.evaluate(NUMBER, [SAMPLER, "frames"])
    planned.until(lambda: says(planned, "not known before the run, drawn with defaults: frames"), 60)
    assert not says(planned, "(exact)")
    planned.page.evaluate(NUMBER, [APPLY, "warmup_steps"])
    planned.until(lambda: says(planned, UNKNOWN), 60)


def test_a_loader_alone_means_no_motioncache(planned: Stage) -> None:
    planned.page.evaluate("kind => (window.mc.node(kind).mode = 4)", APPLY)
    planned.until(lambda: says(planned, "plan: 3 chunks × 20 steps, no MotionCache"), 60)
    assert not says(planned, UNKNOWN)


def test_a_server_that_goes_away_is_asked_again(planned: Stage) -> None:
    """A proxy answers with a page of its own while the server starts anew."""
    asked = []

    def refuse(route: Any) -> None:
        asked.append(route.request.post_data)
        route.fulfill(status=502, content_type="text/html", body="<h1>Bad gateway</h1>")

    planned.page.route("**/motioncache/plan", refuse)
    planned.set(SAMPLER, "steps", 12)
    planned.until(lambda: says(planned, "plan: cannot be drawn (the server answers with status 502)"), 60)
    planned.page.unroute("**/motioncache/plan")
    assert len(asked) == 1
    planned.page.wait_for_timeout(1500)
    assert says(planned, "cannot be drawn"), "it does not ask on its own"
    planned.page.evaluate("window.comfyAPI.api.api.dispatchCustomEvent('reconnected')")
    planned.until(lambda: says(planned, "plan: 3 chunks × 12 steps"), 60)


def test_an_earlier_question_is_given_up(planned: Stage) -> None:
    failed: list[str] = []
    note = lambda request: failed.append(request.failure) if request.url.endswith("/plan") else None  # noqa: E731
    planned.page.on("requestfailed", note)
    waiting: list[Any] = []
    planned.page.route("**/motioncache/plan", lambda route: waiting.append(route))
    planned.set(SAMPLER, "steps", 11)
    planned.until(lambda: len(waiting) == 1 or planned.page.wait_for_timeout(100), 60)
    planned.set(SAMPLER, "steps", 13)
    planned.until(lambda: len(waiting) == 2 or planned.page.wait_for_timeout(100), 60)
    planned.until(lambda: failed or planned.page.wait_for_timeout(100), 60)
    assert failed == ["net::ERR_ABORTED"]
    waiting[1].continue_()
    planned.until(lambda: says(planned, "plan: 3 chunks × 13 steps"), 60)
    planned.page.unroute("**/motioncache/plan")
    planned.page.remove_listener("requestfailed", note)


CHUNKS, STEPS, AR = 100, 20, 5


@pytest.fixture
def long_take(planned: Stage) -> Stage:
    """The plan of 100 chunks."""
    planned.set(SAMPLER, "history", "sliding window")
    planned.set(SAMPLER, "frames", (CHUNKS * 5 - 1) * 4 + 1)
    planned.until(lambda: says(planned, f"plan: {CHUNKS} chunks × {STEPS} steps"), 60)
    return planned


@pytest.mark.parametrize("chosen", [0, 47, 99])
def test_a_long_take_shows_the_chunks_around_the_chosen_one(long_take: Stage, chosen: int) -> None:
    """By pixels: every chunk in sight has rows of 5 pixels or more, and its warm-up is orange where its time begins."""
    long_take.call(f"v.choose({chosen}, 0, 0)")
    pixels = long_take.pixels("timeline")
    place = long_take.call("v.place")
    ratio = pixels.shape[1] / long_take.call("v.parts.timeline.clientWidth")
    assert place["part"] and place["down"] >= 5 and place["across"] >= 3
    assert place["first"] <= chosen < place["first"] + place["count"] <= CHUNKS
    assert place["count"] >= 5
    orange = (pixels[..., 0].astype(int) - pixels[..., 2] > 60) & (pixels[..., 3] > 100)
    body = orange[round(place["top"] * ratio) :]
    for lane in range(place["first"], place["first"] + place["count"]):
        row = int((lane - place["first"] + 0.6) * place["down"] * ratio)
        for step in range(4):  # warm-up, in full view
            column = lane * AR + step - place["from"]
            if 0 <= column < place["columns"]:
                middle = int((24 + (column + 0.4) * place["across"]) * ratio)
                assert body[row, middle], (lane, step)
        before = lane * AR - 1 - place["from"]
        if 0 <= before < place["columns"]:
            assert not body[row, int((24 + (before + 0.4) * place["across"]) * ratio)], (lane, "too early")
    bar = orange[int(4.5 * ratio)]
    assert bar[int(24 * ratio) : -int(4 * ratio)].mean() > 0.95, "all chunks in the bar above"
    long_take.shot(f"long take {chosen}")


def test_every_chunk_of_a_long_take_is_reached_by_keys_and_bar(long_take: Stage) -> None:
    long_take.call("v.choose(0, 0, 0)")
    long_take.settle()
    long_take.call("v.element.focus()")
    seen = []
    for _ in range(30):
        long_take.page.keyboard.press("ArrowDown")
    long_take.settle()
    for _ in range(12):
        long_take.page.keyboard.press("ArrowDown")
        long_take.settle()
        place, state = long_take.call("v.place"), long_take.state()
        seen.append(state["lane"])
        assert place["first"] <= state["lane"] < place["first"] + place["count"]
        assert state["words"][2].startswith(f"chunk {state['lane']}, step 0:")
    assert seen == list(range(31, 43))
    box = long_take.call("v.parts.timeline.getBoundingClientRect().toJSON()")
    long_take.page.mouse.click(box["x"] + 24 + 80.5 / CHUNKS * (box["width"] - 26), box["y"] + 3)
    assert long_take.state()["lane"] == 80
    long_take.settle()
    place = long_take.call("v.place")
    assert place["first"] <= 80 < place["first"] + place["count"]
    x = 24 + (80 * AR + 3.5 - place["from"]) * place["across"]
    y = place["top"] + (80.5 - place["first"]) * place["down"]
    long_take.page.mouse.click(box["x"] + x, box["y"] + y)
    assert (long_take.state()["lane"], long_take.state()["step"]) == (80, 3)
    long_take.settle()
    assert long_take.call("v.place.first") == place["first"], "a click does not move what is under the mouse"
    long_take.page.mouse.move(5, 500)
