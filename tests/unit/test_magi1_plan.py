"""MAGI-1's time table, stages and plans: what is passed when, what it reads, and how much must be stored."""

from __future__ import annotations

from collections import Counter

import pytest

from motioncache_core.models.magi1.guidance import OnePass, ThreePass
from motioncache_core.models.magi1.plan import SamplingSettings, build_plan, stored_chunks
from motioncache_core.models.magi1.schedule import Stage, intervals, stages, stride_of, time_table
from motioncache_core.plan import Call, Plan, PlanError


def plan_of(**changes: object) -> Plan:
    settings = {"frames": 96, "steps": 8, "chunk_frames": 6, "guidance": OnePass()}
    return build_plan(SamplingSettings(**(settings | changes)))


def passes(plan: Plan) -> Counter[str]:
    return Counter(name for call in plan.calls for part in call.parts for name, _ in part.branches)


def test_the_time_table_is_the_bent_square_in_float32():
    times = time_table(4)
    assert times == pytest.approx([0.0, 1 / 46, 0.1, 0.3, 1.0], abs=2e-7)
    for steps in (8, 12, 16, 32, 64):
        assert time_table(steps)[3 * steps // 4] > 0.3, "as float32 it lies just above, which decides about guidance"
    assert time_table(8, "identity") == tuple(i / 8 for i in range(9))
    assert time_table(8, "square")[4] == 0.25
    assert time_table(8, "piecewise")[7] == pytest.approx(0.5)


def test_twelve_steps_are_three_to_a_quarter_of_unequal_lengths():
    assert time_table(12, "identity")[:5] == (0.0, 2 / 16, 3 / 16, 4 / 16, 6 / 16)
    assert time_table(12, "identity", shortcut="16,16,8")[:5] == (0.0, 1 / 16, 2 / 16, 4 / 16, 5 / 16)
    assert intervals(12)[:4] == (2.0, 1.0, 1.0, 2.0)
    assert intervals(12, "16,16,8")[:3] == (1.0, 1.0, 2.0)
    assert intervals(8) == (1.0,) * 8
    assert [stride_of(16, 1.0), stride_of(64, 1.0), stride_of(12, 2.0), stride_of(12, 1.0)] == [8.0, 32.0, 4.0, 8.0]


def test_chunks_enter_a_stage_and_leave_when_the_window_is_full():
    made = stages(3, 2, 0)
    assert [(s.first, s.stop) for s in made] == [(0, 1), (0, 2), (1, 3), (2, 3)]
    assert [[s.step_of(c, 1, 4) for c in range(s.first, s.stop)] for s in made] == [[1], [5, 1], [5, 1], [5]]
    assert stages(5, 2, 3)[0] == Stage(first=3, stop=4, oldest=0, youngest=0)


def test_every_chunk_makes_every_step_once_and_in_order():
    plan = plan_of(frames=120, start_latents=8)
    steps: dict[int, list[int]] = {}
    for call in plan.calls:
        for part in call.parts:
            if part.step >= 0:
                steps.setdefault(part.chunk, []).append(part.step)
    assert steps == {chunk: list(range(8)) for chunk in range(1, 7)}
    assert plan.latent_frames == 42, "30 new frames behind 8 given ones, rounded up to chunks of 6"


def test_steps_end_where_the_next_ones_begin_and_the_network_is_told_the_exact_time():
    plan = plan_of(steps=16)
    times = time_table(16)
    for call in plan.calls:
        for part in call.parts:
            if part.step >= 0:
                assert part.timestep == times[part.step]
                assert (part.sigma, part.sigma_next) == (plan.sigmas[part.step], plan.sigmas[part.step + 1])
                assert call.sigma == part.sigma
    assert plan.sigmas[0] == 1.0 and plan.sigmas[-1] == 0.0


def test_a_chunk_sees_less_history_the_cleaner_it_is():
    plan = plan_of(frames=144, steps=8, window_chunks=4)
    seen = {part.step: part.reads for call in plan.calls for part in call.parts if part.chunk == 5 and part.step >= 0}
    assert seen == {
        **dict.fromkeys((0, 1), (6, 36)),
        **dict.fromkeys((2, 3), (12, 36)),
        **dict.fromkeys((4, 5), (18, 36)),
        **dict.fromkeys((6, 7), (24, 36)),
    }
    everything = plan_of(frames=144, history_chunks=())
    assert {part.reads[0] for call in everything.calls for part in call.parts} == {0}


def test_a_finished_chunk_is_passed_clean_before_the_next_stage_reads_it():
    plan = plan_of(frames=72)
    refreshed = [(call.row, call.parts[0]) for call in plan.calls if call.kind == "refresh"]
    assert [(row, part.chunk, part.reads) for row, part in refreshed] == [(8, 0, (0, 6)), (10, 1, (6, 12))]
    assert all(part.timestep == pytest.approx(0.9999) and part.step == -1 for _, part in refreshed)
    order = [(call.kind, call.parts[0].chunk) for call in plan.calls if call.row == 8]
    assert order == [("refresh", 0), ("denoise", 1), ("denoise", 2)]
    assert not [call for call in plan_of(frames=72, clean_refresh=False).calls if call.kind == "refresh"]


def test_given_chunks_are_shown_once_and_given_frames_of_a_chunk_in_each_of_its_steps():
    plan = plan_of(frames=48, start_latents=15)
    (window,) = plan.windows
    assert [(c.kind, c.parts[0].chunk) for c in plan.calls if c.kind == "context"] == [("context", 0), ("context", 1)]
    assert [chunk.number for chunk in window.chunks] == [None, None, 0, 1, 2]
    assert (window.context, window.remakes_context) == (15, False)
    image = plan_of(frames=48, start_latents=1).windows[0]
    assert (image.context, image.remakes_context, image.chunks[0].number) == (1, True, 0)


def test_given_chunks_look_back_as_far_as_clean_ones():
    def shown(**changes: object) -> list[tuple[int, int]]:
        plan = plan_of(frames=24, start_latents=60, **changes)
        return [call.parts[0].reads for call in plan.calls if call.kind == "context"]

    assert shown()[3] == (18, 24)
    assert shown(clean_chunks=-1)[3] == (12, 24)
    assert shown(clean_chunks=-1, history_chunks=())[9] == (12, 60), "8 chunks where nothing else is said"


def test_the_staged_window_takes_the_active_chunks_together():
    staged, chunk_wise = plan_of(attention="staged window"), plan_of()
    joint = [call for call in staged.calls if call.kind == "denoise"]
    assert [len(call.parts) for call in joint] == [1, 1, 2, 2, 3, 3, 4, 4, 3, 3, 2, 2, 1, 1]
    assert [p for call in joint for p in call.parts] == [
        p for call in chunk_wise.calls if call.kind == "denoise" for p in call.parts
    ]
    assert joint[4].sigma == max(part.sigma for part in joint[4].parts)
    assert not any(call.writes for call in joint)


def test_passes_without_history_and_with_text_are_left_out_where_they_have_no_share():
    thrifty, original = (plan_of(guidance=ThreePass(), steps=16, skip_redundant=skip) for skip in (True, False))
    denoise, clean = 4 * 16, 3
    assert passes(original) == {"text": denoise + clean, "null": denoise + clean, "alone": denoise}
    assert passes(thrifty)["alone"] == 4 * 12, "a quarter of the steps lies above t = 0.3"
    assert passes(thrifty)["null"] == denoise + clean
    for call in thrifty.calls:
        for part in call.parts:
            names = {name for name, _ in part.branches}
            youngest = min(p.timestep for c in thrifty.calls if c.row == call.row for p in c.parts)
            assert ("text" in names) == (youngest < 0.3), "an old chunk's text pass is made for younger ones"
            if part.step >= 0:
                assert ("alone" in names) == (part.timestep < 0.3)


def test_text_passes_are_also_left_out_where_no_younger_chunk_looks():
    plan = plan_of(guidance=ThreePass(), steps=16, history_chunks=(1, 1, 1, 1))
    for call in plan.calls:
        names = {name for part in call.parts for name, _ in part.branches}
        assert ("text" in names) == (call.kind == "denoise" and call.parts[0].timestep < 0.3)


def test_only_the_cleanest_chunk_of_a_distilled_window_is_steadied():
    plan = plan_of(steps=16)
    for call in plan.calls:
        for part in call.parts:
            active = [p.chunk for c in plan.calls if c.row == call.row for p in c.parts if p.step >= 0]
            steadied = part.step >= 12 and part.chunk == min(active)
            expected = (("text", 0.7), ("text alone", pytest.approx(0.3))) if steadied else None
            assert part.branches == (expected or (("text", 1.0 if part.step >= 0 else 0.0),))
    assert "text alone" not in passes(plan_of(guidance=OnePass(nearly_clean=False)))


def test_distilled_models_are_told_the_length_of_their_steps_and_base_models_are_not():
    assert {p.stride for c in plan_of(steps=16).calls for p in c.parts} == {8.0}
    assert {p.stride for c in plan_of(guidance=ThreePass()).calls for p in c.parts} == {0.0}
    plan = plan_of(steps=12)
    assert [c.parts[0].stride for c in plan.calls if c.row < 4] == [4.0, 8.0, 8.0, 4.0, 4.0]
    assert {c.parts[0].stride for c in plan.calls if c.kind == "refresh"} == {4.0}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"text": 5}),
        ({"guidance": ThreePass()}, {"text": 5, "null": 5}),
        ({"attention": "staged window"}, {"text": 1}),
        ({"attention": "staged window", "guidance": ThreePass()}, {"text": 1, "null": 1}),
        ({"start_latents": 60}, {"text": 5}),
        ({"history_chunks": ()}, {"text": 40}),
        ({"history_chunks": (), "guidance": ThreePass()}, {"text": 5, "null": 40}),
        ({"history_chunks": (1, 1, 1, 1)}, {"text": 4}),
        ({"history_chunks": (2, 2, 2, 9)}, {"text": 12}),
    ],
)
def test_as_many_chunks_are_stored_as_are_read_again(changes: dict, expected: dict):
    plan = plan_of(frames=960 - 4 * changes.get("start_latents", 0), **changes)
    assert stored_chunks(plan) == expected
    for branch, places in expected.items():
        assert overwritten_before_read(plan, branch, places) == []
        if places > 1:
            assert overwritten_before_read(plan, branch, places - 1), "one place less would lose something"


def overwritten_before_read(plan: Plan, branch: str, places: int) -> list[tuple[Call, int]]:
    """Reads of a branch's rows that find another chunk's, told by playing the plan."""
    stored = "null" if any(name == "null" for c in plan.calls for p in c.parts for name, _ in p.branches) else "text"
    place_of: dict[int, int] = {}
    wrong = []
    for call in plan.calls:
        for part in call.parts:
            names = {name for name, _ in part.branches}
            if call.writes and branch in names:
                own = place_of.get(part.chunk % places)
                if part.step > 0 and own != part.chunk:  # tokens that are reused keep their rows
                    wrong.append((call, part.chunk))
                place_of[part.chunk % places] = part.chunk
            for reader in names & {"text", "null"}:
                for chunk in range(part.reads[0] // 6, part.chunk):
                    source = stored if chunk * 6 < part.settled else reader
                    in_call = not call.writes and any(p.chunk == chunk for p in call.parts)
                    if source == branch and not in_call and place_of.get(chunk % places) != chunk:
                        wrong.append((call, chunk))
    return wrong


REFUSED = [
    ({"frames": 3}, "frames is 3; it must be at least 4 (nearest: 4)"),
    ({"frames": 50}, "frames is 50; it must be a multiple of 4 (nearest: 48 or 52)"),
    ({"steps": 10}, "steps is 10; it must be a multiple of the 4 chunks of the window (nearest: 8)"),
    ({"steps": 9, "window_chunks": 3}, "multiple of the 4 parts of history_chunks (nearest: 8)"),
    ({"steps": 0}, "steps is 0; it must be at least 1 (nearest: 1)"),
    ({"shift": 0.5}, "shift is 0.5; it must be at least 1 (nearest: 1.0)"),
    ({"history_chunks": (2, 0)}, "a chunk sees at least itself (nearest: 1)"),
    ({"clean_chunks": 0}, "clean_chunks is 0; it must be -1 or at least 1 (nearest: 1)"),
    ({"clean_t": 1.5}, "clean_t is 1.5; it must lie above 0 and be at most 1 (nearest: 1.0)"),
    ({"curve": "cosine"}, "curve is 'cosine'; it must be one of 'sd3', 'square', 'piecewise', 'identity'"),
    ({"attention": "full"}, "attention is 'full'; it must be one of 'chunk-wise', 'staged window'"),
    ({"attention": "staged window", "clean_refresh": False}, "turn it on or choose 'chunk-wise'"),
]


@pytest.mark.parametrize(("changes", "sentence"), REFUSED)
def test_what_cannot_be_planned_is_refused_with_the_nearest_legal_value(changes: dict, sentence: str):
    with pytest.raises(PlanError) as refusal:
        plan_of(**changes)
    assert sentence in str(refusal.value)
