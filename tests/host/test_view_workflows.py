"""Which run a view shows: its own graph's, after a reload too, a script's without a graph, or one of the history."""

from __future__ import annotations

import json
import urllib.request
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tools.host.server import ComfyServer
from tools.host.stage import FRAMES, SAMPLER, SEEDS, STEPS, Stage, sampler_graph

LOAD_FROM_HISTORY = """async ([prompt, entry]) => {
  const { $pinia } = document.querySelector("#vue-app").__vue_app__.config.globalProperties;
  const queue = $pinia._s.get("queue");
  await queue.update();
  const task = queue.historyTasks.find((one) => (one.promptId ?? one.jobId) === prompt);
  if (task) return await task.loadWorkflow(app);
  // newer front ends ask for the history by a route that this core lacks; the steps of their queue's entry by hand
  await app.loadGraphData(entry.prompt[3].extra_pnginfo.workflow);
  const kept = $pinia._s.get("nodeOutput");
  for (const [id, output] of Object.entries(entry.outputs)) kept.setNodeOutputsByExecutionId(id, output);
  for (const extension of app.extensions) extension.onNodeOutputsUpdated?.(app.nodeOutputs);
}"""


UNUSED = 4711
"""Id of the sampler here: runs of a script show in every graph that has their node, those of other tests too."""


@pytest.fixture(scope="module")
def stage(browser: Any, comfy: ComfyServer) -> Iterator[Stage]:
    """One front end, as the others' ids and histories work alike, and the suite has a time to keep."""
    made = Stage.open(browser, comfy, "workflows 1.32.9 classic", False)
    yield made
    made.page.context.close()
    assert not [error for error in made.errors if "motioncache" in error.lower()]


def short_graph(**changes: Any) -> dict[str, Any]:
    """One chunk of 6 steps in a graph with an id of its own; its sampler has one that no script has queued."""
    graph = sampler_graph() | {"id": str(uuid.uuid4())} | changes
    sampler = next(n for n in graph["nodes"] if n["type"] == SAMPLER)
    sampler["widgets_values"][FRAMES], sampler["widgets_values"][STEPS] = 17, 6
    for link in graph["links"]:
        link[1], link[3] = (UNUSED if end == sampler["id"] else end for end in (link[1], link[3]))
    sampler["id"] = UNUSED
    graph["last_node_id"] = max(graph["last_node_id"], UNUSED)
    return graph


def own_id(stage: Stage) -> str:
    return stage.page.evaluate("(app.rootGraph ?? app.graph).id")


def shown(stage: Stage) -> str | None:
    """Name of the run that the view shows once it has asked the server."""
    asked = "([kind]) => Boolean(window.mc.view(kind)) && performance.getEntriesByType('resource').length"
    stage.until(lambda: stage.page.evaluate(asked, [SAMPLER]))
    stage.settle()
    stage.settle()
    run = stage.state()["run"]
    return run["id"] if run else None


def test_a_view_shows_runs_of_its_own_graph_only(stage: Stage) -> None:
    one, other = short_graph(), short_graph()
    stage.graph(one)
    stage.queue()
    made = stage.finished()["run"]
    assert made["workflow"] == one["id"] == own_id(stage)
    stage.graph(other)
    assert shown(stage) is None and stage.state()["mode"] == "plan"
    stage.queue()
    second = stage.finished()["run"]
    assert second["workflow"] == other["id"] and second["id"] != made["id"]
    stage.graph(one)
    stage.until(lambda: shown(stage) == made["id"], 300)


def test_a_graph_without_an_id_gets_one_that_outlives_a_reload(stage: Stage) -> None:
    graph = short_graph()
    del graph["id"]
    stage.graph(graph)
    given = own_id(stage)
    assert len(given) == 36 and given.strip("0-")
    stage.queue()
    made = stage.finished()["run"]
    assert made["workflow"] == given
    stage.call("v.choose(0, 3, 2)")
    stage.page.wait_for_timeout(3000)  # the page keeps its graph a moment after a change
    stage.load()
    stage.page.wait_for_function("kind => window.mc.view(kind)", arg=SAMPLER, timeout=120_000)
    assert own_id(stage) == given
    stage.until(lambda: shown(stage) == made["id"], 300)
    state = stage.state()
    assert (state["mode"], state["step"], state["frame"]) == ("run", 3, 2)


def test_runs_of_a_script_are_shown_in_every_graph(stage: Stage) -> None:
    graph = short_graph()
    stage.graph(graph)
    assert shown(stage) is None
    prompt = stage.page.evaluate("async () => (await app.graphToPrompt()).output")
    run = stage.comfy.run(prompt, timeout=600)
    (final,) = next(ui["motioncache"] for ui in run.outputs.values() if "motioncache" in ui)
    assert final["workflow"] == ""
    stage.until(lambda: shown(stage) == final["run"], 300)
    stage.graph(short_graph())
    stage.until(lambda: shown(stage) == final["run"], 300)


def test_an_older_run_of_a_script_does_not_hide_the_graphs_own(stage: Stage) -> None:
    """The page comes to know the older one later, behind another graph."""
    graph = short_graph()
    stage.graph(graph)
    prompt = stage.page.evaluate("async () => (await app.graphToPrompt()).output")
    run = stage.comfy.run(prompt, timeout=600)
    (scripts,) = next(ui["motioncache"] for ui in run.outputs.values() if "motioncache" in ui)
    stage.set(SAMPLER, "seed", next(SEEDS))
    stage.queue()
    own = stage.finished()["run"]["id"]
    stage.load()
    stage.graph(graph)
    stage.until(lambda: shown(stage) == own, 60)
    stage.graph(short_graph())
    stage.until(lambda: shown(stage) == scripts["run"], 60)
    stage.graph(graph)
    stage.until(lambda: shown(stage) == own, 60)
    stage.page.wait_for_timeout(1000)
    assert shown(stage) == own


def test_an_older_entry_of_the_history_is_shown(stage: Stage) -> None:
    graph = short_graph()
    runs, prompts = [], []
    for _ in range(2):
        stage.graph(graph)
        stage.set(SAMPLER, "seed", next(SEEDS))
        stage.queue()
        runs.append(stage.finished()["run"]["id"])
        prompts.append(stage.until(lambda: prompt_that_made(stage, runs[-1])))
    assert runs[0] != runs[1]
    stage.page.evaluate(LOAD_FROM_HISTORY, prompts[0])
    stage.until(lambda: shown(stage) == runs[0], 300)
    stage.page.wait_for_timeout(1500)  # the server tells of the newest one meanwhile
    assert shown(stage) == runs[0] and stage.state()["mode"] == "run"
    stage.page.evaluate(LOAD_FROM_HISTORY, prompts[1])
    stage.until(lambda: shown(stage) == runs[1], 300)


def prompt_that_made(stage: Stage, run: str) -> list[Any] | None:
    """Id and history entry of the prompt that a run was part of."""
    with urllib.request.urlopen(f"{stage.comfy.url}/history") as answer:
        entries = json.loads(answer.read()).items()
    for prompt, entry in entries:
        states = [state for ui in entry["outputs"].values() for state in ui.get("motioncache", [])]
        if any(state["run"] == run for state in states):
            return [prompt, entry]
    return None
