"""Pictures of decisions, from events made by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from motioncache_core.events import CallEvent, Decision
from motioncache_core.models.skyreels_v2.plan import SamplingSettings, build_plan
from motioncache_core.plan import Plan
from motioncache_core.trace import Trace


def plan_of(**changes: object) -> Plan:
    """2 chunks of 2 latent frames, 2 steps, one after the other."""
    settings = {"frames": 13, "steps": 2, "ar_step": 2, "chunk_frames": 2}
    return build_plan(SamplingSettings(**(settings | changes)))


def decision(chunk: int, computed: int, total: int, mask: list[int] | None = None, **more: object) -> Decision:
    mask = None if mask is None else torch.tensor(mask, dtype=torch.bool)
    return Decision("role", chunk, 0, "token", total, computed, mask, **more)


def traced(plan: Plan, *decisions: list[Decision]) -> Trace:
    """One list of decisions a call; a frame has 1 x 2 tokens."""
    trace = Trace(plan, rows=1, columns=2)
    for call, made in zip(plan.calls, decisions, strict=True):
        trace.add(CallEvent(call, (), tuple(made), 0.0, torch.empty(0)))
    return trace


def values(picture: Tensor) -> list:
    return picture.flatten(1).tolist()


def test_a_chunks_steps_are_pictures_on_the_videos_grid():
    trace = traced(
        plan_of(),
        [decision(0, 4, 4)],
        [decision(0, 1, 4, [0, 1, 0, 0])],
        [decision(1, 4, 4)],
        [decision(1, 0, 4)],
    )
    assert [(e.start, e.stop, e.step) for e in trace.entries] == [(0, 2, 0), (0, 2, 1), (2, 4, 0), (2, 4, 1)]
    assert all(e.computed.dtype == torch.uint8 and e.computed.shape == (2, 1, 2) for e in trace.entries)
    assert values(trace.computed_at(0)) == [[1, 1]] * 4
    assert values(trace.computed_at(1)) == [[0, 1], [0, 0], [0, 0], [0, 0]]
    assert values(trace.share_computed()) == [[0.5, 1], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]


def test_branches_are_averaged():
    both = [decision(0, 4, 4), decision(0, 2, 4, [1, 0, 1, 0])]
    trace = traced(plan_of(frames=5, steps=1, ar_step=0), both)
    assert values(trace.entries[0].computed) == [[255, 128], [255, 128]]
    assert trace.share_computed().flatten().tolist() == pytest.approx([1, 128 / 255] * 2)


def test_a_step_without_decision_was_computed():
    assert values(traced(plan_of(frames=5, steps=1, ar_step=0), []).share_computed()) == [[1, 1]] * 2


def test_given_frames_and_refreshes_leave_no_picture():
    plan = plan_of(frames=17, start_latents=1, clean_refresh=True)
    trace = traced(plan, *[[] for _ in plan.calls])
    assert [(e.start, e.stop) for e in trace.entries] == [(1, 3), (1, 3), (3, 5), (3, 5)]
    assert values(trace.share_computed()) == [[0, 0]] + [[1, 1]] * 4


def test_a_decision_for_the_whole_window_counts_for_each_chunk():
    plan = plan_of(attention="vanilla full", ar_step=0)
    trace = traced(plan, [decision(-1, 8, 8)], [decision(-1, 0, 8)])
    assert values(trace.share_computed()) == [[0.5, 0.5]] * 4


def test_later_windows_lie_behind_their_history():
    plan = plan_of(window_frames=9, overlap_frames=5, frames=17, steps=1, ar_step=0)
    trace = traced(plan, *[[] for _ in plan.calls])
    assert sorted((e.start, e.stop) for e in trace.entries) == [(0, 2), (2, 3), (3, 4), (4, 5)]
    assert values(trace.share_computed()) == [[1, 1]] * 5


def test_weights_are_kept_where_they_were_made():
    weights = torch.tensor([0.5, 1.0, 0.25, 0.75])
    plan = plan_of(frames=5, ar_step=0)
    trace = traced(plan, [decision(0, 4, 4, weights=weights), decision(0, 4, 4, weights=weights * 0)], [])
    assert trace.entries[0].weights.dtype == torch.float16
    assert values(trace.entries[0].weights) == [[0.25, 0.5], [0.125, 0.375]]
    assert trace.entries[1].weights is None
