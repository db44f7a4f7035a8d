"""The live state of a run: cells, packed pictures, totals, and that changes add up to the whole."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
import torch

from motioncache_core.config import CacheConfig
from motioncache_core.events import CallEvent, Decision, Pass
from motioncache_core.live import OUTCOMES, LiveState, pack_bits, pack_weights
from motioncache_core.models.magi1.plan import SamplingSettings as Magi1Settings
from motioncache_core.models.magi1.plan import build_plan as magi1_plan
from motioncache_core.models.skyreels_v2.plan import SamplingSettings, build_plan
from motioncache_core.plan import Call, Plan
from motioncache_core.timeline import PHASES, lanes_of
from motioncache_core.trace import Trace

ROLES = [("positive", 0, 0), ("negative", 0, 0)]
ROWS, COLUMNS = 2, 3


def plan_of(**changes: object) -> Plan:
    """2 chunks of 2 latent frames, 4 steps, one step apart."""
    settings = {"frames": 13, "steps": 4, "ar_step": 1, "chunk_frames": 2}
    return build_plan(SamplingSettings(**(settings | changes)))


def event(call: Call, index: int) -> CallEvent:
    """Branches that compute different shares of a call; every third call waits."""
    total = call.frames * ROWS * COLUMNS
    decisions, passes = [], []
    for place, role in enumerate(ROLES if call.parts[0].step >= 0 else []):
        computed = [total, (index * 3 + place) % total, 0][index % 3]
        mask = torch.arange(total) < computed if 0 < computed < total else None
        weights = torch.linspace(0.2, 1.0, total).roll(index) if index % 2 else None
        decisions.append(
            Decision(
                role,
                call.parts[0].chunk,
                call.parts[0].step,
                "token",
                total,
                computed,
                mask,
                0.1 * place,
                weights=weights,
            )
        )
        passes.append(Pass(role, computed, total, 1.0))
    return CallEvent(call, tuple(passes), tuple(decisions), 0.25 + index / 100, torch.empty(0))


def watched(plan: Plan, calls: int | None = None) -> LiveState:
    state = LiveState(plan, CacheConfig(), ROWS, COLUMNS, "a run", "12:5", "MotionCacheAutoregressiveSampler")
    trace = Trace(plan, ROWS, COLUMNS)
    for index, call in enumerate(plan.calls[:calls]):
        made = event(call, index)
        state.add(made, trace.add(made))
    return state


@pytest.mark.parametrize(
    "plan",
    [
        plan_of(),
        plan_of(ar_step=0),
        plan_of(frames=29, window_frames=13, overlap_frames=5),
        plan_of(start_latents=1, frames=17),
        plan_of(attention="vanilla full"),
        magi1_plan(Magi1Settings(frames=72, steps=8, window_chunks=4)),
        magi1_plan(Magi1Settings(frames=72, steps=8, window_chunks=2, start_latents=1)),
    ],
    ids=["staggered", "together", "windows", "start", "vanilla", "magi1", "magi1 image"],
)
def test_a_lane_begins_where_the_plan_says_and_steps_in_every_row(plan: Plan):
    lanes = lanes_of(plan)
    offsets, at = [], 0
    for window in plan.windows:
        offsets.append(at)
        at += max(call.row for call in plan.calls_of(window.index)) + 1
    rows = {
        (call.window, part.chunk, part.step): offsets[call.window] + call.row
        for call in plan.calls
        for part in call.parts
        if part.step >= 0
    }
    drawn = {(lane.window, lane.place, step): lane.begin + step for lane in lanes for step in range(plan.steps)}
    assert drawn == rows


def test_a_cell_tells_what_all_branches_did():
    cells = {tuple(cell[:2]): cell[2:] for cell in watched(plan_of()).snapshot()["cells"]}
    assert len(cells) == 8
    assert cells[(0, 0)][:4] == [PHASES.index("token"), OUTCOMES.index("full"), 24, 24]
    assert cells[(0, 0)][4:6] == [0.05, 0]
    # calls: chunk 0 step 0, chunk 0 step 1, chunk 1 step 0, chunk 0 step 2, ...
    assert cells[(0, 1)][1:4] == [OUTCOMES.index("partial"), 3 + 4, 24]
    assert cells[(1, 0)][1:4] == [OUTCOMES.index("reused"), 0, 24]


def test_totals_count_tokens_and_foretell_the_time():
    state = watched(plan_of(), calls=3)
    found = state.totals()
    assert (found["computed"], found["total"]) == (24 + 7 + 0, 72)
    assert found["calls"] == 3 and found["calls_planned"] == 8
    assert found["outcomes"] == [2, 2, 2]
    assert found["seconds"] == pytest.approx(0.78) and found["seconds_left"] == pytest.approx(5 * 0.26)
    assert found["seconds_by_lane"] == pytest.approx([0.25 + 0.26, 0.27])
    state.finish("finished")
    assert state.totals()["seconds_left"] is None


def test_changes_laid_over_each_other_are_the_whole():
    plan = plan_of(start_latents=1, frames=17, clean_refresh=True)
    state = LiveState(plan, CacheConfig(), ROWS, COLUMNS, "a run")
    trace, cells, base = Trace(plan, ROWS, COLUMNS), {}, 0
    for index, call in enumerate(plan.calls):
        made = event(call, index)
        state.add(made, trace.add(made))
        if index % 2:
            change = state.since(base)
            assert change["base"] == base and len(change["cells"]) <= 2
            cells |= {tuple(cell[:2]): cell for cell in change["cells"]}
            base = change["seq"]
    cells |= {tuple(cell[:2]): cell for cell in state.since(base)["cells"]}
    whole = state.snapshot()
    assert list(cells.values()) == whole["cells"] and whole["seq"] == len(plan.calls)
    assert json.loads(json.dumps(whole)) == whole


def test_pictures_say_which_tokens_and_how_strong_they_move():
    pictures = {picture["step"]: picture for picture in watched(plan_of()).pictures(0)}
    assert sorted(pictures) == [0, 1, 2, 3]
    assert pictures[0]["bits"] is None and pictures[0]["weights"] is None
    bits = np.unpackbits(np.frombuffer(base64.b64decode(pictures[1]["bits"]), np.uint8), bitorder="little")[:12]
    assert bits.tolist() == [1] * 4 + [0] * 8, "recomputed by at least one branch"
    raw, low, high, rows, columns = pictures[1]["weights"]
    values = low + (high - low) * np.frombuffer(base64.b64decode(raw), np.uint8) / 255
    assert (rows, columns) == (ROWS, COLUMNS)
    assert values == pytest.approx(torch.linspace(0.2, 1.0, 12).roll(1).tolist(), abs=0.003)


def test_large_frames_are_sent_smaller():
    weights = torch.zeros(5, 34, 60)
    weights[:, :17] = 1.0
    packed = pack_weights(weights)
    assert len(packed.values) == 5 * packed.rows * packed.columns <= 4096
    values = np.frombuffer(packed.values, np.uint8).reshape(5, packed.rows, packed.columns)
    assert values[:, 0].min() == 255 and values[:, -1].max() == 0
    assert len(pack_bits(torch.ones(5, 34, 60))) == 5 * 34 * 60 / 8


def test_what_is_kept_of_a_finished_run_is_bounded():
    state = watched(plan_of())
    state.finish("interrupted", "stopped", most_bytes=40)
    assert state.picture_bytes() <= 40
    assert state.snapshot()["status"] == "interrupted" and len(state.snapshot()["cells"]) == 8
    kept = [(lane, picture["step"]) for lane in (0, 1) for picture in state.pictures(lane)]
    assert kept and (1, 3) in kept and (0, 0) not in kept, "the newest ones"
    assert "pictures" in state.complete(40) and "pictures" not in state.complete(1)


def test_without_a_cache_everything_counts_as_computed():
    plan = plan_of()
    state, trace = LiveState(plan, None, ROWS, COLUMNS), Trace(plan, ROWS, COLUMNS)
    made = CallEvent(plan.calls[0], (Pass(ROLES[0], 12, 12, 1.0),), (), 0.1, torch.empty(0))
    state.add(made, trace.add(made))
    (cell,) = state.snapshot()["cells"]
    assert cell[2:6] == [PHASES.index("none"), OUTCOMES.index("full"), 12, 12]
    assert state.snapshot()["cache"] == "none" and state.snapshot()["thresholds"] is None


def test_pictures_of_earlier_chunks_can_be_left_out():
    state = watched(plan_of())
    cells = state.snapshot()["cells"]
    state.forget_pictures(1)
    assert state.pictures(0) == [] and len(state.pictures(1)) == 4
    assert state.snapshot()["cells"] == cells
