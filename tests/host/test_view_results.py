"""Results come to the graph that made them or asks for them, however late."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.host.test_view_graphs import PREVIEW, add_preview
from tools.host.server import ComfyServer
from tools.host.stage import SAMPLER, Stage, sampler_graph


@pytest.fixture(scope="module")
def stage(browser: Any, comfy: ComfyServer) -> Iterator[Stage]:
    made = Stage.open(browser, comfy, "results 1.32.9 classic", False)
    yield made
    made.page.context.close()
    assert not [error for error in made.errors if "motioncache" in error.lower()]


def hold_results(stage: Stage) -> None:
    """Keep ComfyUI's messages about outputs from the page until they are released."""
    stage.page.evaluate(
        """() => {
          window.held = [];
          window.hold = (event) => (event.stopImmediatePropagation(), window.held.push(event.detail));
          window.comfyAPI.api.api.addEventListener("executed", window.hold, true);
        }"""
    )


def release_results(stage: Stage) -> None:
    stage.page.evaluate(
        """() => {
          const { api } = window.comfyAPI.api;
          api.removeEventListener("executed", window.hold, true);
          window.held.forEach((detail) => api.dispatchCustomEvent("executed", detail));
        }"""
    )


def held(stage: Stage, kind: str = SAMPLER) -> bool:
    """Whether a node's message is held."""
    return stage.call("v.ids()[0]", kind) in stage.page.evaluate("window.held.map((detail) => detail.node)")


def test_a_result_that_comes_behind_another_graph_is_not_shown_there(stage: Stage) -> None:
    graph = sampler_graph()
    stage.graph(graph)
    hold_results(stage)
    stage.queue()
    begun = stage.until(stage.begun)
    stage.until(lambda: held(stage))
    stage.graph(sampler_graph() | {"id": "5a0a8e0e-0c5b-4e57-9b6a-2a3f57f7c4d0"})
    release_results(stage)
    stage.settle()
    assert stage.call("v.run?.id") != begun["run"]["id"]
    stage.graph(graph)
    assert stage.finished()["run"]["id"] == begun["run"]["id"]


def test_a_result_that_was_kept_from_another_graph_is_shown(stage: Stage) -> None:
    """ComfyUI runs nothing again that two graphs have in common."""
    add_preview(stage)
    stage.queue()
    made = stage.finished(PREVIEW)["run"]["id"]
    same = stage.page.evaluate("(app.rootGraph ?? app.graph).serialize()")
    stage.graph(same | {"id": "6b1b9f1f-1d6c-4f68-8c7b-3b4a68a8d5e1"})
    stage.settle(PREVIEW)
    assert stage.state(PREVIEW)["run"] is None
    hold_results(stage)
    stage.page.evaluate("() => app.queuePrompt(0, 1)")
    stage.until(lambda: held(stage, PREVIEW))
    stage.graph(same | {"id": "7c2c0a2a-2e7d-4a79-8d8c-4c5b79b9e6f2"})
    release_results(stage)
    stage.settle(PREVIEW)
    assert stage.state(PREVIEW)["run"] is None, "it was not this graph that asked"
    stage.graph(same | {"id": "6b1b9f1f-1d6c-4f68-8c7b-3b4a68a8d5e1"})
    stage.until(lambda: (run := stage.state(PREVIEW)["run"]) and run["id"] == made, 60)
