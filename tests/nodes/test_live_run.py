"""A run's live state outside of a server: nothing is encoded while nobody watches, and it ends with its run."""

from __future__ import annotations

import threading
import time
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

    made = module.live_run("7", "MotionCacheAutoregressiveSampler", plan, mc.config(), trace, colours)
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


def test_the_board_keeps_a_few_last_runs_and_those_in_work(mc: Any, begun: Any) -> None:
    _, plan, trace = begun
    module = mc.module("nodes.host.live_run")
    board, made = module.Board(), []
    for number in range(10):
        run = module.live_run(str(number % 8), "kind", plan, None, trace, None)
        if number != 2:
            run.state.finish("finished")
        board.put(run)
        made.append(run)
    kept = [run for run in made if board.of_run(run.state.run) is run]
    assert made[2] in kept, "still running"
    assert made[8] in kept and made[0] not in kept, "the newest of node 0"
    assert len(kept) == module.KEPT_RUNS
    assert board.of_node("0") is made[8] and board.of_node("none") is None
