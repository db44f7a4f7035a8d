"""The page: presets and knobs follow each other, advanced knobs can be shown, nothing of ours throws."""

from __future__ import annotations

from typing import Any

import pytest

ADD = """kind => {
    const app = window.comfyAPI.app.app;
    const node = window.LiteGraph.createNode(kind);
    app.graph.add(node);
    return node.id;
}"""
VALUES = (
    """id => Object.fromEntries(window.comfyAPI.app.app.graph.getNodeById(id).widgets.map(w => [w.name, w.value]))"""
)
SET = """([id, name, value]) => {
    const widget = window.comfyAPI.app.app.graph.getNodeById(id).widgets.find(w => w.name === name);
    widget.value = value;
    widget.callback(value);
}"""
VISIBLE = """id => {
    const node = window.comfyAPI.app.app.graph.getNodeById(id);
    return node.widgets.filter(w => node.isWidgetVisible(w)).map(w => w.name);
}"""


@pytest.fixture
def page(comfy_page: Any) -> Any:
    errors: list[str] = []
    comfy_page.on("pageerror", lambda error: errors.append(str(error)))
    yield comfy_page
    assert not [error for error in errors if "motioncache" in error.lower()]


def test_presets_fill_the_knobs_and_knobs_make_it_custom(page: Any) -> None:
    node = page.evaluate(ADD, "MotionCacheApply")
    page.evaluate(SET, [node, "preset", "chunk-level only (FlowCache's rule)"])
    values = page.evaluate(VALUES, node)
    assert values["granularity"] == "chunk" and values["vote"] == 1.0 and values["min_update_ratio"] == 0.0
    assert values["preset"].startswith("chunk-level")
    page.evaluate(SET, [node, "chunk_threshold", 0.2])
    values = page.evaluate(VALUES, node)
    assert values["preset"] == "custom" and values["granularity"] == "chunk" and values["chunk_threshold"] == 0.2
    page.evaluate(SET, [node, "preset", "MotionCache (published SkyReels-V2 settings)"])
    values = page.evaluate(VALUES, node)
    assert values["chunk_threshold"] == 0.1 and values["granularity"] == "token" and values["vote"] == 0.5


def test_at_most_five_knobs_are_in_sight_until_advanced_is_shown(page: Any) -> None:
    node = page.evaluate(ADD, "MotionCacheApply")
    shown = page.evaluate(VISIBLE, node)
    assert shown[0] == "preset" and len(shown) == 6
    page.evaluate("id => window.comfyAPI.app.app.graph.getNodeById(id).toggleAdvanced()", node)
    assert len(page.evaluate(VISIBLE, node)) > 10


@pytest.mark.parametrize("kind", ["MotionCacheBeginVideo", "MotionCacheBeginMagi1Video", "MotionCacheGenerateChunks"])
def test_seeds_of_a_storyboard_stay_from_run_to_run(page: Any, kind: str) -> None:
    """Else an unedited part would be made again; a graph that says otherwise is kept as it is."""
    node = page.evaluate(ADD, kind)
    assert page.evaluate(VALUES, node)["control_after_generate"] == "fixed"
    page.evaluate(SET, [node, "control_after_generate", "randomize"])
    again = """async id => {
        const app = window.comfyAPI.app.app;
        await app.loadGraphData(app.graph.serialize());
    }"""
    page.evaluate(again, node)
    assert page.evaluate(VALUES, node)["control_after_generate"] == "randomize"
