"""The view on the nodes, in a real browser against the real ComfyUI: both front ends, classic and Nodes 2.0."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tools.host.server import ComfyServer
from tools.host.stage import FULL, REUSED, SAMPLER, STEPS, Stage, near, sampler_graph


@pytest.fixture(
    scope="module", params=["1.32.9 classic", "1.32.9 nodes2", "1.58.1 classic", "1.58.1 nodes2"], ids=lambda p: p
)
def stage(request: pytest.FixtureRequest, browser: Any) -> Iterator[Any]:
    """A page that has watched a run of the demo from before its plan to its end."""
    version, renderer = request.param.split()
    comfy = request.getfixturevalue("comfy" if version == "1.32.9" else "new_front")
    made = Stage.open(browser, comfy, request.param, renderer == "nodes2")
    made.graph(sampler_graph())
    made.look()
    made.call("v.setMode('plan')")
    made.settle()
    made.planned = made.state()
    made.planned_pixels = made.pixels("timeline")
    made.shot("plan")
    made.set("MotionCacheApply", "warmup_steps", 6)
    made.until(lambda: "step 7" in made.state()["words"][0])
    made.moved = made.state()
    made.set("MotionCacheApply", "warmup_steps", 3)
    made.until(lambda: "step 4" in made.state()["words"][0])
    made.heights, made.cut = [made.heights_now()], cut_words(made)
    made.page.evaluate(LISTEN)
    made.page.evaluate("window.previews = 0")
    made.page.evaluate("() => window.comfyAPI.api.api.addEventListener('b_preview', () => window.previews++)")
    made.queue()
    made.running = made.until(lambda: well_begun(made))
    made.heights.append(made.heights_now())
    made.cut += cut_words(made)
    made.shot("running")
    made.ended = made.finished()
    made.cut += cut_words(made)
    made.seen_running = made.running["run"]["status"] == "running"
    if made.seen_running:
        made.until(lambda: made.page.evaluate("window.aloud.events.length > 1"), 60)
    made.aloud = made.page.evaluate("window.aloud")
    made.heights.append(made.heights_now())
    yield made
    ours = [error for error in made.errors if "motioncache" in error.lower()]
    made.page.context.close()
    assert not ours, ours


def well_begun(stage: Stage) -> dict[str, Any] | None:
    """What the view shows, and has drawn, once a chunk's worth of steps is over."""
    state = stage.begun()
    if state is None or len(state["run"]["cells"]) < 20:
        return None
    return state if state["run"]["status"] != "running" or state["words"][0].startswith("≈ ") else None


LISTEN = """() => {
  const view = window.mc.view("MotionCacheAutoregressiveSampler");
  window.aloud = { events: [], chosen: [], others: 0 };
  const heard = (part, to) => new MutationObserver(() => to(part.textContent))
    .observe(part, { childList: true, characterData: true, subtree: true });
  heard(view.parts.events, (text) => window.aloud.events.push(text));
  heard(view.parts.chosen, (text) => window.aloud.chosen.push(text));
  for (const part of view.element.querySelectorAll("[aria-live], [role=status], [role=alert]"))
    if (part !== view.parts.events && part !== view.parts.chosen) window.aloud.others++;
}"""
"""Writes down what a screen reader would say."""


def cut_words(stage: Any) -> list[str]:
    """Words that do not fit into their place."""
    stage.settle()
    parts = "['status', 'totals', 'hover', 'frame'].map((name) => v.parts[name])"
    legend = "[...v.element.querySelectorAll('.mc-legend, .mc-legend > span, button')]"
    cut = "(part) => part.scrollHeight > part.clientHeight + 1 || part.scrollWidth > part.clientWidth + 1"
    return stage.call(f"[...{parts}, ...{legend}].filter({cut}).map((part) => part.textContent)")


def cell_of(state: dict[str, Any], outcome: int) -> list[Any]:
    """The last cell with an outcome (0 full, 1 partial, 2 reused)."""
    return [cell for cell in state["run"]["cells"] if cell[3] == outcome][-1]


def half_computed(state: dict[str, Any]) -> list[Any]:
    """The cell that recomputed nearest to half of its tokens."""
    cell = min(state["run"]["cells"], key=lambda cell: abs(cell[4] / cell[5] - 0.5))
    assert 0.1 < cell[4] / cell[5] < 0.9, "no step of the run recomputed about half of its tokens"
    return cell


def in_history(comfy: ComfyServer, run: str) -> dict[str, Any] | None:
    """The final state that a node's ui values keep of a run."""
    with urllib.request.urlopen(f"{comfy.url}/history") as answer:
        entries = json.loads(answer.read()).values()
    states = [state for e in entries for ui in e["outputs"].values() for state in ui.get("motioncache", [])]
    return next((state for state in states if state["run"] == run), None)


def test_before_the_run_the_plan_is_drawn_and_follows_the_knobs(stage: Any) -> None:
    assert stage.planned["mode"] == "plan"
    assert stage.planned["words"][0].startswith("plan: 3 chunks × 20 steps, reuse can begin at step 4 (bounds)")
    orange = stage.planned_pixels[..., 0].astype(int) - stage.planned_pixels[..., 2]
    assert (orange > 60).any() and (orange < -60).any(), "computed and open steps are drawn"
    assert "reuse can begin at step 7" in stage.moved["words"][0]


def test_during_the_run_the_view_follows_it(stage: Any) -> None:
    assert stage.running["mode"] == "run"
    if stage.running["run"]["status"] == "running":
        assert "pass" in stage.running["words"][0] and "left" in stage.running["words"][0]
    assert len(set(stage.heights)) == 1, f"nothing jumps: {stage.heights}"
    assert stage.page.evaluate("window.previews") > 0, "ComfyUI has sent its own"
    assert not stage.page.evaluate("kind => window.mc.node(kind).imgs?.length", SAMPLER), "no second preview below"


def test_no_word_is_cut_at_the_width_that_the_templates_have(stage: Any) -> None:
    shipped = next(n for n in sampler_graph()["nodes"] if n["type"] == SAMPLER)["size"][0]
    width = stage.page.evaluate("kind => window.mc.node(kind).size[0]", SAMPLER)
    assert width == shipped or (stage.name == "1.32.9 nodes2" and width > shipped), "only that one widens nodes"
    assert stage.cut == []
    if stage.seen_running:
        assert stage.running["words"][0].startswith("≈ "), "the time that is left comes first"


def test_only_begin_end_and_the_chosen_cell_are_said_aloud(stage: Any) -> None:
    assert stage.aloud["others"] == 0
    if stage.seen_running or stage.aloud["events"]:  # a run that is over when the page hears of it is no event
        begin, end = stage.aloud["events"]
        assert begin == "MotionCache: the run begins, 60 passes"
        assert end.startswith("MotionCache: finished: 60 passes in ")
    assert len(stage.aloud["chosen"]) <= 2, "not every step of the run"
    stage.call("v.choose(2, 7, 0)")
    stage.settle()
    said, label = stage.call("[v.parts.chosen.textContent, v.parts.timeline.getAttribute('aria-label')]")
    assert said.startswith("chunk 2, step 7: ") and label.endswith(said)


def test_at_the_end_the_view_tells_what_the_report_tells(stage: Any) -> None:
    told = stage.until(lambda: in_history(stage.comfy, stage.ended["run"]["id"]))
    # the last event may be on its way while the page asks for what it missed
    run = stage.until(lambda: (shown := stage.state()["run"]) and shown["totals"] == told["totals"] and shown)
    assert told["status"] == "finished" == run["status"]
    cells = {tuple(cell[:2]): cell for cell in run["cells"]}
    assert cells == {tuple(cell[:2]): cell for cell in told["cells"]} and len(cells) == 60
    assert run["totals"] == told["totals"] and told["pictures"]["0"]
    words = stage.state()["words"][1]
    share = run["totals"]["computed"] / run["totals"]["total"]
    assert f"computed {100 * share:.0f} % of token passes (not a speed-up)" in words
    assert "speed-up" not in words.replace("not a speed-up", "")


def test_the_timelines_pixels_say_what_happened(stage: Any) -> None:
    """A cell is computed from below up to its share, and reused above."""
    pixels = stage.pixels("timeline")
    width = stage.call("v.parts.timeline.clientWidth")
    height = stage.call("v.parts.timeline.clientHeight")
    ratio = pixels.shape[1] / width
    lanes, rows = 3, 30
    across, down = (width - 26) / rows, min((height - 16) / lanes, 26)
    halved = half_computed(stage.ended)
    share = halved[4] / halved[5]
    for cell, border in ((cell_of(stage.ended, 0), 0.0), (cell_of(stage.ended, 2), 1.0), (halved, 1 - share)):
        lane, step = cell[:2]
        left = int((24 + (lane * 5 + step) * across) * ratio) + 1
        right = int((24 + (lane * 5 + step + 1) * across - 1) * ratio)
        upper, high = (1 + lane * down) * ratio, (down - 1) * ratio
        mark = 2 * ratio  # of the phase, on top
        above = pixels[int(upper + mark) + 1 : int(upper + high * border), left:right]
        below = pixels[int(upper + max(high * border, mark)) + 2 : int(upper + high), left:right]
        for area, colour, other in ((above, REUSED, FULL), (below, FULL, REUSED)):
            if len(area) > 2:
                assert near(area, colour).mean() > 0.2, (cell, colour)
                assert not near(area, other).any(), (cell, other)


def test_recomputed_tokens_are_marked_and_others_are_not(stage: Any) -> None:
    lane, step = half_computed(stage.ended)[:2]
    stage.call(f"v.choose({lane}, {step}, 0)")
    stage.until(lambda: stage.call(f"Boolean(v.run.pictures.get({lane})?.get({step}))"))
    bits = np.array(stage.call(f"[...v.run.pictures.get({lane}).get({step}).bits]"), dtype=np.uint8)
    rows, columns = stage.call("[v.head.rows, v.head.columns]")
    every = np.unpackbits(bits, bitorder="little")[: 5 * rows * columns].reshape(5, rows, columns)
    frame = int(np.abs(every.mean(axis=(1, 2)) - 0.5).argmin())
    flags = every[frame]
    assert 0 < flags.mean() < 1
    stage.call(f"v.choose({lane}, {step}, {frame})")
    stage.until(lambda: stage.call(f"v.run.thumbnails.get({lane})?.stale === false"))
    stage.call("(v.shows = 'tokens', v.opacity = 1)")
    marked = stage.pixels("picture")
    stage.call("(v.opacity = 0)")
    plain = stage.pixels("picture")
    stage.page.evaluate(
        """([kind, lane, step]) => {
          const { run } = window.mc.view(kind);
          run.asked.set(lane, run.lastStep(lane) + 1);  // the server has let it go too
          window.gone = run.pictures.get(lane).get(step);
          run.pictures.get(lane).delete(step);
        }""",
        [SAMPLER, lane, step],
    )
    stage.call("(v.opacity = 1, v.token = { row: 0, column: 0 })")
    assert np.array_equal(stage.pixels("picture"), plain), "it does not guess"
    assert "not kept whether recomputed" in stage.state()["words"][2]
    stage.call(f"v.run.pictures.get({lane}).set({step}, {{ step: {step}, bits: null, weights: null }})")
    assert not np.array_equal(stage.pixels("picture"), plain), "some branch recomputed each token"
    assert "column 0: recomputed" in stage.state()["words"][2]
    stage.call(f"(v.token = null, v.run.pictures.get({lane}).set({step}, window.gone))")
    changed = (marked != plain).any(axis=-1)
    side = changed.shape[0] / rows * 1.0
    left = (changed.shape[1] - side * columns) / 2
    if left < 0:  # as wide as the canvas allows
        side = changed.shape[1] / columns
        left = 0.0
    top = (changed.shape[0] - side * rows) / 2
    for row in range(rows):
        for column in range(columns):
            area = changed[
                int(top + row * side) + 2 : int(top + (row + 1) * side) - 2,
                int(left + column * side) + 2 : int(left + (column + 1) * side) - 2,
            ]
            assert area.mean() == (1.0 if flags[row, column] else 0.0), (row, column)
    stage.call("(v.shows = 'both', v.opacity = 0.7)")
    stage.settle()
    stage.shot("finished")


def test_the_heat_map_covers_the_latents_picture(stage: Any) -> None:
    lane, step = cell_of(stage.ended, 1)[:2]
    stage.call(f"v.choose({lane}, {step}, 2)")
    stage.until(lambda: stage.call(f"Boolean(v.run.thumbnails.get({lane})?.image)"))
    stage.call("(v.shows = 'none')")
    picture = stage.pixels("picture")
    stage.call("(v.shows = 'motion', v.opacity = 1)")
    heat = stage.pixels("picture")
    assert near(heat, (0, 32, 77)).any() and near(heat, (255, 234, 70)).any(), "still and moving"
    assert picture[..., :3].std() > 10 and (picture != heat).any(axis=-1).mean() > 0.1
    stage.call("(v.shows = 'both', v.opacity = 0.7)")


def test_keys_and_play_choose_the_step(stage: Any) -> None:
    stage.call("v.choose(1, 10, 0)")
    stage.call("v.element.focus()")
    stage.page.keyboard.press("ArrowRight")
    assert stage.state()["step"] == 11
    stage.page.keyboard.press("ArrowUp")
    assert (stage.state()["lane"], stage.state()["step"]) == (0, 11)
    stage.page.keyboard.press("PageDown")
    assert stage.state()["frame"] == 1
    stage.page.keyboard.press("Home")
    assert stage.state()["step"] == 0
    stage.page.keyboard.press(" ")
    stage.until(lambda: stage.state()["step"] >= 2, 20)
    stage.page.keyboard.press(" ")
    assert stage.call("v.playing") is None


def test_hover_and_click_on_the_timeline(stage: Any) -> None:
    stage.look()
    lane, step = cell_of(stage.ended, 1)[:2]
    place = stage.call("v.parts.timeline.getBoundingClientRect().toJSON()")
    width, height = stage.call("[v.parts.timeline.clientWidth, v.parts.timeline.clientHeight]")
    zoom = place["width"] / width
    x = 24 + (lane * 5 + step + 0.5) * (width - 26) / 30
    y = 1 + (lane + 0.5) * min((height - 16) / 3, 26)
    stage.page.mouse.move(place["x"] + x * zoom, place["y"] + y * zoom)
    stage.settle()
    words = stage.state()["words"][2]
    assert words.startswith(f"chunk {lane}, step {step}: ")
    assert "token phase" in words and "% recomputed" in words and "(threshold 0.2)" in words
    stage.page.mouse.down()
    stage.page.mouse.up()
    assert (stage.state()["lane"], stage.state()["step"]) == (lane, step)
    stage.page.mouse.move(5, 500)


def test_a_second_page_and_a_reload_show_the_same(stage: Any) -> None:
    """The state after a reload equals the state before it, and so do the pixels."""
    lane, step = cell_of(stage.ended, 1)[:2]
    stage.call(f"v.choose({lane}, {step}, 2)")
    timeline, before = stage.pixels("timeline"), stage.state()
    other = Stage.open(None, stage.comfy, stage.name, "nodes2" in stage.name, stage.page.context)
    other.graph(sampler_graph())
    found = other.until(lambda: (s := other.state())["run"] and s)
    assert found["run"] == before["run"]
    other.page.close()
    stage.load()
    stage.graph(sampler_graph())
    stage.look()
    stage.until(lambda: stage.state() == before)
    assert np.array_equal(stage.pixels("timeline"), timeline)


def test_a_reconnection_leaves_the_run_in_sight(stage: Stage) -> None:
    """Knobs were turned before it, but long ago."""
    stage.call("v.setMode('run')")
    with stage.page.expect_response("**/motioncache/plan"):
        stage.page.evaluate("window.comfyAPI.api.api.dispatchCustomEvent('reconnected')")
    stage.settle()
    assert stage.state()["mode"] == "run"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_themes(stage: Any, theme: str) -> None:
    choose = "async (theme) => await app.extensionManager.setting.set('Comfy.ColorPalette', theme)"
    stage.page.evaluate(choose, "dark" if theme == "light" else "light")
    stage.settle()
    drawn = "v.parts.timeline.toDataURL()"
    before = stage.call(drawn)
    stage.page.evaluate(choose, theme)
    stage.until(lambda: stage.call(drawn) != before, 60)
    stage.look(scale=1.3)
    stage.settle()
    ink, ground = stage.call("[getComputedStyle(v.element).color, getComputedStyle(v.element).backgroundColor]")

    def light(colour: str) -> float:
        return sum(float(part) for part in colour.partition("(")[2].rstrip(")").split(",")[:3]) / 3

    assert abs(light(ink) - light(ground)) > 90, (ink, ground)
    stage.shot(theme)
    stage.look()


def test_it_keeps_within_its_node_and_stays_sharp(stage: Any) -> None:
    stage.look()
    stage.settle()
    width, shown = stage.call("[v.element.scrollWidth, v.element.clientWidth]")
    assert width <= shown
    stage.look(scale=2.0)
    stage.settle()
    pixels, css = stage.call("[v.parts.timeline.width, v.parts.timeline.clientWidth]")
    assert pixels == pytest.approx(2 * css, abs=2)
    stage.look()


def test_it_grows_with_its_node(stage: Any) -> None:
    if "nodes2" in stage.name:
        pytest.skip("Nodes 2.0 resizes by the hand at a node's corner only")
    stage.look()
    before = stage.box()
    resize = """([kind, by]) => {
      const node = window.mc.node(kind);
      node.setSize([node.size[0] + by, node.size[1] + by]);
      app.canvas.setDirty(true, true);
    }"""
    stage.page.evaluate(resize, [SAMPLER, 120])
    grown = stage.until(lambda: (box := stage.box())["width"] > before["width"] + 60 and box, 60)
    assert grown["height"] > before["height"] + 60
    stage.settle()
    width, css, ratio = stage.call("[v.parts.picture.width, v.parts.picture.clientWidth, parseFloat(v.looks)]")
    assert width == pytest.approx(ratio * css, abs=2), "redrawn at its new size"
    stage.page.evaluate(resize, [SAMPLER, -120])
    stage.until(lambda: abs(stage.box()["width"] - before["width"]) < 2, 60)


def test_a_page_that_is_reloaded_during_a_run_goes_on_with_it(stage: Any) -> None:
    """Last, as the stage shows another run after it: one that lasts longer than a reload, and is then stopped."""
    if stage.name not in ("1.32.9 classic", "1.58.1 nodes2"):
        pytest.skip("two of the four are enough")
    graph = sampler_graph()
    next(n for n in graph["nodes"] if n["type"] == SAMPLER)["widgets_values"][STEPS] = 1000
    next(n for n in graph["nodes"] if n["type"] == "MotionCacheApply")["mode"] = 4  # bypassed: everything is computed
    stage.graph(graph)
    stage.queue()
    try:
        seen = stage.until(stage.begun)["run"]
        stage.load()
        stage.graph(graph)
        joined = stage.until(stage.begun)["run"]
        assert joined["id"] == seen["id"] and joined["status"] == "running"
        assert joined["cells"][: len(seen["cells"])] == seen["cells"]
        stage.until(lambda: len(stage.state()["run"]["cells"]) > len(joined["cells"]))
        more = stage.until(lambda: "left" in (state := stage.state())["words"][0] and state)
        assert more["mode"] == "run"
    finally:
        stage.comfy.interrupt()
    assert stage.finished()["run"]["status"] == "interrupted"
