"""MAGI-1's passes and their shares: they sum to 1, change with time, and mix part by part."""

from __future__ import annotations

import pytest
import torch

from motioncache_core.loop import clean_prediction
from motioncache_core.models.magi1.guidance import BRANCHES, OnePass, ThreePass, branches_of, combine
from motioncache_core.models.magi1.plan import SamplingSettings, build_plan
from motioncache_core.models.magi1.schedule import time_table
from motioncache_core.plan import Call


def joint_call(steps: int = 16, row: int = 12, **changes: object) -> Call:
    """Four chunks of 6 frames together, at steps 12, 8, 4, 0 of 16."""
    plan = build_plan(SamplingSettings(frames=96, steps=steps, attention="staged window", **changes))
    return next(call for call in plan.calls if call.row == row and call.kind == "denoise")


@pytest.mark.parametrize("guidance", [ThreePass(), OnePass(), OnePass(nearly_clean=False)])
def test_shares_sum_to_one(guidance):
    for t in time_table(64)[:-1]:
        for cleanest in (True, False):
            assert sum(share for _, share in guidance.shares(t, cleanest)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("t", "expected"),
    [
        (0.0, {"text": 7.5, "null": -6.0, "alone": -0.5}),
        (0.0217, {"text": 7.5, "null": -6.0, "alone": -0.5}),
        (0.29, {"text": 7.5, "null": -6.0, "alone": -0.5}),
        (time_table(16)[12], {"text": 0.0, "null": 1.0, "alone": 0.0}),
        (0.9999, {"text": 0.0, "null": 1.0, "alone": 0.0}),
    ],
)
def test_base_models_weigh_history_and_text_by_time(t: float, expected: dict):
    assert dict(ThreePass().shares(t, False)) == pytest.approx(expected)


def test_each_time_interval_has_its_own_shares():
    guidance = ThreePass(times=(0.0, 0.5), history=(2.0, 1.0), text=(3.0, 0.5))
    assert dict(guidance.shares(0.5 - 1e-6, True)) == {"text": 3.0, "null": -1.0, "alone": -1.0}
    assert dict(guidance.shares(0.5, True)) == {"text": 0.5, "null": 0.5, "alone": 0.0}


def test_the_threshold_of_the_nearly_clean_chunk_is_compared_with_float32_times():
    late = time_table(8)[6]
    assert late == 0.30000001192092896
    assert dict(OnePass().shares(late, True)) == {"text": 0.7, "text alone": pytest.approx(0.3)}
    assert OnePass().shares(late, False) == OnePass().shares(0.3, True) == (("text", 1.0),)


def test_the_passes_without_history_see_no_stored_chunk_and_null_texts_say_so():
    assert {name: (b.prompt, b.dropped, b.history) for name, b in BRANCHES.items()} == {
        "text": (True, False, True),
        "null": (False, True, True),
        "alone": (False, True, False),
        "text alone": (True, False, False),
    }


def test_a_joint_call_makes_the_union_of_its_parts_passes():
    call = joint_call(guidance=ThreePass())
    assert branches_of(call) == ("text", "null", "alone")
    assert [{name for name, _ in part.branches} for part in call.parts] == [
        {"text", "null"},
        *[{"text", "null", "alone"}] * 3,
    ]
    assert branches_of(joint_call(guidance=OnePass())) == ("text", "text alone")


def test_every_part_is_mixed_by_its_own_shares():
    call = joint_call(guidance=ThreePass())
    shape = (2, 16, 24, 2, 2)
    generator = torch.Generator().manual_seed(0)
    made = {name: torch.randn(shape, generator=generator) for name in branches_of(call)}
    mixed = combine(call, made)
    assert torch.equal(mixed[:, :, :6], made["null"][:, :, :6]), "one pass with share 1 goes through untouched"
    rest = {name: v[:, :, 6:] for name, v in made.items()}
    expected = 7.5 * rest["text"] - 6.0 * rest["null"] - 0.5 * rest["alone"]
    torch.testing.assert_close(mixed[:, :, 6:], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("guidance", [ThreePass(), OnePass()])
def test_mixing_clean_predictions_equals_predicting_from_the_mixed_velocity(guidance):
    call = joint_call(guidance=guidance)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 16, 24, 2, 2, generator=generator, dtype=torch.float64)
    made = {name: torch.randn(x.shape, generator=generator, dtype=torch.float64) for name in branches_of(call)}
    predictions = {name: clean_prediction(call, x, v) for name, v in made.items()}
    torch.testing.assert_close(combine(call, predictions), clean_prediction(call, x, combine(call, made)))


def test_passes_made_for_their_keys_only_leave_no_velocity():
    plan = build_plan(SamplingSettings(frames=96, steps=16))
    refresh = next(call for call in plan.calls if call.kind == "refresh")
    ones = torch.ones(1, 16, 6, 2, 2)
    assert not combine(refresh, {name: ones for name in branches_of(refresh)}).any()
