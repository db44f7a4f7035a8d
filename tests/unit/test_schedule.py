"""The diffusion-forcing schedule against tables worked out by hand."""

from __future__ import annotations

import re

import pytest
import torch

from motioncache_core.models.skyreels_v2.levels import frame_rate_index
from motioncache_core.models.skyreels_v2.schedule import (
    chunk_sizes,
    rows,
    sigma_table,
    timestep_at,
    timesteps_of,
)


def positions(count: int, chunks: int, *more: int) -> list[tuple[int, ...]]:
    return [tuple(row.position(chunk) for chunk in range(chunks)) for row in rows(count, chunks, *more)]


def steps(count: int, chunks: int, *more: int) -> list[str]:
    """One text a row: ``x`` for a chunk that steps."""
    schedule = rows(count, chunks, *more)
    return ["".join(".x"[chunk in row.stepping] for chunk in range(chunks)) for row in schedule]


def test_levels_without_shift_are_evenly_spaced_from_0_999():
    assert sigma_table(4, 1.0) == pytest.approx((0.999, 0.74925, 0.4995, 0.24975, 0.0), abs=1e-7)


def test_the_shift_moves_levels_towards_noise():
    # 8 * 0.999 / (1 + 7 * 0.999) = 7.992 / 7.993; 8 * 0.4995 / (1 + 7 * 0.4995) = 3.996 / 4.4965
    assert sigma_table(2, 8.0) == pytest.approx((7.992 / 7.993, 3.996 / 4.4965, 0.0), abs=1e-7)


@pytest.mark.parametrize("count", [1, 2, 30, 143, 1000])
@pytest.mark.parametrize("shift", [0.5, 1.0, 8.0, 100.0])
def test_levels_fall_strictly_below_one_to_zero(count: int, shift: float):
    table = sigma_table(count, shift)
    assert len(table) == count + 1 and table[-1] == 0.0 and table[0] < 1.0
    assert all(a > b for a, b in zip(table, table[1:], strict=False))


def test_levels_are_float32_values():
    assert all(float(torch.tensor(sigma, dtype=torch.float32)) == sigma for sigma in sigma_table(30, 8.0))


def test_timesteps_are_truncated():
    assert timesteps_of(sigma_table(4, 1.0)) == (999, 749, 499, 249)
    assert timesteps_of((0.9999, 0.0009, 0.0)) == (999, 0)
    assert timesteps_of(sigma_table(2, 8.0)) == (999, 888)


def test_timestep_before_the_start_and_after_the_end():
    assert [timestep_at(position, (900, 500)) for position in range(4)] == [999, 900, 500, 0]


@pytest.mark.parametrize(
    ("frames", "block", "ready", "sizes", "ready_chunks"),
    [
        (25, 5, 0, [5, 5, 5, 5, 5], 0),
        (16, 5, 0, [5, 5, 5, 1], 0),
        (3, 5, 0, [3], 0),
        (4, 1, 0, [1, 1, 1, 1], 0),
        (16, 5, 1, [1, 5, 5, 5], 1),
        (15, 5, 5, [5, 5, 5], 1),
        (15, 5, 7, [5, 2, 5, 3], 2),
        (9, 4, 8, [4, 4, 1], 2),
    ],
)
def test_given_frames_and_the_end_may_be_shorter_chunks(
    frames: int, block: int, ready: int, sizes: list[int], ready_chunks: int
):
    assert chunk_sizes(frames, block, ready) == (sizes, ready_chunks)


def test_the_reference_cuts_from_the_first_frame():
    assert chunk_sizes(16, 5, 7, frozenset({"ready_frames_floored"})) == ([5, 5, 5, 1], 1)
    assert chunk_sizes(16, 5, 5, frozenset({"trailing_frames_dropped"})) == ([5, 5, 5], 1)


def test_two_chunks_one_step_apart():
    # 3 steps: positions 1, 2, 3 are steps, 4 is clean
    assert positions(3, 2, 0, 1) == [(1, 0), (2, 1), (3, 2), (4, 3)]
    assert steps(3, 2, 0, 1) == ["x.", "xx", "xx", ".x"]


def test_together_when_ar_step_is_zero():
    assert positions(2, 3, 0, 0) == [(1, 1, 1), (2, 2, 2)]
    assert steps(2, 3, 0, 0) == ["xxx", "xxx"]


def test_one_after_the_other_when_ar_step_is_the_number_of_steps():
    assert steps(2, 3, 0, 2) == ["x..", "x..", ".x.", ".x.", "..x", "..x"]


def test_ready_chunks_are_clean_from_the_start_and_never_step():
    assert positions(2, 3, 1, 1) == [(3, 1, 0), (3, 2, 1), (3, 3, 2)]
    assert steps(2, 3, 1, 1) == [".x.", ".xx", "..x"]


@pytest.mark.parametrize("count", [1, 2, 5, 8])
@pytest.mark.parametrize("chunks", [1, 2, 4])
@pytest.mark.parametrize("ready", [0, 1])
@pytest.mark.parametrize("ar_step", [0, 1, 3, 5, 8])
def test_every_chunk_steps_once_through_the_ladder(count: int, chunks: int, ready: int, ar_step: int):
    schedule = rows(count, chunks + ready, ready, min(ar_step, count))
    for chunk in range(chunks + ready):
        stepped = [row.position(chunk) for row in schedule if chunk in row.stepping]
        assert stepped == ([] if chunk < ready else list(range(1, count + 1)))
    assert all(row.stepping for row in schedule), "no row without work"
    assert len(schedule) == count + (chunks - 1) * min(ar_step, count)


@pytest.mark.parametrize("ar_step", [1, 2, 4])
def test_a_chunk_stays_ar_step_behind_while_its_neighbour_works(ar_step: int):
    for places in positions(6, 3, 0, ar_step):
        for left, right in zip(places, places[1:], strict=False):
            assert right == max(left - ar_step, 0) or left > 6


def test_a_window_shorter_than_the_video_needs_a_large_enough_ar_step():
    with pytest.raises(ValueError, match="ar_step is 2; with 4 chunks in a window of 2 and 6 steps") as refusal:
        rows(6, 4, 0, 2, 2)
    nearest = int(re.search(r"at least (\d+)", str(refusal.value))[1])
    assert nearest == 3
    schedule = rows(6, 4, 0, nearest, 2)
    for row in schedule:
        assert row.interval[0] <= min(row.stepping) and max(row.stepping) < row.interval[1]
        assert row.interval[1] - row.interval[0] == 2


def test_a_row_of_a_long_video_steps_only_the_chunks_in_work():
    schedule = rows(6, 1000, 0, 2)
    assert len(schedule) == 6 + 999 * 2
    assert max(len(row.stepping) for row in schedule) == 3
    assert schedule[1000].position(0) == 7 and schedule[1000].position(999) == 0


def test_frame_rates():
    assert [frame_rate_index(fps) for fps in (16, 16.0, 24, 8, 15.99)] == [0, 0, 1, 1, 1]
