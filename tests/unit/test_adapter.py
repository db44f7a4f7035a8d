"""The forward over ComfyUI's own Wan sub-modules: against ComfyUI's forward, against itself, and token by token."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from motioncache_core.config import CacheConfig
from motioncache_core.kv_cache import KVCache
from motioncache_core.models.skyreels_v2.adapter import BranchRow, NetworkRun, SkyReelsV2Adapter
from motioncache_core.models.skyreels_v2.levels import Levels
from motioncache_core.models.skyreels_v2.plan import SamplingSettings, build_plan
from motioncache_core.models.skyreels_v2.policy import SkyReelsV2Policy
from motioncache_core.models.skyreels_v2.tokens import unpatchify
from motioncache_core.plan import Call

ROLE, OTHER = ("positive", 0, 0), ("negative", 0, 0)
TOKENS = 6
"""A latent frame of 4 x 6 has 2 x 3 tokens."""
DECIDE_AS_TOLD = CacheConfig(
    warmup_steps=0,
    chunk_phase_updates=0,
    token_threshold=1.0,
    distance="table",
    distance_table=((0.0, 0.0), (1000.0, 0.0)),
    vote=None,
    min_update_ratio=0.0,
)
"""Nothing ever changes: a token is recomputed where its accumulator was set above 1."""


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run_of(window_frames: int = 6, tokens: int = TOKENS, cache: CacheConfig | None = None) -> NetworkRun:
    run = NetworkRun(KVCache(2, window_frames * tokens, 32, torch.float32, torch.device("cpu")))
    run.policy = SkyReelsV2Policy(cache) if cache else None
    return run


def vanilla_call(attention: str = "vanilla block-causal", **changes: object) -> Call:
    """A row in which every chunk is at another step: by default 3 chunks of 2 latent frames."""
    settings = {"frames": 21, "steps": 8, "chunk_frames": 2, "ar_step": 1, "attention": attention}
    plan = build_plan(SamplingSettings(**(settings | changes)))
    return next(call for call in plan.calls if len({part.timestep for part in call.parts}) == len(call.parts))


def chunk_calls(call: Call) -> list[Call]:
    """The same row chunk by chunk."""
    return [
        dataclasses.replace(call, parts=(part,), reads=(0, part.stop), writes=True, causal=True) for part in call.parts
    ]


def timesteps_of(call: Call) -> list[int]:
    return [part.timestep for part in call.parts for _ in range(part.start, part.stop)]


class Forward:
    """Calls an adapter with less to say."""

    def __init__(self, network: nn.Module, attend, fps_terms: Tensor | None = None):
        self.adapter = SkyReelsV2Adapter(network, attend, fps_terms)

    def __call__(
        self,
        call: Call,
        x: Tensor,
        run: NetworkRun,
        rows: Sequence[BranchRow] = (BranchRow(ROLE, "p"),),
        text: Tensor | None = None,
        fps: int = 1,
        **options: object,
    ) -> Tensor:
        text = random(len(rows), 3, 8, seed=9) if text is None else text
        levels, rates = [timesteps_of(call)] * len(rows), [[fps] * call.frames] * len(rows)
        return self.adapter.forward(x, text, call, rows, run, levels, rates, **options)


@pytest.fixture
def forward(wan, attend) -> Forward:
    return Forward(wan, attend)


def assert_near(found: Tensor, expected: Tensor, share: float = 1e-5) -> None:
    """Within a share of the largest expected value."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= share * expected.abs().max()


# -- against ComfyUI and against itself --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (3, 2)], ids=str)
@pytest.mark.parametrize("batch", [1, 2])
def test_full_attention_is_comfyuis_own_forward(wan, forward, size: tuple[int, int], batch: int):
    call = vanilla_call("vanilla full")
    x, text = random(batch, 16, 6, *size), random(batch, 5, 8, seed=1)
    rows = [BranchRow((*ROLE[:2], sample)) for sample in range(batch)]
    expected = wan(x, torch.tensor([timesteps_of(call)] * batch, dtype=torch.float32), text)
    assert_near(forward(call, x, run_of(), rows, text), expected)


@pytest.mark.parametrize("fps", [0, 1])
def test_the_frame_rate_term_is_added_to_the_time_projection(wan, attend, fps: int):
    terms = random(2, 6 * 32, seed=2)
    biased = copy.deepcopy(wan)
    with torch.no_grad():
        biased.time_projection[1].bias += terms[fps]
    call, x, text = vanilla_call("vanilla full"), random(1, 16, 6, 4, 6), random(1, 3, 8, seed=9)
    expected = biased(x, torch.tensor([timesteps_of(call)], dtype=torch.float32), text)
    assert_near(Forward(wan, attend, terms)(call, x, run_of(), fps=fps), expected)
    assert (Forward(wan, attend, terms)(call, x, run_of(), fps=1 - fps) - expected).abs().max() > 0.05


@pytest.mark.parametrize("settings", [{}, {"frames": 25, "chunk_frames": 3}, {"start_latents": 1}, {"chunk_frames": 1}])
@pytest.mark.parametrize("size", [(4, 6), (5, 7)], ids=str)
def test_a_row_chunk_by_chunk_is_the_block_causal_row(forward, settings: dict, size: tuple[int, int]):
    call = vanilla_call(**settings)
    x = random(1, 16, call.frames, *size)
    whole = forward(call, x, run_of())
    tokens = -(-size[0] // 2) * -(-size[1] // 2)
    run = run_of(call.frames, tokens)
    pieces = [forward(one, x[:, :, one.start : one.stop], run) for one in chunk_calls(call)]
    assert_near(torch.cat(pieces, dim=2), whole)


def test_block_causal_is_not_full_attention(forward):
    x = random(1, 16, 6, 4, 6)
    full, causal = (forward(vanilla_call(name), x, run_of()) for name in ("vanilla full", "vanilla block-causal"))
    assert (full - causal)[:, :, :4].abs().max() > 1e-3


def test_rope_options_of_a_model_reach_every_chunk_alike(forward):
    """ComfyUI's ScaleROPE: frames twice as far apart, from frame 3 on."""
    options = {"rope_options": {"scale_t": 2.0, "shift_t": 3.0, "scale_y": 1.5}}
    call, x = vanilla_call(), random(1, 16, 6, 4, 6)
    whole = forward(call, x, run_of(), options=options)
    assert (whole - forward(call, x, run_of())).abs().max() > 1e-3
    run = run_of()
    pieces = [forward(one, x[:, :, one.start : one.stop], run, options=options) for one in chunk_calls(call)]
    assert_near(torch.cat(pieces, dim=2), whole)


def test_rows_of_one_pass_do_not_see_each_other(forward):
    calls, x, text = chunk_calls(vanilla_call()), random(4, 16, 6, 4, 6), random(4, 3, 8, seed=3)
    rows = [BranchRow(("positive", 0, 0), "a"), BranchRow(("positive", 0, 1), "a")]
    rows += [BranchRow(("negative", 0, 0), "b"), BranchRow(("negative", 0, 1), "b")]
    together, alone = run_of(), run_of()
    for call in calls:
        part = x[:, :, call.start : call.stop]
        found = forward(call, part, together, rows, text)
        for i, row in enumerate(rows):
            assert_near(found[i : i + 1], forward(call, part[i : i + 1], alone, [row], text[i : i + 1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_output_has_the_inputs_precision(wan, attend, dtype: torch.dtype):
    network = copy.deepcopy(wan).to(dtype)
    network.patch_embedding.float()
    call = vanilla_call()
    found = Forward(network, attend)(call, random(1, 16, 6, 4, 6).to(dtype), run_of(), text=random(1, 3, 8).to(dtype))
    assert found.dtype == dtype and torch.isfinite(found.float()).all()


# -- chosen tokens -----------------------------------------------------------------------------------------------------


class TwoSteps:
    """The middle chunk: its first step is computed fully, then a second one as told."""

    def __init__(self, forward: Forward, seed: int = 0):
        self.forward, self.run = forward, run_of(cache=DECIDE_AS_TOLD)
        first, self.call = chunk_calls(vanilla_call())[:2]
        self.x = random(1, 16, 6, 4, 6, seed=seed)
        self.forward(first, self.x[:, :, :2], self.run)
        self.first_output = self.forward(self.call, self.x[:, :, 2:4], self.run)
        self.run.take_notes()

    def second(self, mask: Tensor, x: Tensor, call: Call | None = None) -> Tensor:
        state = self.run.policy.state(ROLE, 1)
        state.accumulators = mask.float() * 2
        return self.forward(call or self.call, x, self.run)

    def stored(self) -> list[Tensor]:
        """Keys and values of all tokens, layer by layer, ``[2, tokens, C]``."""
        every = slice(0, 6 * TOKENS)
        return [torch.cat(self.run.kv.read(ROLE, i, every, torch.zeros(1))).clone() for i in range(2)]

    @property
    def residual(self) -> Tensor:
        return self.run.policy.state(ROLE, 1).residual


MASKS = {
    "one": torch.arange(12) == 7,
    "a frame": torch.arange(12) < 6,
    "every other": torch.arange(12) % 2 == 0,
    "all but one": torch.arange(12) != 0,
}
every_mask = pytest.mark.parametrize("name", MASKS)


@every_mask
def test_the_chosen_tokens_of_an_unchanged_input_come_out_as_before(forward, name: str):
    steps = TwoSteps(forward)
    found = steps.second(MASKS[name], steps.x[:, :, 2:4])
    (decision,) = steps.run.decisions
    assert (decision.outcome, decision.computed) == ("partial", int(MASKS[name].sum()))
    assert torch.equal(decision.mask, MASKS[name])
    assert_near(found, steps.first_output)


@every_mask
def test_only_chosen_tokens_write_keys_and_values_and_renew_their_residual(forward, name: str):
    steps, mask = TwoSteps(forward), MASKS[name]
    before, residual = steps.stored(), steps.residual.clone()
    steps.second(mask, random(1, 16, 2, 4, 6, seed=5))
    rows = torch.zeros(6 * TOKENS, dtype=torch.bool)
    rows[2 * TOKENS : 4 * TOKENS] = mask
    for old, new in zip(before, steps.stored(), strict=True):
        assert torch.equal(old[:, ~rows], new[:, ~rows])
        assert ((old - new)[:, rows].abs().amax(dim=2) > 1e-4).all()
    assert torch.equal(residual[~mask], steps.residual[~mask])
    assert ((residual - steps.residual)[mask].abs().amax(dim=1) > 1e-4).all()


def tokens_of(output: Tensor) -> Tensor:
    """``[1, 16, 2, 4, 6]`` -> ``[12, values of a patch]``."""
    return output[0].unflatten(2, (2, 2)).unflatten(4, (3, 2)).permute(1, 2, 4, 0, 3, 5).flatten(3).flatten(0, 2)


@pytest.mark.parametrize("size", [(4, 6), (3, 5)], ids=str)
def test_motion_is_seen_on_the_clean_prediction_if_asked(forward, size: tuple[int, int]):
    run = run_of(cache=dataclasses.replace(DECIDE_AS_TOLD, motion_source="clean prediction"))
    seen = []
    run.policy.observe = lambda decision, patches, frames: seen.append((decision.role, patches, frames))
    rows = (BranchRow(ROLE, "p"), BranchRow(("negative", 0, 0), "n"))
    call = chunk_calls(vanilla_call())[0]
    x = random(2, 16, 2, *size, seed=3)
    velocity = forward(call, x, run, rows)
    for number, (role, patches, frames) in enumerate(seen):
        clean = unpatchify(patches[None], (2, 2, 3), (1, 2, 2))[0, ..., : size[0], : size[1]]
        torch.testing.assert_close(clean, (x - call.parts[0].sigma * velocity)[number], atol=1e-5, rtol=1e-5)
        assert (role, frames) == (rows[number].role, 2)
    assert len(seen) == 2


@every_mask
def test_a_reused_token_is_its_input_plus_what_was_added_before(wan, forward, name: str):
    steps, mask = TwoSteps(forward), MASKS[name]
    x = random(1, 16, 2, 4, 6, seed=6)
    later = dataclasses.replace(steps.call, parts=(dataclasses.replace(steps.call.parts[0], timestep=123),))
    tokens = wan.patch_embedding(x).flatten(2).transpose(1, 2)
    level = Levels(wan, [[123]], [[1]], None, tokens).embedding
    expected = wan.unpatchify(wan.head(tokens + steps.residual, level[:, None]), torch.tensor([2, 2, 3]))
    found = steps.second(mask, x, later)
    assert_near(tokens_of(found)[~mask], tokens_of(expected)[~mask])
    assert ((tokens_of(found) - tokens_of(expected))[mask].abs().amax(dim=1) > 1e-4).all()


def test_a_wholly_reused_step_runs_no_block_and_touches_no_memory(wan, forward):
    steps = TwoSteps(forward)
    before, residual = steps.stored(), steps.residual
    ran = []
    hooks = [module.register_forward_hook(lambda *_: ran.append(1)) for module in wan.blocks.modules()]
    found = steps.second(torch.zeros(12, dtype=torch.bool), random(1, 16, 2, 4, 6, seed=7))
    for hook in hooks:
        hook.remove()
    assert not ran and torch.isfinite(found).all()
    assert all(torch.equal(old, new) for old, new in zip(before, steps.stored(), strict=True))
    assert steps.residual is residual
    (made,), (decision,) = steps.run.take_notes()
    assert (made.computed, made.total, made.context) == (0, 12, 0.0)
    assert decision.outcome == "reused"


def test_all_tokens_chosen_is_a_full_step(forward):
    partly, fully = TwoSteps(forward), TwoSteps(forward)
    fully.run.policy = None
    x = random(1, 16, 2, 4, 6, seed=8)
    assert torch.equal(partly.second(torch.ones(12, dtype=torch.bool), x), forward(fully.call, x, fully.run))


def test_full_partial_and_reused_rows_of_one_pass_come_out_as_alone(forward):
    """Three branches with another decision each; the pass is packed into one sequence."""
    first, call = chunk_calls(vanilla_call())[:2]
    rows = [BranchRow((name, 0, 0), name) for name in ("full", "partial", "reused")]
    chosen = [torch.ones(12, dtype=torch.bool), MASKS["every other"], torch.zeros(12, dtype=torch.bool)]
    x, text, new = random(3, 16, 6, 4, 6), random(3, 3, 8, seed=4), random(3, 16, 2, 4, 6, seed=5)

    def go(members: list[int]) -> tuple[Tensor, NetworkRun]:
        run, some = run_of(cache=DECIDE_AS_TOLD), [rows[i] for i in members]
        forward(first, x[members][:, :, :2], run, some, text[members])
        forward(call, x[members][:, :, 2:4], run, some, text[members])
        for i in members:
            run.policy.state(rows[i].role, 1).accumulators = chosen[i].float() * 2
        run.take_notes()
        return forward(call, new[members], run, some, text[members]), run

    together, run = go([0, 1, 2])
    assert [d.outcome for d in run.decisions] == ["full", "partial", "reused"]
    assert [(p.computed, p.context) for p in run.passes] == [(12, 24.0), (6, 24.0), (0, 0.0)]
    for i in range(3):
        assert_near(together[i : i + 1], go([i])[0])


# -- calls without decisions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["context", "refresh"])
def test_context_and_refresh_are_computed_without_a_decision(forward, kind: str):
    run = run_of(cache=DECIDE_AS_TOLD)
    call = dataclasses.replace(chunk_calls(vanilla_call())[0], kind=kind)
    forward(call, random(1, 16, 2, 4, 6), run)
    (made,), decisions = run.take_notes()
    assert not decisions and made.computed == made.total == 12
    assert not run.policy.states
    assert set(run.policy.last_frames) == ({(ROLE, 0)} if kind == "context" else set())


def test_an_auxiliary_pass_reads_the_branch_and_changes_nothing(forward):
    """What guidance that asks the model again gets: the full answer, with the keys and values of earlier chunks."""
    steps, plain = TwoSteps(forward), TwoSteps(forward)
    plain.run.policy = None
    x = random(1, 16, 2, 4, 6, seed=5)
    before, residual = steps.stored(), steps.residual
    state = copy.copy(steps.run.policy.state(ROLE, 1))
    found = forward(steps.call, x, steps.run, [BranchRow(ROLE, "p", auxiliary=True)])
    assert all(torch.equal(old, new) for old, new in zip(before, steps.stored(), strict=True))
    assert steps.residual is residual
    assert vars(steps.run.policy.state(ROLE, 1)) == vars(state)
    (made,), decisions = steps.run.take_notes()
    assert (made.role, made.computed) == (None, 12) and not decisions
    assert_near(found, forward(plain.call, x, plain.run))


def test_a_prompts_keys_and_values_are_made_once_a_role_and_prompt(wan, forward):
    embedded = []
    hook = wan.text_embedding.register_forward_hook(lambda *_: embedded.append(1))
    run, call, x = run_of(), chunk_calls(vanilla_call())[0], random(1, 16, 2, 4, 6)
    counts = []
    for row in [
        BranchRow(ROLE, "p"),
        BranchRow(ROLE, "p"),
        BranchRow(OTHER, "p"),
        BranchRow(ROLE, "q"),
        BranchRow(ROLE, "q"),
        BranchRow(ROLE, "q", auxiliary=True),
        BranchRow(ROLE),
        BranchRow(ROLE),
    ]:
        forward(call, x, run, [row])
        counts.append(len(embedded))
    hook.remove()
    assert counts == [1, 1, 2, 3, 3, 4, 5, 6]


def test_another_prompt_is_seen_at_once(forward):
    run, call, x = run_of(), chunk_calls(vanilla_call())[0], random(1, 16, 2, 4, 6)
    texts = [random(1, 3, 8, seed=seed) for seed in (1, 2)]
    first = forward(call, x, run, [BranchRow(ROLE, "p")], texts[0])
    assert torch.equal(forward(call, x, run, [BranchRow(ROLE, "p")], texts[0]), first)
    assert (forward(call, x, run, [BranchRow(ROLE, "q")], texts[1]) - first).abs().max() > 1e-3


def test_block_replacements_are_honoured(wan, forward):
    call, x = chunk_calls(vanilla_call())[0], random(1, 16, 2, 4, 6)
    seen = []

    def through(args: dict, extra: dict) -> dict:
        seen.append((args["img"].shape, args["transformer_options"]["mark"]))
        return extra["original_block"](args)

    def skipped(args: dict, extra: dict) -> dict:
        return args

    plain = forward(call, x, run_of())
    assert torch.equal(forward(call, x, run_of(), replacements={0: through}, options={"mark": 7}), plain)
    assert seen == [((1, 12, 32), 7)]
    tokens = wan.patch_embedding(x).flatten(2).transpose(1, 2)
    level = Levels(wan, [[call.parts[0].timestep]], [[1]], None, tokens).embedding
    expected = wan.unpatchify(wan.head(tokens, level[:, None]), torch.tensor([2, 2, 3]))
    assert_near(forward(call, x, run_of(), replacements={0: skipped, 1: skipped}), expected)


def test_the_time_embedding_of_a_timestep_is_cosines_then_sines(wan):
    seen = []
    hook = wan.time_embedding.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    levels = Levels(wan, [[500, 0, 500]], [[1, 1, 1]], None, torch.zeros(1))
    hook.remove()
    angles = 500 / 10000.0 ** (torch.arange(8) / 8)
    torch.testing.assert_close(seen[0][0], torch.tensor([1.0] * 8 + [0.0] * 8))
    torch.testing.assert_close(seen[0][1], torch.cat([angles.cos(), angles.sin()]), atol=2e-4, rtol=0)
    assert levels.index == [[1, 0, 1]], "two levels, embedded once each"
    assert levels.of_row(0).shape == (3, 6, 32)
    assert Levels(wan, [[5, 5]], [[1, 1]], None, torch.zeros(1)).of_row(0).shape == (1, 6, 32)
