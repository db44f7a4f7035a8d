"""A chunk's life under the policy, step by step; distances come from a table, so that they are known.

The table makes the distance of a step its change of timestep: from 900 to 850 it is 50.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from motioncache_core.config import SKYREELS_1_3B_COEFFICIENTS, SKYREELS_14B_COEFFICIENTS, CacheConfig, ConfigError
from motioncache_core.events import Decision
from motioncache_core.models.skyreels_v2.policy import SkyReelsV2Policy, StepInputs, resolve_coefficients

ROLE = ("positive", 0, 0)
CONFIG = CacheConfig(
    warmup_steps=1,
    chunk_phase_updates=1,
    chunk_threshold=100,
    token_threshold=100,
    motion_floor=0.5,
    distance="table",
    distance_table=((0.0, 0.0), (1000.0, 1000.0)),
    vote=None,
    min_update_ratio=0.0,
)
FRAMES, TOKENS = 2, 6
MOVING = torch.tensor([[1.0, 1.0, 1.0], [1.0, 2.0, 3.0]])
"""A number a token. As the first chunk, both frames weigh 0.5, 0.75 and 1 (floor 0.5)."""


class Chunk:
    """Drives one chunk of 2 frames with 3 tokens each through its steps."""

    def __init__(self, config: CacheConfig, chunk: int = 0, policy: SkyReelsV2Policy | None = None):
        self.policy = policy or SkyReelsV2Policy(config)
        self.chunk = chunk

    def step(
        self, timestep: int, hidden: Tensor = MOVING, prompt: str = "p", patches: Tensor | None = None
    ) -> Decision:
        patches = torch.zeros(TOKENS, 1) if patches is None else patches
        inputs = StepInputs((timestep,) * FRAMES, torch.zeros(1, 6, 4), patches, FRAMES, prompt)
        decision = self.policy.decide(ROLE, self.chunk, inputs)
        self.policy.observe(decision, hidden.reshape(TOKENS, 1), FRAMES)
        return decision


def outcomes(chunk: Chunk, *timesteps: int) -> list[str]:
    return [chunk.step(timestep).outcome for timestep in timesteps]


def tokens(decision: Decision) -> str:
    return "".join(".x"[bool(needed)] for needed in decision.mask)


def in_token_phase(**changes: object) -> Chunk:
    """After warm-up (2 steps) and the one update of the chunk phase, at timestep 700."""
    chunk = Chunk(CONFIG.with_changes(**changes))
    assert outcomes(chunk, 900, 850, 700) == ["full"] * 3
    return chunk


def test_a_whole_life():
    chunk = Chunk(CONFIG)
    # warm-up: 1 step and the one after it
    made = [chunk.step(900), chunk.step(895)]
    # chunk phase: 50 waits, 50 more reaches 100 and is the one update
    made += [chunk.step(845), chunk.step(795)]
    # token phase with weights 0.5, 0.75, 1 a frame: 100 computes the last of each frame
    made += [chunk.step(695), chunk.step(645)]
    assert [d.phase for d in made] == ["warm-up"] * 2 + ["chunk"] * 2 + ["token"] * 2
    assert [d.outcome for d in made] == ["full", "full", "reused", "full", "partial", "partial"]
    assert [d.distance for d in made] == [None, None, 50, 50, 100, 50]
    assert [d.step for d in made] == [0, 1, 2, 3, 4, 5]
    assert made[3].accumulators == 100, "as it stood before the reset"
    torch.testing.assert_close(made[4].accumulators, torch.tensor([50.0, 75.0, 100.0] * 2))
    assert tokens(made[4]) == "..x..x" and made[4].computed == 2
    # those at 50 and 75 grow on, the computed ones began again
    torch.testing.assert_close(made[5].accumulators, torch.tensor([75.0, 112.5, 50.0] * 2))
    assert tokens(made[5]) == ".x..x."
    assert [d.updates for d in made] == [0, 0, 0, 1, 1, 1]


def test_weights_are_made_at_the_end_of_the_chunk_phase_and_at_every_step_from_then_on():
    chunk = Chunk(CONFIG)
    made = [chunk.step(timestep) for timestep in (900, 895, 845, 795, 790)]
    assert [d.weights is None for d in made] == [True, True, True, False, False]
    torch.testing.assert_close(made[3].weights, torch.tensor([0.5, 0.75, 1.0] * 2))


def test_without_chunk_phase_tokens_part_right_after_warm_up():
    chunk = Chunk(CONFIG.with_changes(chunk_phase_updates=0))
    made = [chunk.step(900), chunk.step(850), chunk.step(750)]
    assert [d.phase for d in made] == ["warm-up", "warm-up", "token"]
    assert [d.weights is None for d in made] == [True, False, False]
    assert tokens(made[2]) == "..x..x"


def test_what_the_chunk_piled_up_is_taken_into_the_token_phase():
    chunk = Chunk(CONFIG.with_changes(chunk_phase_updates=1))
    outcomes(chunk, 900, 850, 700)
    state = chunk.policy.state(ROLE, 0)
    assert state.accumulators is None and state.level == 0.0
    state.level = 30.0
    torch.testing.assert_close(chunk.step(680).accumulators, torch.tensor([40.0, 45.0, 50.0] * 2))


def test_chunk_granularity_never_parts_tokens():
    chunk = Chunk(CONFIG.with_changes(granularity="chunk"))
    expected = ["full"] * 2 + ["reused", "full", "full", "reused", "full"]
    assert outcomes(chunk, 900, 890, 880, 790, 690, 640, 590) == expected
    assert chunk.step(400).phase == "chunk"
    assert not chunk.policy.last_frames, "nobody compares frames there"


@pytest.mark.parametrize("threshold", [0.0, -1.0])
@pytest.mark.parametrize("granularity", ["chunk", "token"])
@pytest.mark.parametrize("more", [{}, {"vote": 0.99, "min_update_ratio": 1.0, "motion_floor": 0.0}])
def test_a_threshold_of_zero_computes_everything_even_where_nothing_changes(
    threshold: float, granularity: str, more: dict
):
    both = {"chunk_threshold": threshold, "token_threshold": threshold}
    chunk = Chunk(CONFIG.with_changes(granularity=granularity, **both, **more))
    assert outcomes(chunk, 900, 900, 900, 900, 800, 800) == ["full"] * 6


def test_an_infinite_threshold_reuses_everything_after_warm_up():
    chunk = Chunk(CONFIG.with_changes(chunk_threshold=float("inf")))
    assert outcomes(chunk, 900, 800, 700, 100, 0) == ["full"] * 2 + ["reused"] * 3


def test_too_few_wait_and_keep_what_they_piled_up():
    chunk = in_token_phase(min_update_ratio=0.5)
    first = chunk.step(600)
    assert (first.outcome, first.waited, first.need_share) == ("reused", True, pytest.approx(1 / 3))
    second = chunk.step(560)
    torch.testing.assert_close(second.accumulators, torch.tensor([70.0, 105.0, 140.0] * 2))
    assert (tokens(second), second.waited, second.need_share) == (".xx.xx", False, pytest.approx(2 / 3))
    torch.testing.assert_close(chunk.step(560).accumulators, torch.tensor([70.0, 0, 0] * 2))


def test_the_vote_decides_for_all_frames_and_outvoted_tokens_keep_what_they_piled_up():
    hidden = torch.tensor([[1.0, 1.0, 1.0], [1.0, 2.0, 3.0]])
    chunk = in_token_phase(vote=0.5)
    state = chunk.policy.state(ROLE, 0)
    state.weights = torch.tensor([1.0, 1.0, 0.5, 0.5, 1.0, 1.0])
    decision = chunk.step(600, hidden)
    # needed in frame 1: 0, 1; in frame 2: 1, 2; more than half of the frames need only 1
    assert tokens(decision) == ".x..x."
    torch.testing.assert_close(chunk.policy.state(ROLE, 0).accumulators, torch.tensor([100.0, 0, 50, 50, 0, 100]))


def test_reuse_can_be_limited_also_for_those_that_wait():
    assert in_token_phase(max_reuse_ratio=0.5).step(700).computed == 3, "although nothing changed"
    assert in_token_phase(max_reuse_ratio=0.0).step(700).outcome == "full"
    waiting = in_token_phase(max_reuse_ratio=0.5, min_update_ratio=0.5).step(600)
    assert waiting.waited and tokens(waiting) == "..x.xx", "all wait, but for the three with most"


def test_a_new_prompt_computes_everything_and_starts_over():
    chunk = in_token_phase()
    assert chunk.step(690).outcome == "reused"
    changed = chunk.step(680, prompt="another")
    assert (changed.outcome, changed.mask) == ("full", None)
    torch.testing.assert_close(chunk.step(670, prompt="another").accumulators, torch.tensor([5.0, 7.5, 10.0] * 2))
    early = Chunk(CONFIG)
    outcomes(early, 900, 890, 840)
    assert early.step(839, prompt="another").outcome == "full"
    assert early.policy.state(ROLE, 0).level == 0.0


def test_branches_and_chunks_remember_apart():
    policy = SkyReelsV2Policy(CONFIG)
    first, second = Chunk(CONFIG, 0, policy), Chunk(CONFIG, 1, policy)
    outcomes(first, 900, 850)
    assert second.step(900).phase == "warm-up" and second.step(850).phase == "warm-up"
    assert first.step(840).phase == "chunk"
    inputs = StepInputs((840, 840), torch.zeros(1, 6, 4), torch.zeros(TOKENS, 1), FRAMES, "p")
    assert policy.decide(("negative", 0, 0), 0, inputs).phase == "warm-up"


def test_the_next_chunk_compares_with_the_last_frame_of_the_one_before():
    policy = SkyReelsV2Policy(CONFIG.with_changes(chunk_phase_updates=0, warmup_steps=0))
    Chunk(CONFIG, 0, policy).step(900, MOVING)
    made = Chunk(CONFIG, 1, policy).step(900, torch.tensor([[1.0, 2.0, 6.0], [1.0, 2.0, 6.0]]))
    # against 1, 2, 3: unchanged, unchanged, doubled; then a still frame
    torch.testing.assert_close(made.weights, torch.tensor([0.5, 0.5, 1.0, 0.5, 0.5, 0.5]))


def test_given_frames_are_compared_with_unless_told_to_copy_the_reference():
    still = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    config = CONFIG.with_changes(chunk_phase_updates=0, warmup_steps=0)
    weights = {}
    for quirks in (frozenset(), frozenset({"condition_group_not_remembered"})):
        policy = SkyReelsV2Policy(config, quirks)
        policy.observe_context(ROLE, 0, torch.tensor([1.0, 2.0, 1.5]).view(3, 1), 1)
        weights[bool(quirks)] = Chunk(config, 1, policy).step(900, still).weights[:3]
    torch.testing.assert_close(weights[False], torch.tensor([0.5, 0.5, 1.0]))
    torch.testing.assert_close(weights[True], torch.ones(3)), "nothing known: moving"


def test_a_finished_chunk_is_forgotten_but_for_its_last_frame():
    policy = SkyReelsV2Policy(CONFIG)
    outcomes(Chunk(CONFIG, 0, policy), 900, 850)
    outcomes(Chunk(CONFIG, 1, policy), 900)
    policy.finish(0)
    assert list(policy.states) == [(ROLE, 1)]
    assert set(policy.last_frames) == {(ROLE, 0), (ROLE, 1)}


@pytest.mark.parametrize(("quirks", "left"), [(frozenset(), 0), (frozenset({"stale_previous_frames"}), 1)])
def test_a_new_window_forgets_the_one_before(quirks: frozenset[str], left: int):
    policy = SkyReelsV2Policy(CONFIG, quirks)
    outcomes(Chunk(CONFIG, 0, policy), 900, 850)
    policy.begin_window()
    assert not policy.states and len(policy.last_frames) == left


def test_the_patch_embedding_distance_is_its_relative_change_since_the_last_step():
    chunk = Chunk(CONFIG.with_changes(distance="patch embedding", granularity="chunk", chunk_threshold=0.1))
    ones = torch.ones(TOKENS, 1)
    made = [chunk.step(900, patches=ones * size) for size in (1, 2, 2.1, 2.1, 4.2)]
    assert [d.distance for d in made[2:]] == [pytest.approx(d) for d in (0.05, 0.0, 1.0)]
    assert [d.outcome for d in made] == ["full", "full", "reused", "reused", "full"]


def test_the_distance_of_the_time_embedding_is_the_polynomial_of_its_change():
    config = CONFIG.with_changes(distance="time embedding", distance_coefficients=(2.0, -0.1))
    policy = SkyReelsV2Policy(config)

    def step(timestep: int, level: float) -> Decision:
        embedding = torch.full((1, 6, 4), level)
        decision = policy.decide(ROLE, 0, StepInputs((timestep,) * 2, embedding, torch.zeros(TOKENS, 1), FRAMES))
        policy.observe(decision, torch.zeros(TOKENS, 1), FRAMES)
        return decision

    made = [step(900, 1.0), step(800, 1.0), step(700, 1.2), step(600, 1.2)]
    # changes by 20 %: 2 * 0.2 - 0.1 = 0.3; not at all: -0.1, counted as 0
    assert [d.distance for d in made[2:]] == [pytest.approx(0.3), 0.0]
    policy = SkyReelsV2Policy(config, frozenset({"negative_distance"}))
    step(900, 1.0), step(800, 1.0)
    assert step(700, 1.0).distance == pytest.approx(-0.1)


def test_the_polynomial_is_chosen_by_the_models_width():
    config = CacheConfig()
    assert resolve_coefficients(config, 1536).distance_coefficients == SKYREELS_1_3B_COEFFICIENTS
    assert resolve_coefficients(config, 5120).distance_coefficients == SKYREELS_14B_COEFFICIENTS
    own = config.with_changes(distance_coefficients=(1.0,))
    assert resolve_coefficients(own, 1536) is own
    any_weights = config.with_changes(distance="patch embedding")
    assert resolve_coefficients(any_weights, 128) is any_weights
    with pytest.raises(ConfigError, match="model of width 128 .*1536, 5120.*choose 'patch embedding'"):
        resolve_coefficients(config, 128)
