"""MAGI-1's policy, played with made-up embeddings: phases, thresholds, weights, caps, and what is reused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from motioncache_core.config import ConfigError, Magi1CacheConfig
from motioncache_core.decisions import limit_reuse, phase_at, ramp, vote_up
from motioncache_core.events import Decision
from motioncache_core.models.magi1.guidance import OnePass
from motioncache_core.models.magi1.plan import SamplingSettings, build_plan
from motioncache_core.models.magi1.policy import WHOLE_CALC_IDS, Magi1Policy
from motioncache_core.motion import latent_difference, latent_motion_weights
from motioncache_core.plan import Call, Plan
from motioncache_core.presets import MAGI1_PRESETS, PRESETS_OF_FAMILY

FRAMES, PER_FRAME = 3, 4
TOKENS = FRAMES * PER_FRAME
ROLE = ("guided", 0, 0)


def plan_of(chunks: int = 1, steps: int = 16, **changes: object) -> Plan:
    settings = {"chunk_frames": FRAMES, "guidance": OnePass(), "frames": chunks * FRAMES * 4}
    return build_plan(SamplingSettings(steps=steps, **(settings | changes)))


def embedding(latents: Tensor) -> Tensor:
    """Five channels that all hold the first latent of a patch."""
    return latents[0, :, ::2, ::2].reshape(-1, 1).expand(-1, 5).contiguous()


class Played:
    """A policy that sees every chunk's embedding grow by a share of its size a step, and latents that move.

    Args:
        growth: share by which each token's embedding grows a step: one number, or ``[TOKENS]``.
    """

    def __init__(self, plan: Plan, growth: float | Tensor = 0.01, quirks: frozenset[str] = frozenset(), **config):
        self.plan = plan
        self.policy = Magi1Policy(Magi1CacheConfig(**config), plan, quirks)
        self.growth = torch.as_tensor(growth, dtype=torch.float32).expand(TOKENS)
        generator = torch.Generator().manual_seed(0)
        self.latents = torch.randn(16, plan.latent_frames, 4, 4, generator=generator)
        self.decisions: list[Decision] = []

    def go(self) -> list[Decision]:
        for call in self.plan.calls:
            if call.kind == "denoise":
                self.decisions.append(self.step(call))
        return self.decisions

    def step(self, call: Call) -> Decision:
        part = call.parts[0]
        size = ((1 + self.growth) ** part.step).view(1, FRAMES, 2, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
        decision = self.policy.decide(ROLE, call, size, embedding)
        before = self.latents[:, part.start : part.stop].clone()
        after = before + 0.1 if decision.computed else before + self.policy.added(decision, part)
        self.latents[:, part.start : part.stop] = after
        previous = self.latents[:, part.start - 1] if part.start else None
        self.policy.observe(decision, part, before, after, previous)
        return decision


def test_phases_count_all_steps_of_a_chunk():
    assert [phase_at(n, 0, 2, 3) for n in range(6)] == ["warm-up"] * 2 + ["chunk"] * 3 + ["token"]
    assert [phase_at(n, 2, 2, math.inf) for n in range(6)] == ["chunk"] * 2 + ["warm-up"] * 2 + ["chunk"] * 2


def test_a_chunk_waits_until_its_distance_has_piled_up():
    played = Played(plan_of(), growth=0.01, granularity="chunk", warmup_steps=3, chunk_threshold=0.025)
    outcomes = [decision.outcome for decision in played.go()]
    # 0.01 a step: two steps stay below 0.025, the third reaches it; the last step of the run is always computed
    assert outcomes == ["full"] * 3 + ["reused", "reused", "full"] * 4 + ["full"]
    levels = [d.accumulators for d in played.decisions[3:6]]
    assert levels == pytest.approx([0.01, 0.02, 0.03], abs=1e-6)


def test_tokens_part_after_the_chunk_phase_and_those_that_move_more_come_first():
    played = Played(
        plan_of(), growth=0.01, warmup_steps=2, chunk_phase_updates=2, chunk_threshold=0.0, token_threshold=0.0295
    )
    decisions = played.go()
    assert [d.phase for d in decisions] == ["warm-up"] * 2 + ["chunk"] * 2 + ["token"] * 12
    weights = decisions[5].weights
    waited = torch.stack([d.accumulators for d in decisions[4:7]])
    torch.testing.assert_close(waited, 0.01 * torch.stack([weights, 2 * weights, 3 * weights]), atol=1e-5, rtol=1e-4)
    third = decisions[6]
    assert third.outcome == "partial"
    assert torch.equal(third.mask, weights >= 0.0295 / 0.03)


def test_computed_tokens_start_from_nothing_and_reused_ones_go_on():
    played = Played(plan_of(), warmup_steps=1, chunk_phase_updates=0, token_threshold=0.0295, growth=0.01)
    decisions = played.go()
    first = next(i for i, d in enumerate(decisions) if d.outcome == "partial")
    mask, before, after = (decisions[first].mask, decisions[first].accumulators, decisions[first + 1].accumulators)
    weights = decisions[first].weights
    torch.testing.assert_close(after, torch.where(mask, 0.0, before) + 0.01 * weights, atol=1e-5, rtol=1e-4)


def test_the_first_and_the_last_step_of_the_run_are_computed():
    played = Played(plan_of(chunks=2), warmup_steps=0, chunk_phase_updates=16, chunk_threshold=1e9)
    decisions = played.go()
    full = [(d.chunk, d.step) for d in decisions if d.outcome == "full"]
    assert full == [(0, 0), (1, 0), (1, 15)], "and every chunk's first step, which has nothing to compare with"
    assert all(d.distance is None for d in decisions if d.outcome == "full")


def test_thresholds_of_zero_compute_everything():
    played = Played(plan_of(chunks=2), warmup_steps=2, chunk_phase_updates=4, chunk_threshold=0, token_threshold=0)
    assert {decision.outcome for decision in played.go()} == {"full"}


def test_switched_off_nothing_is_decided():
    played = Played(plan_of(), granularity="off", warmup_steps=0, chunk_threshold=1e9)
    assert {(d.outcome, d.phase, d.distance) for d in played.go()} == {("full", "warm-up", None)}


def test_with_floor_one_all_tokens_decide_alike():
    settings = {"warmup_steps": 2, "chunk_phase_updates": 0, "token_threshold": 0.0295, "motion_floor": 1.0}
    outcomes = [d.outcome for d in Played(plan_of(), **settings).go()]
    rule = {"granularity": "chunk", "warmup_steps": 2, "chunk_threshold": 0.0295}
    assert outcomes == [d.outcome for d in Played(plan_of(), **rule).go()], "FlowCache's rule"
    assert "partial" not in outcomes and "reused" in outcomes


def test_every_token_can_be_measured_by_itself():
    growth = torch.full((TOKENS,), 0.001)
    growth[5] = 0.1
    settings = {"warmup_steps": 1, "chunk_phase_updates": 0, "token_threshold": 0.05, "motion_floor": 1.0}
    decision = Played(plan_of(), growth=growth, distance_per_token=True, **settings).go()[1]
    assert decision.mask.nonzero().flatten().tolist() == [5]
    assert decision.accumulators[5].item() == pytest.approx(0.1, abs=1e-5)
    assert decision.distance < 0.05, "the whole chunk's distance is told"


def test_what_is_reused_is_what_the_last_step_added_and_can_be_stretched():
    plan = plan_of()
    for rescale in (False, True):
        played = Played(plan, granularity="chunk", warmup_steps=2, chunk_threshold=1e9, rescale_residual=rescale)
        lengths = [a - b for a, b in zip(plan.sigmas, plan.sigmas[1:], strict=False)]
        start = played.latents.clone()
        played.go()
        reused = sum(lengths[2:15]) / lengths[1] if rescale else 13
        torch.testing.assert_close(
            played.latents - start, torch.full_like(start, 0.1 * (3 + reused)), atol=1e-4, rtol=1e-5
        )


def test_a_new_chunk_can_make_all_compute():
    plan = plan_of(chunks=3)
    settings = {"granularity": "chunk", "warmup_steps": 1, "chunk_threshold": 1e9}
    plain, eager = (Played(plan, recompute_on_entry=on, **settings).go() for on in (False, True))
    rows = [call.row for call in plan.calls if call.kind == "denoise"]
    assert {row for row, d in zip(rows, eager, strict=True) if d.outcome == "full"} == {0, 4, 8, 23}
    assert {row for row, d in zip(rows, plain, strict=True) if d.outcome == "full"} == {0, 4, 8, 23}
    at_entry = [d.outcome for row, d in zip(rows, eager, strict=True) if row == 8]
    assert at_entry == ["full"] * 3
    assert [d.outcome for row, d in zip(rows, plain, strict=True) if row == 8] == ["reused", "reused", "full"]


def test_the_reference_misses_entries_once_the_window_is_full():
    """6 chunks, window 4: where one enters as another ends, as many are active as before."""
    plan = plan_of(chunks=6)
    settings = {"granularity": "chunk", "warmup_steps": 0, "chunk_threshold": 1e9, "recompute_on_entry": True}
    rows = [call.row for call in plan.calls if call.kind == "denoise"]

    def recomputed(quirks: frozenset[str]) -> set[int]:
        """Rows in which a chunk that is not new computes everything."""
        made = zip(plan_steps, rows, Played(plan, quirks=quirks, **settings).go(), strict=True)
        return {row for step, row, decision in made if step and decision.outcome == "full"}

    plan_steps = [call.parts[0].step for call in plan.calls if call.kind == "denoise"]
    first, last = 0, max(rows)
    assert recomputed(frozenset()) - {first, last} == {4, 8, 12, 16, 20}
    assert recomputed(frozenset({WHOLE_CALC_IDS})) - {first, last} == {4, 8, 12}


def test_warm_up_may_begin_later():
    played = Played(plan_of(), granularity="chunk", warmup_start=5, warmup_steps=2, chunk_threshold=1e9)
    outcomes = [d.outcome for d in played.go()]
    assert outcomes == ["full"] + ["reused"] * 4 + ["full"] * 2 + ["reused"] * 8 + ["full"]


def test_weights_can_be_made_once():
    settings = {"warmup_steps": 2, "chunk_phase_updates": 0, "token_threshold": 0.02}
    made = [d.weights is not None for d in Played(plan_of(), weights_once=True, **settings).go()]
    assert made == [True] + [False] * 15
    assert all(d.weights is not None for d in Played(plan_of(), **settings).go())


def test_caps_hold_exactly_and_ties_are_broken_by_place():
    settings = {"warmup_steps": 1, "chunk_phase_updates": 0, "token_threshold": 1e9, "motion_floor": 1.0}
    half = Played(plan_of(), max_reuse_ratio=0.5, **settings).go()[1:15]
    assert {d.computed for d in half} == {6}
    assert half[0].mask.tolist() == [False] * 6 + [True] * 6, "all alike: the earlier half is reused"
    tied = Played(plan_of(), max_reuse_ratio=0.5, quirks=frozenset({"ratio_ties"}), **settings).go()[1]
    assert tied.outcome == "reused", "the reference keeps all that tie"
    assert {d.outcome for d in Played(plan_of(), max_reuse_ratio=0.0, **settings).go()} == {"full"}


def test_a_cap_may_change_over_the_token_phase():
    settings = {"warmup_steps": 1, "chunk_phase_updates": 1, "token_threshold": 1e9, "reuse_ramp": (1.0, 0.0)}
    computed = [d.computed for d in Played(plan_of(), **settings).go()]
    assert computed[2:15] == [TOKENS - int(ramp(1.0, 0.0, (n - 2) / 14) * TOKENS) for n in range(2, 15)]
    assert computed[2] == 0 and computed[14] == 11
    longer = Played(plan_of(chunks=2), quirks=frozenset({"ratio_progress_over_run"}), **settings).go()
    assert max(d.computed for d in longer if d.chunk == 0 and 2 <= d.step < 15) < 11, (
        "the reference never gets to the end"
    )


def test_a_vote_only_adds_and_resets_what_it_adds():
    need = torch.zeros(3, 4, dtype=torch.bool)
    need[0, 0] = need[1, 0] = need[2, 1] = True
    voted = vote_up(need.flatten(), 3, 0.5).view(3, 4)
    assert voted[:, 0].all() and voted[2, 1] and not voted[:2, 1].any()
    assert torch.equal(vote_up(need.flatten(), 3, 2 / 3), need.flatten()), "more than 2 of 3 frames"
    settings = {"warmup_steps": 1, "chunk_phase_updates": 0, "motion_floor": 0.1, "token_threshold": 0.005, "vote": 0.5}
    for quirks in (frozenset(), frozenset({"voting_keeps_accumulators"})):
        played = Played(plan_of(), quirks=quirks, **settings)
        for call in [c for c in played.plan.calls if c.kind == "denoise"][:8]:
            decision = played.step(call)
            kept = played.policy.state(ROLE, 0).accumulators
            if decision.mask is not None and bool((decision.mask & ~decision.need).any()):
                forced = decision.mask & ~decision.need
                assert bool((kept[forced] > 0).any()) == bool(quirks)
                break
        else:
            pytest.fail("nothing was forced")


def test_masks_of_the_step_before_stay_for_the_last_one_in_the_reference_only():
    settings = {"warmup_steps": 1, "chunk_phase_updates": 0, "token_threshold": 0.0295}
    right = Played(plan_of(), **settings).go()
    stale = Played(plan_of(), quirks=frozenset({"stale_last_masks"}), **settings).go()
    assert right[-1].outcome == "full"
    assert stale[-1].computed == stale[-2].computed < TOKENS


def test_distances_are_rounded_in_the_reference_only():
    """Its embeddings are bfloat16: 1.01 is held as 129 / 128 and 1.0201 as 131 / 128, and their quotient rounds too."""
    settings = {"warmup_steps": 1, "chunk_phase_updates": 16, "chunk_threshold": 0.015}
    right = Played(plan_of(), **settings).go()
    rounded = Played(plan_of(), quirks=frozenset({"metric_in_bf16"}), **settings).go()
    assert [d.distance for d in right[1:3]] == pytest.approx([0.01, 0.01], abs=1e-6)
    assert [d.distance for d in rounded[1:3]] == [1 / 128, 254 / 2**14]
    assert right[2].outcome == rounded[2].outcome == "full" and right[1].outcome == "reused"
    assert [d.outcome for d in right] != [d.outcome for d in rounded], "a chunk near the threshold decides otherwise"
    tokens = {
        **settings,
        "chunk_phase_updates": 0,
        "token_threshold": 0.5,
        "distance_per_token": True,
        "motion_floor": 1.0,
    }
    each = Played(plan_of(), quirks=frozenset({"metric_in_bf16"}), **tokens).go()[1]
    assert each.accumulators.tolist() == [1 / 128] * TOKENS


def test_few_tokens_can_be_made_to_wait():
    settings = {"warmup_steps": 1, "chunk_phase_updates": 0, "token_threshold": 0.0295, "min_update_ratio": 0.9}
    decisions = Played(plan_of(), **settings).go()
    waited = [d for d in decisions if d.waited]
    assert waited and all(d.computed == 0 and 0 < d.need_share < 0.9 for d in waited)


def test_a_chunk_is_remembered_by_its_latents():
    """Not by their embedding, which is far larger: it is made when a distance is, of this step's and the last one's."""
    made: list[int] = []

    def counted(latents: Tensor) -> Tensor:
        made.append(latents.numel())
        return embedding(latents)

    plan = plan_of()
    policy = Magi1Policy(Magi1CacheConfig(warmup_steps=3, chunk_phase_updates=20, chunk_threshold=0.5), plan)
    x = torch.randn(16, FRAMES, 4, 4, generator=torch.Generator().manual_seed(1))
    for call in [call for call in plan.calls if call.kind == "denoise"][:5]:
        seen = x.clone()
        decision = policy.decide(ROLE, call, x, counted)
        assert decision.total == TOKENS
        assert len(made) == 2 * max(call.parts[0].step - 2, 0)
        kept = policy.state(ROLE, 0).latents
        x += 0.01  # as the loop, which writes into its own tensor
        assert torch.equal(kept, seen)
        policy.observe(decision, call.parts[0], seen, x, None)


def test_a_finished_chunk_is_forgotten():
    played = Played(plan_of(), warmup_steps=2)
    played.go()
    played.policy.forget(0)
    assert played.policy.states == {}


def test_chunks_that_are_passed_together_cannot_be_left_out():
    with pytest.raises(ValueError, match="chunk by chunk only"):
        Magi1Policy(Magi1CacheConfig(), plan_of(attention="staged window"))


def test_weights_come_from_the_latents_of_the_frame_before():
    latents = torch.zeros(16, 3, 4, 4)
    latents[:, 1, :2, :2] = 1.0
    latents[:, 2] = latents[:, 1] + 5.0
    change = latent_difference(latents, torch.full((16, 4, 4), -2.0))
    assert change.tolist() == [[2.0] * 4, [1.0, 0.0, 0.0, 0.0], [5.0] * 4]
    weights = latent_motion_weights(latents, torch.full((16, 4, 4), -2.0), floor=0.6).view(3, 4)
    expected = torch.tensor([[1.0] * 4, [1.0, 0.6, 0.6, 0.6], [1.0] * 4])
    torch.testing.assert_close(weights, expected, msg="frames that change everywhere alike count as moving")
    assert latent_motion_weights(latents, None, floor=0.6)[:4].tolist() == [1.0] * 4
    latents[:, 1, 2:, :2] = 0.25
    assert latent_motion_weights(latents, None, floor=0.0, power=2.0).view(3, 4)[1, 2].item() == pytest.approx(0.0625)


def test_scaled_settings_reach_the_token_phase_in_short_runs():
    scaled, published = list(MAGI1_PRESETS.values())[:2]
    for steps in (8, 16, 32, 64):
        decisions = [
            phase_at(n, 0, c.warmup_steps, c.chunk_phase_updates)
            for c in [scaled.for_steps(steps)]
            for n in range(steps)
        ]
        assert {"warm-up", "chunk", "token"} == set(decisions)
        assert decisions.index("token") / steps == pytest.approx(25 / 64, abs=0.05)
    unscaled = published.for_steps(16)
    assert unscaled == published
    assert phase_at(15, 0, unscaled.warmup_steps, unscaled.chunk_phase_updates) == "chunk"
    assert scaled.for_steps(64) == published
    assert scaled.for_steps(16).token_threshold == pytest.approx(4 * 0.0065)


def test_the_presets_by_family():
    assert set(PRESETS_OF_FAMILY) == {"skyreels_v2", "magi1"}
    published = MAGI1_PRESETS["MotionCache (published MAGI-1 settings, 64 steps)"]
    assert (published.warmup_steps, published.chunk_phase_updates, published.made_for_steps) == (5, 20, None)
    assert (published.chunk_threshold, published.token_threshold) == (0.0065, 0.0065)
    assert (published.motion_floor, published.motion_power, published.vote) == (0.6, 1.0, None)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"granularity": "step"}, "granularity is 'step'; it must be one of 'off', 'chunk', 'token'"),
        ({"distance": "time embedding"}, "distance is 'time embedding'; it must be one of 'patch embedding'"),
        ({"weight_norm": "mean"}, "weight_norm is 'mean'; it must be one of 'min-max'"),
        ({"warmup_start": -1}, "warmup_start is -1; it must be a whole number of at least 0 (nearest: 0)"),
        ({"reuse_ramp": (0.5, 1.5)}, "reuse_ramp is 1.5; it must lie between 0.0 and 1.0 (nearest: 1.0)"),
        ({"made_for_steps": 0}, "made_for_steps is 0; it must be a whole number of at least 1 (nearest: 1)"),
    ],
)
def test_illegal_settings_are_refused_with_the_nearest_legal_value(changes: dict, sentence: str):
    with pytest.raises(ConfigError) as refusal:
        Magi1CacheConfig(**changes)
    assert sentence in str(refusal.value)


def test_the_share_of_a_cap_is_counted_down():
    accumulators = torch.tensor([0.3, 0.1, 0.2, 0.4])
    limited = limit_reuse(torch.zeros(4, dtype=torch.bool), accumulators, 0.7)
    assert limited.tolist() == [True, False, False, True], "int(0.7 * 4) = 2 are reused, those with the least"
