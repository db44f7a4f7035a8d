"""The rules of deciding, each on a handful of tokens."""

from __future__ import annotations

import math

import pytest
import torch

from motioncache_core.decisions import accumulate, limit_reuse, needed, phase_of, too_few, vote


def mask(text: str) -> torch.Tensor:
    """``1``: needed."""
    return torch.tensor([letter == "1" for letter in text if letter in "01"])


def test_a_chunks_life_warm_up_4_and_6_updates():
    # the published settings: 5 full steps, then 6 updates as a whole, then tokens
    assert [phase_of(step, 0, 4, 6) for step in range(6)] == ["warm-up"] * 5 + ["chunk"]
    assert [phase_of(20, updates, 4, 6) for updates in (0, 5, 6, 7)] == ["chunk", "chunk", "token", "token"]


def test_phases_can_be_left_out():
    assert phase_of(0, 0, 0, 6) == "warm-up", "there is no residual before the first step"
    assert phase_of(1, 0, 0, 0) == "token"
    assert phase_of(1000, 999, 0, math.inf) == "chunk"


def test_accumulate_adds_weighted_distance():
    before = torch.tensor([0.0, 0.5, 1.0])
    found = accumulate(before, 0.2, torch.tensor([1.0, 0.5, 0.0]))
    torch.testing.assert_close(found, torch.tensor([0.2, 0.6, 1.0]))
    torch.testing.assert_close(accumulate(before, 0.25, None), torch.tensor([0.25, 0.75, 1.25]))
    assert before.tolist() == [0.0, 0.5, 1.0], "the input is not changed"


def test_a_token_is_needed_when_it_reaches_the_threshold():
    levels = torch.tensor([0.09, 0.1, 0.11], dtype=torch.float64)
    assert needed(levels, 0.1).tolist() == [False, True, True]
    assert needed(torch.zeros(2), 0.0).all() and needed(torch.zeros(2), -1.0).all()


@pytest.mark.parametrize(
    ("share", "expected"),
    # positions needed by 3, 2, 1 and 0 of the 3 frames
    [(0.0, "1110"), (0.34, "1100"), (0.5, "1100"), (0.67, "1000"), (0.99, "1000")],
)
def test_a_position_is_computed_in_all_frames_if_more_than_the_share_needs_it(share: float, expected: str):
    need = mask("1110 1100 1000")
    assert torch.equal(vote(need, 3, share), mask(expected).repeat(3))


def test_the_share_itself_is_not_enough():
    assert not vote(mask("1 1 0 0"), 4, 0.5).any()
    assert vote(mask("1 1 1 0"), 4, 0.5).all()


def test_a_vote_of_one_frame_changes_nothing():
    assert torch.equal(vote(mask("1010"), 1, 0.5), mask("1010"))


def test_reuse_is_limited_to_the_smallest_accumulators():
    need = mask("10000")
    accumulators = torch.tensor([9.0, 0.4, 0.1, 0.3, 0.2])
    # 2 of 5 may be reused: those at 0.1 and 0.2
    assert torch.equal(limit_reuse(need, accumulators, 0.4), mask("11010"))
    assert torch.equal(need, mask("10000")), "the input is not changed"


def test_on_a_tie_the_earlier_token_is_reused():
    assert torch.equal(limit_reuse(mask("0000"), torch.zeros(4), 0.5), mask("0011"))


@pytest.mark.parametrize(("ratio", "reused"), [(0.0, 0), (0.19, 0), (0.2, 1), (0.5, 2), (0.8, 4), (1.0, 4)])
def test_never_more_than_the_share_is_reused(ratio: float, reused: int):
    limited = limit_reuse(mask("10000"), torch.arange(5.0), ratio)
    assert int((~limited).sum()) == reused
    assert limited[0]


@pytest.mark.parametrize(
    ("count", "ratio", "waits"),
    [(0, 0.4, False), (1, 0.4, True), (3, 0.4, True), (4, 0.4, False), (10, 0.4, False), (1, 0.0, False)],
)
def test_fewer_than_the_minimum_wait_but_none_is_not_few(count: int, ratio: float, waits: bool):
    assert too_few(count, 10, ratio) is waits
