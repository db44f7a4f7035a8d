"""A run's live state outside of a server: nothing is encoded while nobody watches, and it ends with its run."""

from __future__ import annotations

import threading
import time
import tracemalloc
import types
from typing import Any

import numpy as np
import pytest
import torch


@pytest.fixture
def begun(mc: Any) -> Any:
    """(a live run of node 7 that has not been entered, its plan, its trace)."""
    plan = mc.plan(steps=4)
    trace = mc.module("motioncache_core.trace").Trace(plan, 3, 4)
    module = mc.module("nodes.host.live_run")
    coloured: list[Any] = []

    def colours(latents: Any) -> np.ndarray:
        coloured.append(threading.current_thread().name)
        return np.zeros((latents.shape[2], 6, 8, 3), dtype=np.uint8)

    made = module.live_run(module.Node("7", "MotionCacheAutoregressiveSampler"), plan, mc.config(), trace, colours)
    made.coloured = coloured
    yield made, plan, trace
    module.BOARD._runs.clear()


def calls(mc: Any, plan: Any, trace: Any) -> Any:
    """Events of a whole run, with chunks that become clean."""
    events = mc.module("motioncache_core.events")
    for call in plan.calls:
        total, part = call.frames * 12, call.parts[0]
        mask = torch.arange(total) % 3 == 0
        weights = torch.rand(total)
        decision = events.Decision(
            ("positive", 0, 0), part.chunk, part.step, "token", total, int(mask.sum()), mask, 0.1, weights=weights
        )
        event = events.CallEvent(call, (), (decision,), 0.01, torch.zeros(1, 16, call.frames, 6, 8))
        yield event, trace.add(event)
        if part.step == plan.steps - 1:
            yield events.ChunkEvent(0, plan.windows[0].chunks[part.chunk], torch.zeros(1, 16, call.frames, 6, 8)), ()


def test_nothing_is_packed_while_no_page_is_open(mc: Any, begun: Any) -> None:
    live, plan, trace = begun
    entry = mc.module("motioncache_core.trace").TraceEntry
    with live:
        for event, entries in calls(mc, plan, trace):
            live.hear(event, entries)
        time.sleep(0.5)
        assert len(live.state._pictures) == len(plan.calls)
        assert all(isinstance(picture, entry) for picture in live.state._pictures.values())
    assert set(live.coloured) == {"motioncache-live"}, "off the sampling thread"
    assert len(live.coloured) == len(plan.windows[0].chunks), "finished chunks only: nobody looks at the others"
    assert all(shown.clean for shown in live.thumbnails.values())


def test_a_run_that_goes_on_is_told_at_once_and_without_what_is_known(
    mc: Any, begun: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a storyboard's part does: its first call may take long, and pages ask for the calls before it."""
    live, plan, trace = begun
    module = mc.module("nodes.host.live_run")
    sent: list[dict[str, Any]] = []
    messages = types.SimpleNamespace(qsize=lambda: 0)
    server = types.SimpleNamespace(sockets={"page": 1}, messages=messages, send_sync=lambda _, told: sent.append(told))
    monkeypatch.setattr(module, "prompt_server", lambda: server)
    known = list(calls(mc, plan, trace))[:5]
    for event, entries in known:
        live.state.add(event, entries)
    with live:
        until = time.monotonic() + 10
        while not sent and time.monotonic() < until:
            time.sleep(0.01)
        assert sent and sent[0]["status"] == "running"
        assert sent[0]["cells"] == [] and sent[0]["base"] == sent[0]["seq"] == len(known)


def test_what_is_left_after_the_run(mc: Any, begun: Any) -> None:
    live, plan, trace = begun
    with live:
        for event, entries in calls(mc, plan, trace):
            live.hear(event, entries)
        thread = live._thread
        assert thread.is_alive()
    assert not thread.is_alive()
    assert live.snapshot()["status"] == "finished" and live.state.seq == len(plan.calls) + 1
    packed = mc.module("motioncache_core.live").Picture
    assert all(isinstance(picture, packed) for picture in live.state._pictures.values())
    assert live._work is None and live._colours is None and not live._clean
    payload = live.payload()
    assert payload["pictures"]["0"] and payload["thumbnails"] == [[0, 1, 1], [1, 1, 1], [2, 1, 1]]


@pytest.mark.parametrize(("raised", "status"), [("interrupt", "interrupted"), ("error", "failed")])
def test_a_run_that_stops_says_how(begun: Any, raised: str, status: str) -> None:
    import comfy.model_management

    live, _, _ = begun
    error = comfy.model_management.InterruptProcessingException() if raised == "interrupt" else ValueError("too big")
    with pytest.raises(type(error)), live:
        raise error
    assert live.snapshot()["status"] == status
    assert live.snapshot()["message"] == ("too big" if raised == "error" else "")
    assert not live._thread.is_alive()


def test_runs_of_one_node_id_in_several_graphs_are_kept_apart(mc: Any, begun: Any) -> None:
    _, plan, trace = begun
    module = mc.module("nodes.host.live_run")
    board = mc.module("nodes.host.board").Board()
    made = {}
    for graph in ("a", "b", ""):
        made[graph] = module.live_run(module.Node("7", "kind", graph), plan, None, trace, None)
        board.put(made[graph])
        assert made[graph].snapshot()["workflow"] == graph
        if graph == "b":
            assert board.of_node("7", "a") is made["a"] and board.of_node("7", "b") is made["b"]
            assert board.of_node("7", "c") is None and board.of_node("7") is made["b"]
    assert board.of_node("7", "a") is board.of_node("7", "c") is made[""], "a script's run is every graph's"
    again = module.live_run(module.Node("7", "kind", "a"), plan, None, trace, None)
    board.put(again)
    assert board.of_node("7", "a") is again and board.of_run(made["a"].state.run) is None
    assert board.of_node("7", "b") is made[""] and board.of_run(made["b"].state.run) is made["b"]


@pytest.mark.parametrize(
    ("extra", "found"),
    [
        (None, ""),
        ({}, ""),
        ({"workflow": {"id": "5f0c"}}, "5f0c"),
        ({"workflow": {"nodes": []}}, ""),
        ({"workflow": {"id": 7}}, ""),
        ({"workflow": []}, ""),
        ([], ""),
        ({"workflow": {"id": "x" * 101}}, ""),
        ({"workflow": {"id": "00000000-0000-0000-0000-000000000000"}}, ""),
    ],
)
def test_a_graphs_id_comes_from_its_hidden_input(mc: Any, extra: Any, found: str) -> None:
    module = mc.module("nodes.host.live_run")
    assert module.Node.of(types.SimpleNamespace(extra_pnginfo=extra), "kind").workflow == found
    assert module.Node.of(None, "kind") == module.Node.of(types.SimpleNamespace(), "kind") == module.Node(None, "kind")


def test_a_run_names_the_prompt_that_makes_it(mc: Any, begun: Any) -> None:
    from comfy_execution.utils import CurrentNodeContext

    _, plan, trace = begun
    module = mc.module("nodes.host.live_run")
    with CurrentNodeContext("a prompt", "7"):
        node = module.Node.of(types.SimpleNamespace(unique_id="7"), "kind")
    assert module.live_run(node, plan, None, trace, None).payload()["prompt"] == "a prompt"


def test_the_board_keeps_the_last_runs_and_those_in_work(mc: Any, begun: Any) -> None:
    _, plan, trace = begun
    module, board_module = mc.module("nodes.host.live_run"), mc.module("nodes.host.board")
    board, made = board_module.Board(), []
    for number in range(80):
        run = module.live_run(module.Node(str(number % 72), "kind"), plan, None, trace, None)
        if number != 2:
            run.state.finish("finished")
        board.put(run)
        made.append(run)
    kept = [run for run in made if board.of_run(run.state.run) is run]
    assert made[74] not in kept or made[2] not in kept, "the newest of node 2 only"
    assert made[79] in kept and made[72] in kept and made[0] not in kept, "the newest of node 0"
    assert len(kept) == board_module.KEPT_RUNS == 64, "as many as a storyboard may have parts"
    assert board.of_node("0") is made[72] and board.of_node("none") is None


def test_a_run_in_work_stays_on_a_full_board(mc: Any, begun: Any) -> None:
    _, plan, trace = begun
    module = mc.module("nodes.host.live_run")
    board = mc.module("nodes.host.board").Board(most_runs=3)
    made = [module.live_run(module.Node(str(number), "kind"), plan, None, trace, None) for number in range(6)]
    for number, run in enumerate(made):
        if number != 1:
            run.state.finish("finished")
        board.put(run)
    assert [number for number, run in enumerate(made) if board.of_node(str(number)) is run] == [1, 4, 5]


def test_pictures_go_before_cells_where_bytes_are_short(mc: Any, begun: Any) -> None:
    _, plan, trace = begun
    module, board_module = mc.module("nodes.host.live_run"), mc.module("nodes.host.board")
    heard = list(calls(mc, plan, trace))

    def finished(node: int) -> Any:
        run = module.live_run(module.Node(str(node), "kind"), plan, mc.config(), trace, None)
        for event, entries in heard:
            run.hear(event, entries)
        run.show(0, np.zeros((5, 40, 60, 3), dtype=np.uint8))
        run.state.finish("finished")
        return run

    pictures, cells = finished(0).sizes()
    assert pictures > 5 * 40 * 60 * 3 and cells == module.CELL_BYTES * len(plan.calls)
    board = board_module.Board(most_bytes=2 * (pictures + cells))
    runs = [finished(node) for node in range(4)]
    for run in runs:
        board.put(run)
    with_pictures = [bool(run.sizes()[0]) for run in runs]
    assert with_pictures == [False, False, False, True], "four runs' cells, and the pictures of the newest"
    assert all(board.of_node(str(node)) is run for node, run in enumerate(runs))
    assert all(len(run.snapshot()["cells"]) == len(plan.calls) for run in runs)
    assert runs[0].snapshot()["thumbnails"] == [] and runs[0].pictures(0) == []
    crowded = board_module.Board(most_bytes=5 * cells // 2)
    for node in range(6):
        crowded.put(finished(node))
    left = [node for node in range(6) if crowded.of_node(str(node)) is not None]
    assert left == [4, 5], "the oldest go as a whole in the end"


def test_a_cell_takes_about_as_much_as_is_counted(mc: Any, begun: Any) -> None:
    """Measured with tracemalloc, without pictures."""
    _, _, trace = begun
    module, plan = mc.module("nodes.host.live_run"), mc.plan(steps=40, frames=97, window=97)
    trace = mc.module("motioncache_core.trace").Trace(plan, 3, 4)
    heard = [(event, entries) for event, entries in calls(mc, plan, trace) if entries]
    run = module.live_run(module.Node("1", "kind"), plan, mc.config(), trace, None)
    tracemalloc.start()
    for event, entries in heard:
        run.hear(event, entries)
    run.state.forget_pictures(10**6)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.4 < taken / run.sizes()[1] < 1.3, taken / len(heard)
