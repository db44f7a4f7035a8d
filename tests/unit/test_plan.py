"""Plans: everything is generated once, in order, with what it needs in place; what cannot be planned is refused."""

from __future__ import annotations

import dataclasses
import re

import pytest

from motioncache_core.models.skyreels_v2.plan import SamplingSettings, build_plan, latent_length, pixel_length
from motioncache_core.models.skyreels_v2.schedule import sigma_table, timesteps_of
from motioncache_core.plan import Call, Plan, PlanError, Window

CASES = {
    "three chunks": {"frames": 57},
    "short last chunk": {"frames": 61},
    "one short chunk": {"frames": 13},
    "one frame": {"frames": 1},
    "shorter than the window": {"frames": 33, "window_frames": 97},
    "chunks of one frame": {"frames": 17, "chunk_frames": 1},
    "a chunk larger than the window": {"frames": 25, "chunk_frames": 12},
    "together": {"frames": 57, "ar_step": 0},
    "one step behind": {"frames": 57, "ar_step": 1},
    "one after the other": {"frames": 57, "ar_step": 6},
    "one step": {"frames": 57, "steps": 1, "ar_step": 1},
    "start image": {"frames": 57, "start_latents": 1},
    "start clip of more than a chunk": {"frames": 57, "start_latents": 7},
    "start clip but for one frame": {"frames": 57, "start_latents": 14},
    "two windows": {"frames": 97, "window_frames": 57},
    "two windows and a start image": {"frames": 97, "window_frames": 57, "start_latents": 1},
    "a short last window": {"frames": 73, "window_frames": 57},
    "a last window with one new frame": {"frames": 61, "window_frames": 57},
    "many windows": {"frames": 201, "window_frames": 37, "overlap_frames": 9},
    "overlap of one frame": {"frames": 97, "window_frames": 57, "overlap_frames": 1},
    "overlap of more than a chunk": {"frames": 97, "window_frames": 57, "overlap_frames": 29},
    "overlap that leaves one new frame a window": {"frames": 45, "window_frames": 33, "overlap_frames": 29},
    "windows of one chunk": {"frames": 97, "window_frames": 17, "overlap_frames": 5, "chunk_frames": 5},
    "clean history": {"frames": 97, "window_frames": 57, "history_noise": 0},
    "own noise levels": {"frames": 33, "sigmas": (0.9, 0.5, 0.25, 0.0), "ar_step": 2},
}
MODES = ["chunk-wise", "chunk-wise with refresh", "vanilla full", "vanilla block-causal"]


def settings(**changes: object) -> SamplingSettings:
    return SamplingSettings(**({"steps": 6, "ar_step": 2, "chunk_frames": 5, "overlap_frames": 17} | changes))


def plan_of(case: str, mode: str = "chunk-wise") -> Plan:
    attention = mode.removesuffix(" with refresh")
    return build_plan(settings(**CASES[case], attention=attention, clean_refresh=attention != mode))


every_case = pytest.mark.parametrize("case", CASES)
every_mode = pytest.mark.parametrize("mode", MODES)


def denoised(plan: Plan, window: Window) -> list[tuple[Call, object]]:
    """(call, part) of every step in a window."""
    return [(call, part) for call in plan.calls_of(window.index) for part in call.parts if part.step >= 0]


@every_case
def test_windows_generate_every_frame_of_the_video_once(case: str):
    plan = plan_of(case)
    assert plan.latent_frames == latent_length(settings(**CASES[case]).frames)
    start = CASES[case].get("start_latents", 0)
    made = [w.start + f for w in plan.windows for f in range(w.context, w.frames)]
    assert made == list(range(start, plan.latent_frames))
    for window, following in zip(plan.windows, plan.windows[1:], strict=False):
        assert following.start + following.context == window.start + window.frames, "history ends where it was made"
        assert following.context == latent_length(settings(**CASES[case]).overlap_frames)


@every_case
def test_chunks_cut_a_window_without_gap_and_given_ones_come_first(case: str):
    plan = plan_of(case)
    numbers = []
    for window in plan.windows:
        assert [chunk.place for chunk in window.chunks] == list(range(len(window.chunks)))
        bounds = [0, *(chunk.stop for chunk in window.chunks)]
        assert [chunk.start for chunk in window.chunks] == bounds[:-1] and bounds[-1] == window.frames
        assert all(1 <= chunk.frames <= plan.chunk_frames for chunk in window.chunks)
        given = [chunk for chunk in window.chunks if chunk.number is None]
        assert list(window.chunks[: len(given)]) == given
        assert sum(chunk.frames for chunk in given) == window.context
        own = [chunk for chunk in window.chunks if chunk.number is not None]
        assert all(chunk.frames == plan.chunk_frames for chunk in own[:-1]), "only the last one may be short"
        numbers += [chunk.number for chunk in own]
    assert numbers == list(range(len(numbers))), "noise is drawn by this number"


@every_case
@every_mode
def test_every_generated_frame_gets_every_step_in_order(case: str, mode: str):
    plan = plan_of(case, mode)
    sigmas = settings(**CASES[case]).sigmas or sigma_table(plan.steps, 8.0)
    timesteps = timesteps_of(sigmas)
    assert plan.sigmas == sigmas
    for window in plan.windows:
        steps: dict[int, list] = {frame: [] for frame in range(window.frames)}
        for _, part in denoised(plan, window):
            for frame in range(part.start, part.stop):
                steps[frame].append((part.step, part.timestep, part.sigma, part.sigma_next))
        ladder = [(k, timesteps[k], sigmas[k], sigmas[k + 1]) for k in range(plan.steps)]
        for frame, taken in steps.items():
            assert taken == ([] if frame < window.context else ladder)


@every_case
@every_mode
def test_calls_are_numbered_and_windows_and_rows_follow_each_other(case: str, mode: str):
    plan = plan_of(case, mode)
    assert [call.index for call in plan.calls] == list(range(len(plan.calls)))
    assert [(call.window, call.row) for call in plan.calls] == sorted((call.window, call.row) for call in plan.calls)
    assert {call.window for call in plan.calls} == set(range(len(plan.windows)))


@every_case
@pytest.mark.parametrize("mode", MODES[:2])
def test_a_chunk_wise_call_covers_one_chunk_and_reads_up_to_its_own_end(case: str, mode: str):
    plan = plan_of(case, mode)
    for call in plan.calls:
        chunk = plan.windows[call.window].chunks[call.parts[0].chunk]
        assert len(call.parts) == 1
        assert (call.start, call.stop, call.frames) == (chunk.start, chunk.stop, chunk.frames)
        assert call.reads == (0, chunk.stop)
        assert call.writes and call.causal


@every_case
@pytest.mark.parametrize("mode", MODES[:2])
def test_given_chunks_are_passed_first_once_and_what_is_read_was_written(case: str, mode: str):
    plan = plan_of(case, mode)
    noise = CASES[case].get("history_noise", 20)
    for window in plan.windows:
        calls = plan.calls_of(window.index)
        given = sum(chunk.number is None for chunk in window.chunks)
        assert [call.kind for call in calls].count("context") == given
        for place, call in enumerate(calls[:given]):
            part = call.parts[0]
            assert (call.kind, part.chunk, part.step) == ("context", place, -1)
            assert (part.timestep, part.sigma, part.sigma_next) == (noise, noise / 1000, noise / 1000)
            assert call.sigma == plan.sigmas[0], "prompts with a range are asked at the start"
        written: set[int] = set()
        for call in calls:
            assert set(range(call.parts[0].chunk)) <= written
            written.add(call.parts[0].chunk)


@every_case
def test_without_refresh_there_is_none_and_with_it_a_finished_chunk_gets_one_pass(case: str):
    assert all(call.kind != "refresh" for call in plan_of(case).calls)
    plan = plan_of(case, "chunk-wise with refresh")
    assert plan.clean_refresh
    for window in plan.windows:
        calls = plan.calls_of(window.index)
        last = {part.chunk: call for call, part in denoised(plan, window)}
        end = max(call.row for call in calls)
        refreshed = [call for call in calls if call.kind == "refresh"]
        expected = [chunk for chunk, call in sorted(last.items()) if call.row < end]
        assert [call.parts[0].chunk for call in refreshed] == expected, "nobody reads what ends with the window"
        for call in refreshed:
            part = call.parts[0]
            assert (part.timestep, part.sigma, part.step) == (0, 0.0, -1)
            assert call.row == last[part.chunk].row and call.index > last[part.chunk].index


@every_case
@pytest.mark.parametrize("mode", MODES[2:])
def test_a_vanilla_call_covers_the_window(case: str, mode: str):
    plan = plan_of(case, mode)
    assert not plan.chunk_wise and not plan.clean_refresh
    assert plan.causal is (mode == "vanilla block-causal")
    for call in plan.calls:
        window = plan.windows[call.window]
        assert [(p.chunk, p.start, p.stop) for p in call.parts] == [(c.place, c.start, c.stop) for c in window.chunks]
        assert call.sigma == max(part.sigma for part in call.parts if part.step >= 0)
        assert not call.writes and call.causal is plan.causal and call.kind == "denoise"
        for part, chunk in zip(call.parts, window.chunks, strict=True):
            if chunk.number is None:
                assert part.timestep == CASES[case].get("history_noise", 20)


def test_vanilla_shows_waiting_chunks_as_noise_and_finished_ones_as_clean():
    plan = build_plan(settings(frames=37, steps=2, ar_step=2, attention="vanilla full"))
    shown = [[part.timestep for part in call.parts] for call in plan.calls]
    assert shown == [[999, 999], [888, 999], [0, 999], [0, 888]]


def test_both_ways_of_sampling_step_the_same_chunks_in_the_same_rows():
    for case in CASES:
        by_row = [
            {(call.window, call.row, part.chunk, part.step) for call in plan.calls for part in call.parts}
            for plan in (plan_of(case), plan_of(case, "vanilla full"))
        ]
        assert {s for s in by_row[0] if s[3] >= 0} == {s for s in by_row[1] if s[3] >= 0}, case


def test_a_worked_example_two_chunks_two_steps_one_behind():
    plan = build_plan(settings(frames=25, steps=2, ar_step=1, chunk_frames=4, clean_refresh=True))
    listed = [(c.kind, c.row, c.parts[0].chunk, c.parts[0].timestep, c.start, c.stop) for c in plan.calls]
    assert listed == [
        ("denoise", 0, 0, 999, 0, 4),
        ("denoise", 1, 0, 888, 0, 4),
        ("denoise", 1, 1, 999, 4, 7),
        ("refresh", 1, 0, 0, 0, 4),
        ("denoise", 2, 1, 888, 4, 7),
    ]


def test_the_published_run_has_the_calls_of_the_reference():
    """177 frames in windows of 97 with an overlap of 17: 70 + 65 rows; per branch 250 + 200 steps and one context."""
    plan = build_plan(SamplingSettings(frames=177, steps=50))
    assert [len({call.row for call in plan.calls_of(window)}) for window in (0, 1)] == [70, 65]
    assert [len(plan.calls_of(window)) for window in (0, 1)] == [250, 201]
    assert plan.stored_frames == 25


def test_frames_and_latent_frames():
    assert [latent_length(frames) for frames in (1, 5, 17, 97, 177)] == [1, 2, 5, 25, 45]
    assert all(latent_length(pixel_length(latents)) == latents for latents in range(1, 50))


# -- refusals ----------------------------------------------------------------------------------------------------------

REFUSED = [
    ({"frames": 0}, [1]),
    ({"frames": -7}, [1]),
    ({"frames": 2}, [1, 5]),
    ({"frames": 100}, [97, 101]),
    ({"window": 60}, [57, 61]),
    ({"window": 0, "overlap": 1}, [5]),
    ({"window": 1, "overlap": 1}, [5]),
    ({"overlap": 18}, [17, 21]),
    ({"overlap": 0}, [1]),
    ({"overlap": 54}, [53]),
    ({"overlap": 57}, [53]),
    ({"overlap": 200}, [53]),
    ({"overlap": 3, "window": 5}, [1]),
    ({"overlap": 17, "window": 5}, [1]),
    ({"steps": 0, "ar_step": 0}, [1]),
    ({"steps": -5, "ar_step": 0}, [1]),
    ({"chunk_size": 0}, [1]),
    ({"ar_step": -1}, [0]),
    ({"ar_step": 7}, [6]),
    ({"shift": 0.0}, [0.01]),
    ({"shift": -3.0}, [0.01]),
    ({"history_noise": -1}, [0]),
    ({"history_noise": 1000}, [999]),
]
FIELDS = {"window": "window_frames", "overlap": "overlap_frames", "chunk_size": "chunk_frames"}
"""Input of the node -> setting, where the names differ."""


@pytest.mark.parametrize(("wrong", "nearest"), REFUSED, ids=str)
def test_a_refusal_names_input_value_and_nearest_values_and_those_are_legal(wrong: dict, nearest: list):
    base = settings(frames=97, window_frames=57)
    name, value = next(iter(wrong.items()))
    changed = dataclasses.replace(base, **{FIELDS.get(key, key): to for key, to in wrong.items()})
    with pytest.raises(PlanError) as refusal:
        build_plan(changed)
    message = str(refusal.value)
    assert message.startswith(f"{name} is {value}"), message
    proposed = re.search(r"nearest: ([^)]+)\)", message)[1].split(" or ")
    assert [type(value)(text) for text in proposed] == nearest
    for legal in nearest:
        assert build_plan(dataclasses.replace(changed, **{FIELDS.get(name, name): legal})).calls


def test_an_overlap_does_not_matter_where_one_window_is_enough():
    assert len(build_plan(settings(frames=57, window_frames=57, overlap_frames=18)).windows) == 1
    assert len(build_plan(settings(frames=57, window_frames=1001, overlap_frames=997)).windows) == 1


@pytest.mark.parametrize(("start", "window"), [(15, 57), (40, 57), (5, 17), (-1, 57)])
def test_a_start_must_leave_room_in_the_first_window(start: int, window: int):
    wrong = settings(frames=57, window_frames=window, overlap_frames=1, start_latents=start)
    with pytest.raises(PlanError, match=f"start fills {start} latent frames") as refusal:
        build_plan(wrong)
    if start >= 0:
        needed = int(re.search(r"at least (\d+)", str(refusal.value))[1])
        assert build_plan(dataclasses.replace(wrong, frames=max(57, needed), window_frames=needed)).calls


@pytest.mark.parametrize("sigmas", [(), (0.0,), (0.5, 0.5, 0.0), (0.5, 0.7, 0.0), (0.9, 0.1), (1.5, 0.5, 0.0)])
def test_own_noise_levels_must_fall_to_zero(sigmas: tuple[float, ...]):
    with pytest.raises(PlanError, match="sigmas are "):
        build_plan(settings(frames=17, sigmas=sigmas, ar_step=0))


def test_own_noise_levels_count_as_steps():
    plan = build_plan(settings(frames=33, sigmas=(0.9, 0.4, 0.0), ar_step=2, steps=30))
    assert plan.steps == 2
    with pytest.raises(PlanError, match="ar_step is 3; it must lie between 0 and the 2 steps"):
        build_plan(settings(frames=33, sigmas=(0.9, 0.4, 0.0), ar_step=3, steps=30))


def test_an_unknown_attention_is_refused_with_the_list():
    with pytest.raises(PlanError, match="attention is 'flash'; it must be one of 'chunk-wise', "):
        build_plan(settings(attention="flash"))
