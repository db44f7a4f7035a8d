"""Whole MAGI-1 runs of a tiny network: what must come out the same does, and what is saved is saved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from motioncache_core import state as saved
from motioncache_core.config import Magi1CacheConfig
from motioncache_core.events import CallEvent, ChunkEvent, Event
from motioncache_core.flops import TransformerSize, pass_flops, prompt_flops
from motioncache_core.kv_cache import KVCache
from motioncache_core.loop import RunState, clean_prediction, run
from motioncache_core.models.magi1.adapter import BranchRow, Magi1Adapter, Magi1Run
from motioncache_core.models.magi1.architecture import ArchitectureConfig, expected_entries
from motioncache_core.models.magi1.compression import Compression
from motioncache_core.models.magi1.guidance import OnePass, ThreePass, branches_of, combine
from motioncache_core.models.magi1.plan import SamplingSettings, build_plan
from motioncache_core.models.magi1.policy import STATE_CLASSES, Magi1Policy
from motioncache_core.models.magi1.transformer import Magi1Transformer
from motioncache_core.plan import Call, Plan, PlanError

CONFIG = ArchitectureConfig(
    dim=32, ffn_dim=48, num_heads=4, num_groups=2, num_layers=2, head_dim=8, text_dim=16, text_tokens=60
)
GUIDANCES = {"base": ThreePass(), "distilled": OnePass()}
STARTS = {"text": 0, "image": 1, "video": 3}
CACHE = Magi1CacheConfig(
    warmup_steps=2, chunk_phase_updates=2, chunk_threshold=0.05, token_threshold=0.05, motion_floor=0.3
)
every_guidance = pytest.mark.parametrize("guidance", GUIDANCES.values(), ids=GUIDANCES)


@pytest.fixture(scope="module")
def network() -> Magi1Transformer:
    import comfy.ops

    generator = torch.Generator().manual_seed(0)
    made = Magi1Transformer(CONFIG, comfy.ops.manual_cast, torch.float32)
    weights = {}
    for key, entry in expected_entries(CONFIG).items():
        values = torch.randn(entry.shape, generator=generator)
        weights[key] = values * (entry.shape[-1] ** -0.5 if len(entry.shape) > 1 else 0.2)
    made.load_state_dict(weights)
    return made.eval().requires_grad_(False)


def plan_of(guidance, chunks: int = 3, start: int = 0, **changes: object) -> Plan:
    frames = (chunks * 2 - start) * 4
    settings = {"frames": frames, "steps": 8, "chunk_frames": 2, "guidance": guidance, "start_latents": start}
    return build_plan(SamplingSettings(**(settings | changes)))


class Sampling:
    """A plan on the tiny network, with prompts of different lengths for the chunks and latents of 4 x 4.

    Args:
        places: chunks that the store holds, if not as many as the plan needs.
    """

    def __init__(
        self,
        network: Magi1Transformer,
        attend,
        plan: Plan,
        cache: Magi1CacheConfig | None = None,
        batch: int = 1,
        compression: Compression | None = None,
        places: int | None = None,
        texts: dict[int, Tensor] | None = None,
    ):
        self.plan, self.network = plan, network
        self.adapter = Magi1Adapter(network, attend)
        generator = torch.Generator().manual_seed(1)
        prompt = torch.randn(12, CONFIG.text_dim, generator=generator)
        self.texts = {chunk: prompt[: 5 + chunk] for chunk in range(12)} | (texts or {})
        policy = Magi1Policy(cache, plan) if cache else None
        store = KVCache(CONFIG.num_layers, 0, CONFIG.kv_dim, torch.float32, torch.device("cpu"))
        self.memory = Magi1Run(plan, store, policy, network.embed, compression=compression)
        if places:
            self.memory.places = dict.fromkeys(self.memory.places, places)
        self.batch = batch
        self.memory.allocate(4, batch)
        self.state = RunState.new(plan, batch, 16, 4, 4, torch.device("cpu"))
        given = plan.windows[0].context
        self.start = torch.randn(batch, 16, given, 4, 4, generator=generator) if given else None
        self.calls: list[Call] = []

    def call(self, call: Call, x: Tensor) -> Tensor:
        self.calls.append(call)
        names = branches_of(call)
        rows = [BranchRow(name, sample, self.texts) for name in names for sample in range(self.batch)]
        outputs = self.adapter.forward(x.repeat(len(names), 1, 1, 1, 1), call, rows, self.memory)
        made = dict(zip(names, outputs.split(self.batch), strict=True))
        return clean_prediction(call, x, -combine(call, made))

    def events(self) -> Iterator[Event]:
        policy = self.memory if self.memory.policy else None
        return run(self.plan, self.state, self.memory, self.call, 5, "euler", self.start, policy)

    def go(self) -> list[Event]:
        return list(self.events())

    def video(self) -> Tensor:
        self.go()
        return self.state.video


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    return float((a - b).abs().max() / b.abs().max()) < tolerance


def decisions(events: list[Event]) -> list:
    return [d for event in events if isinstance(event, CallEvent) for d in event.decisions]


@every_guidance
@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_chunk_by_chunk_with_clean_refresh_equals_the_staged_window(network, attend, guidance, start: int):
    one = Sampling(network, attend, plan_of(guidance, start=start, chunks=4)).video()
    staged = plan_of(guidance, start=start, chunks=4, attention="staged window")
    assert close(one, Sampling(network, attend, staged).video())
    without = plan_of(guidance, start=start, chunks=4, clean_refresh=False)
    assert not close(Sampling(network, attend, without).video(), one, 1e-3), "without refresh it is an approximation"


@every_guidance
@pytest.mark.parametrize("attention", ["chunk-wise", "staged window"])
def test_passes_that_are_left_out_change_nothing(network, attend, guidance, attention: str):
    thrifty, original = (
        Sampling(network, attend, plan_of(guidance, attention=attention, skip_redundant=skip)) for skip in (True, False)
    )
    events, all_events = thrifty.go(), original.go()
    assert close(thrifty.state.video, original.state.video, 2e-6)

    def computed(told: list[Event], branch: str) -> int:
        return sum(p.computed for e in told if isinstance(e, CallEvent) for p in e.passes if p.role[0] == branch)

    if isinstance(guidance, ThreePass):
        for branch in ("alone", "text"):
            assert computed(events, branch) < computed(all_events, branch)
    else:
        assert computed(events, "text") == computed(all_events, "text")


def plan_skipping(names: set[str], **changes: object) -> Plan:
    """The base model's plan with every pass, but those of some branches left out where nobody uses their results."""
    whole, thrifty = (plan_of(ThreePass(), skip_redundant=skip, **changes) for skip in (False, True))
    calls = []
    for call, small in zip(whole.calls, thrifty.calls, strict=True):
        parts = [
            replace(part, branches=tuple(b for b in part.branches if b[0] not in names or b[0] in dict(own.branches)))
            for part, own in zip(call.parts, small.parts, strict=True)
        ]
        calls.append(replace(call, parts=tuple(parts)))
    return replace(whole, calls=tuple(calls))


@pytest.mark.parametrize("attention", ["chunk-wise", "staged window"])
@pytest.mark.parametrize("branch", ["alone", "text"])
def test_each_kind_of_pass_can_be_left_out_by_itself(network, attend, branch: str, attention: str):
    saving, original = (
        Sampling(network, attend, plan_skipping(names, attention=attention, chunks=4)) for names in ({branch}, set())
    )
    made = [
        [(call.row, name) for call in s.plan.calls for part in call.parts for name, _ in part.branches]
        for s in (saving, original)
    ]
    assert {name for row, name in made[1]} == {"text", "null", "alone"}
    left_out = sum(name == branch for _, name in made[1]) - sum(name == branch for _, name in made[0])
    assert left_out == len(made[1]) - len(made[0]) > 0
    if branch == "alone":  # in the last of every chunk's four quarters t is at least 0.3
        assert left_out == 4 * 8 // 4
    assert close(saving.video(), original.video(), 2e-6)


def test_the_first_chunk_without_refresh_equals_the_masked_forward(network, attend):
    """Before a chunk is finished nothing is approximate."""
    for guidance in GUIDANCES.values():
        staged, stored = (
            Sampling(network, attend, plan_of(guidance, chunks=4, **changes)).video()
            for changes in ({"attention": "staged window"}, {"clean_refresh": False})
        )
        assert close(stored[:, :, :2], staged[:, :, :2], 1e-5)
        assert not close(stored[:, :, 4:], staged[:, :, 4:], 1e-3)


@every_guidance
@pytest.mark.parametrize("changes", [{}, {"clean_refresh": False}, {"attention": "staged window"}], ids=str)
def test_a_ring_of_few_chunks_serves_as_a_store_of_all(network, attend, guidance, changes: dict):
    plan = plan_of(guidance, chunks=8, **changes)
    ring, whole = Sampling(network, attend, plan), Sampling(network, attend, plan, places=8)
    assert max(ring.memory.places.values()) < 8
    assert close(ring.video(), whole.video(), 2e-6)


@every_guidance
@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_thresholds_of_zero_with_refresh_equal_the_original(network, attend, guidance, start: int):
    plan = plan_of(guidance, start=start)
    zero = CACHE.with_changes(chunk_threshold=0.0, token_threshold=0.0)
    cached = Sampling(network, attend, plan, zero)
    assert {d.outcome for d in decisions(cached.go())} == {"full"}
    assert torch.equal(cached.state.video, Sampling(network, attend, plan).video())


@every_guidance
@pytest.mark.parametrize("refresh", [True, False])
def test_a_reused_chunk_makes_no_call_and_reused_tokens_repeat_their_step(network, attend, guidance, refresh: bool):
    plan = plan_of(guidance, clean_refresh=refresh)
    sampling = Sampling(network, attend, plan, CACHE)
    window, outcomes, added = None, set(), {}
    for event in sampling.events():
        if not isinstance(event, CallEvent):
            continue
        before, window = window, sampling.state.window.clone()
        if event.call.kind != "denoise" or before is None:
            continue
        (decision,), own = event.decisions, slice(event.call.start, event.call.stop)
        change = window[:, :, own] - before[:, :, own]
        outcomes.add((decision.phase, decision.outcome))
        assert (event.call in sampling.calls) == (decision.outcome != "reused")
        assert {p.computed for p in event.passes} == {decision.computed}
        if decision.outcome != "full":
            reused = torch.ones(8, dtype=torch.bool) if decision.mask is None else ~decision.mask
            latents = reused.view(1, 1, 2, 2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4).expand_as(change)
            last = added.get(decision.chunk)
            if last is not None:  # the first step of all is not seen
                torch.testing.assert_close(change[latents], last[latents], atol=2e-6, rtol=0)
                if decision.outcome == "partial":
                    assert not torch.allclose(change[~latents], last[~latents], atol=1e-4)
        added[decision.chunk] = change
    assert {("chunk", "reused"), ("token", "partial"), ("token", "full"), ("warm-up", "full")} <= outcomes
    assert torch.isfinite(sampling.state.video).all()


def test_reuse_needs_a_solver_without_memory(network, attend):
    sampling = Sampling(network, attend, plan_of(OnePass()), CACHE)
    with pytest.raises(ValueError, match="solver is 'unipc'; steps can only be reused with 'euler'"):
        next(run(sampling.plan, sampling.state, sampling.memory, sampling.call, 5, "unipc", None, sampling.memory))


@every_guidance
def test_stopped_after_any_event_and_saved_a_run_goes_on_bit_equal(network, attend, guidance, tmp_path: Path):
    plan = plan_of(guidance, start=1, chunks=2)
    whole = Sampling(network, attend, plan, CACHE)
    count = len(whole.go())
    for stop in range(1, count, 5):
        stopped = Sampling(network, attend, plan, CACHE)
        events = stopped.events()
        for _ in range(stop):
            next(events)
        events.close()
        tensors, data = saved.export({"state": stopped.state, "memory": stopped.memory.memory()}, STATE_CLASSES)
        save_file({name: t.contiguous() for name, t in tensors.items()}, tmp_path / "run.safetensors")
        parts = saved.restore(load_file(tmp_path / "run.safetensors"), json.loads(json.dumps(data)), STATE_CLASSES)
        resumed = Sampling(network, attend, plan, CACHE)
        resumed.state = parts["state"]
        resumed.memory.recall(parts["memory"])
        assert len(resumed.go()) == count - stop
        assert torch.equal(resumed.state.video, whole.state.video), f"stopped after event {stop}"


def test_a_batch_decides_like_runs_of_one(network, attend):
    plan, cache = plan_of(ThreePass(), chunks=2), CACHE.with_changes(chunk_threshold=0.035)
    both = Sampling(network, attend, plan, cache, batch=2)
    told = decisions(both.go())
    alone = Sampling(network, attend, plan, cache)
    alone_told = decisions(alone.go())
    first = [d for d in told if d.role[2] == 0]
    assert [(d.chunk, d.step, d.computed) for d in first] == [(d.chunk, d.step, d.computed) for d in alone_told]
    assert close(both.state.video[:1], alone.state.video)
    apart = [(a.computed, b.computed) for a, b in zip(first, [d for d in told if d.role[2] == 1], strict=True)]
    assert any(a == 0 < b or b == 0 < a for a, b in apart), "one sample waits while the other is computed"


def test_what_comes_later_leaves_earlier_chunks_alone(network, attend):
    short = Sampling(network, attend, plan_of(OnePass(), chunks=2)).video()
    other = {2: torch.zeros(3, CONFIG.text_dim)}
    longer, edited = (Sampling(network, attend, plan_of(OnePass(), chunks=3), texts=t).video() for t in (None, other))
    assert torch.equal(longer[:, :, :4], short)
    assert torch.equal(longer[:, :, :4], edited[:, :, :4])
    assert not torch.allclose(longer[:, :, 4:], edited[:, :, 4:])


def test_given_frames_stay_as_given_but_an_image_is_made_anew(network, attend):
    for start, same in ((3, True), (1, False)):
        sampling = Sampling(network, attend, plan_of(OnePass(), start=start))
        finished = [event for event in sampling.go() if isinstance(event, ChunkEvent)]
        video = sampling.state.video
        assert torch.equal(video[:, :, :start], sampling.start) == same
        assert [event.chunk.number for event in finished] == list(range(3 - start // 2))
        last = finished[-1].chunk
        assert torch.equal(video[:, :, last.start :], finished[-1].latents)


def test_a_further_pass_of_a_branch_stores_nothing(network, attend):
    sampling = Sampling(network, attend, plan_of(OnePass(), chunks=2))
    inputs = {}

    def call(call: Call, x: Tensor) -> Tensor:
        row = BranchRow("text", 0, sampling.texts)
        first = sampling.adapter.forward(x, call, [row], sampling.memory)
        again = BranchRow("text", 0, {}, auxiliary=True)
        other = sampling.adapter.forward(x, call, [again], sampling.memory)
        inputs[call.index] = float((first - other).abs().max())
        return Sampling.call(sampling, call, x)

    plain = Sampling(network, attend, plan_of(OnePass(), chunks=2)).video()
    for _ in run(sampling.plan, sampling.state, sampling.memory, call, 5, "euler"):
        pass
    assert torch.equal(sampling.state.video, plain)
    assert max(inputs.values()) > 1e-3, "it was another text"


def test_keys_and_values_of_finished_chunks_can_be_compressed(network, attend):
    everything = {"history_chunks": (), "clean_chunks": -1, "chunks": 8}
    plan = plan_of(OnePass(nearly_clean=False), **everything)
    whole = Sampling(network, attend, plan)
    roomy = Sampling(network, attend, plan, compression=Compression(cache_chunks=8))
    assert close(roomy.video(), whole.video(), 2e-6)
    small = Sampling(network, attend, plan, compression=Compression(cache_chunks=5))
    events = small.go()
    assert small.memory.places["text"] == 5 and small.memory.dropped == 3
    read = [p.context for e in events if isinstance(e, CallEvent) for p in e.passes]
    assert max(read) == 5 * 8, "never more than the store holds"
    assert close(small.state.video[:, :, :4], whole.state.video[:, :, :4], 2e-6), "until the store is full"
    assert torch.isfinite(small.state.video).all() and not close(small.state.video, whole.state.video, 1e-3)


@pytest.mark.parametrize(
    ("compression", "changes", "sentence"),
    [
        (Compression(cache_chunks=4), {}, "it must be above the window's 4 chunks (nearest: 5)"),
        (Compression(cache_chunks=5), {"history_chunks": (5, 4, 3, 2)}, "where every chunk attends to all before it"),
        (Compression(cache_chunks=5), {"attention": "staged window"}, "where every chunk attends to all before it"),
        (Compression(cache_chunks=5, keep="layer"), {}, "keep is 'layer'; it must be one of token, frame, chunk"),
    ],
)
def test_compression_that_does_not_fit_the_plan_is_refused(network, attend, compression, changes: dict, sentence: str):
    plan = plan_of(OnePass(), **({"history_chunks": (), "clean_chunks": -1, "chunks": 8} | changes))
    with pytest.raises(PlanError) as refusal:
        Sampling(network, attend, plan, compression=compression)
    assert sentence in str(refusal.value)


def test_compression_and_tokens_exclude_each_other(network, attend):
    plan = plan_of(OnePass(), history_chunks=(), clean_chunks=-1)
    with pytest.raises(ValueError, match="token by token"):
        Sampling(network, attend, plan, CACHE, compression=Compression(cache_chunks=5))


@every_guidance
@pytest.mark.parametrize("attention", ["chunk-wise", "staged window"])
def test_the_count_of_operations_is_that_of_the_real_forward(network, attend, guidance, attention: str):
    c, size = CONFIG, TransformerSize(32, 48, 2, 64, 99, 16, CONFIG.kv_dim, text_hidden=0)
    sampling = Sampling(network, attend, plan_of(guidance, attention=attention))
    conditions: list[int] = []
    network_call = network.condition
    lengths = {"t": 2 * c.condition_dim * (256 + c.condition_dim), "gates": 4 * c.num_layers * c.condition_dim * c.dim}

    def condition(items, device):
        embedded = len(items) + sum(item.step_length is not None for item in items)
        presence = 2 * 2 * c.text_dim * c.condition_dim  # with and without text
        conditions.append(embedded * lengths["t"] + presence + len(items) * lengths["gates"])
        return network_call(items, device)

    counted, expected = 0, 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "condition", condition)
        events = sampling.events()
        while True:
            with FlopCounterMode(display=False) as counter:
                event = next(events, None)
            if event is None:
                break
            if isinstance(event, CallEvent):
                counted += counter.get_total_flops() - conditions.pop()
                for made in event.passes:
                    expected += pass_flops(size, made.computed, made.total, made.context, made.text)
                    expected += prompt_flops(size, made.prompt)
    assert counted == pytest.approx(expected, rel=1e-9)


def test_passes_that_are_left_out_are_accounted_as_if_made(network, attend):
    """Without reuse a step would make the prompt's keys again, as it does in the step before."""
    sampling = Sampling(network, attend, plan_of(ThreePass()), CACHE)
    texts: dict[tuple, tuple] = {}
    left_out = 0
    for event in sampling.events():
        for made in event.passes if isinstance(event, CallEvent) else ():
            assert made.prompt is not None and made.text is not None
            if made.computed:
                texts[made.role] = made.text, made.prompt
            else:
                left_out += 1
                assert (made.text, made.prompt) == texts[made.role]
    assert left_out > 3
