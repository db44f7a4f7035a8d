"""A chain of stretches makes what one run makes, from states that nobody changes."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from motioncache_core import take as takes
from motioncache_core.config import CacheConfig
from motioncache_core.events import CallEvent, ChunkEvent
from motioncache_core.kv_cache import KVCache, ring
from motioncache_core.loop import RunState, begin_window, clean_prediction, run_window, window_noise
from motioncache_core.models.skyreels_v2.adapter import BranchRow, NetworkRun, SkyReelsV2Adapter
from motioncache_core.models.skyreels_v2.growth import SkyReelsV2Growth
from motioncache_core.models.skyreels_v2.plan import SamplingSettings, build_plan, pixel_length
from motioncache_core.models.skyreels_v2.policy import STATE_CLASSES, SkyReelsV2Policy
from motioncache_core.plan import PlanError

SETTINGS = SamplingSettings(steps=9, chunk_frames=2, ar_step=3, window_frames=13)
CACHE = CacheConfig(
    warmup_steps=1,
    chunk_phase_updates=1,
    chunk_threshold=0.02,
    token_threshold=0.3,
    distance="patch embedding",
    vote=None,
    min_update_ratio=0.0,
)
CPU = torch.device("cpu")
PER_FRAME = 4


class Chain:
    """A take on a tiny network."""

    def __init__(self, network, attention, settings=SETTINGS, cache=CACHE, seed: int = 3):
        self.growth = SkyReelsV2Growth(settings)
        self.adapter = SkyReelsV2Adapter(network, attention)
        self.context = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(1))
        self.cache, self.seed = cache, seed
        self.made: dict[int, torch.Tensor] = {}
        self.outcomes: list[str] = []

    def whole(self, place: int) -> bool:
        """Whether a chunk's calls compute all tokens."""
        return self.cache is None

    def memory(self, plan) -> NetworkRun:
        policy = SkyReelsV2Policy(self.cache) if self.cache is not None else None
        memory = NetworkRun(KVCache(2, plan.stored_frames * PER_FRAME, 32, torch.float32, CPU), policy)
        memory.kv.allocate(("positive", 0, 0))
        return memory

    def stretch(self, before, entered: int, chunks: int, dtype=torch.float32, stop: int | None = None):
        """(parked state, entered chunks) after so many chunks more."""
        total = entered + chunks
        plan = self.growth.plan(total + 1)
        memory = self.memory(plan)
        state = self.go_on(plan, before, memory, entered, total)
        until = takes.entry_calls(plan)[total] if stop is None else stop
        written = self.run(plan, state, memory, until)
        takes.let_go(plan, state)
        return takes.park(plan, state, memory, PER_FRAME, STATE_CLASSES, self.whole, before, written, dtype), total

    def finish(self, before, entered: int) -> torch.Tensor:
        plan = self.growth.plan(entered)
        memory = self.memory(plan)
        state = self.go_on(plan, before, memory, entered, entered)
        self.run(plan, state, memory, None)
        return torch.cat([self.made[place] for place in sorted(self.made)], dim=2)

    def go_on(self, plan, before, memory, entered: int, total: int) -> RunState:
        chunks = takes.generated(plan)[entered:total]
        if before is None:
            state = RunState(torch.zeros(1, 16, 0, 4, 4))
            empty = state.video
            begin_window(plan, plan.windows[0], state, memory, empty, empty, empty)
        else:
            state, missing = takes.unpark(plan, before, memory, PER_FRAME, STATE_CLASSES, self.whole, CPU)
            list(takes.make_again(plan, state, memory, self.call(memory), self.growth, missing))
        takes.enter(plan, state, chunks, self.seed)
        return state

    def call(self, memory):
        def model_call(call, x):
            timesteps = [part.timestep for part in call.parts for _ in range(part.start, part.stop)]
            rows, rates = [BranchRow(("positive", 0, 0), "prompt")], [[1] * len(timesteps)]
            with torch.inference_mode():
                velocity = self.adapter.forward(x, self.context, call, rows, memory, [timesteps], rates)
            return clean_prediction(call, x, velocity)

        return model_call

    def run(self, plan, state, memory, until) -> set[int]:
        written = set()
        for event in run_window(plan, plan.windows[0], state, memory, self.call(memory), until=until):
            if isinstance(event, ChunkEvent):
                self.made[event.chunk.place] = event.latents
            elif isinstance(event, CallEvent):
                written |= {part.chunk for part in event.call.parts}
                self.outcomes += [decision.outcome for decision in event.decisions]
        return written


def whole(network, attention, chunks: int, settings=SETTINGS, cache=CACHE) -> tuple[torch.Tensor, list[str]]:
    """All chunks in one run, and the outcomes of its steps."""
    settings = replace(settings, frames=pixel_length(chunks * settings.chunk_frames), sliding=True)
    plan = build_plan(settings)
    chain = Chain(network, attention, settings, cache)
    memory = chain.memory(plan)
    state = RunState.new(plan, 1, 16, 4, 4, CPU)
    noise, given = window_noise(plan, plan.windows[0], 3, state.video)
    begin_window(plan, plan.windows[0], state, memory, noise, given, given)
    chain.run(plan, state, memory, None)
    return state.video, chain.outcomes


def chained(network, attention, parts, settings=SETTINGS, cache=CACHE, **options):
    chain = Chain(network, attention, settings, cache)
    parked, entered = None, 0
    for chunks in parts:
        parked, entered = chain.stretch(parked, entered, chunks, **options)
    return chain.finish(parked, entered), chain.outcomes


@pytest.mark.parametrize("refresh", [False, True])
@pytest.mark.parametrize("ar_step", [2, 3, 9])
@pytest.mark.parametrize("parts", [(1, 1, 1, 1, 1, 1, 1), (3, 4), (7,), (2, 1, 4)])
def test_a_chain_equals_one_run(wan, attend, parts, ar_step: int, refresh: bool):
    settings = replace(SETTINGS, ar_step=ar_step, clean_refresh=refresh)
    video, outcomes = whole(wan, attend, 7, settings)
    made, of_chain = chained(wan, attend, parts, settings)
    assert {"full", "partial", "reused"} == set(outcomes)
    assert of_chain == outcomes
    assert torch.equal(made, video)


def test_without_a_cache_a_chain_equals_one_run(wan, attend):
    assert torch.equal(chained(wan, attend, (2, 3), cache=None)[0], whole(wan, attend, 5, cache=None)[0])


def test_states_are_not_changed_and_pages_of_finished_chunks_are_shared(wan, attend):
    chain = Chain(wan, attend, replace(SETTINGS, window_frames=29))
    first, entered = chain.stretch(None, 0, 5)
    before = copy.deepcopy(first)
    one, _ = chain.stretch(first, entered, 1)
    other, _ = chain.stretch(first, entered, 1)
    for name, tensor in before.tensors.items():
        assert torch.equal(tensor, first.tensors[name])
    for place, page in before.pages.items():
        for role, layers in page.items():
            assert all(torch.equal(a, b) for a, b in zip(layers, first.pages[place][role], strict=True))
    assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
    shared = [place for place in first.pages if one.pages.get(place) is first.pages[place]]
    assert shared and set(first.pages) - set(shared)


def test_a_state_does_not_grow_with_the_take(wan, attend):
    chain = Chain(wan, attend)
    sizes, parked, entered = [], None, 0
    for _ in range(12):
        parked, entered = chain.stretch(parked, entered, 1)
        of_pages = sum(t.nbytes for page in parked.pages.values() for layers in page.values() for t in layers)
        sizes.append((sum(t.nbytes for t in parked.tensors.values()), of_pages, len(str(parked.data))))
    assert max(sizes[6:])[0] == min(sizes[6:])[0] and sizes[6][1] == sizes[-1][1]
    assert sizes[-1][2] < 1.02 * sizes[6][2]


def test_a_take_stopped_in_the_middle_of_a_stretch_goes_on(wan, attend):
    video, _ = whole(wan, attend, 5)
    chain = Chain(wan, attend)
    parked, entered = chain.stretch(None, 0, 2)
    parked, entered = chain.stretch(parked, entered, 2, stop=parked.next_call + 3)
    parked, entered = chain.stretch(parked, entered, 1)
    assert torch.equal(chain.finish(parked, entered), video)


@pytest.mark.parametrize("refresh", [False, True])
@pytest.mark.parametrize("stop", range(0, 14))
def test_without_a_cache_chunks_in_flight_need_no_pages(wan, attend, stop: int, refresh: bool):
    settings = replace(SETTINGS, clean_refresh=refresh)
    video, _ = whole(wan, attend, 6, settings, None)
    chain = Chain(wan, attend, settings, None)
    parked, entered = chain.stretch(None, 0, 4)
    stopped, entered = chain.stretch(parked, entered, 2, stop=parked.next_call + stop)
    plan = chain.growth.plan(entered + 1)
    clean = {chunk.place for chunk in takes.clean_chunks(plan, parked.next_call)}
    assert set(parked.pages) <= clean, "at the end of a row every chunk in flight is made anew before it is read"
    assert torch.equal(chain.finish(stopped, entered), video)


def test_pages_are_needed_until_they_are_made_anew():
    plan = SkyReelsV2Growth(SETTINGS).plan(6)
    at = takes.entry_calls(plan)[5]
    clean = {chunk.place for chunk in takes.clean_chunks(plan, at)}
    in_flight = {call.parts[0].chunk for call in plan.calls[:at]} - clean
    assert in_flight and clean
    assert takes.pages_needed(plan, at, lambda place: False) >= in_flight
    assert takes.pages_needed(plan, at, lambda place: True) <= clean
    middle = at + 1  # the first chunk of the row has made its call, the next one reads it
    own = plan.calls[at].parts[0].chunk
    assert takes.pages_needed(plan, middle, lambda place: True) >= {own}
    assert takes.pages_needed(plan, len(plan.calls), lambda place: False) == set()


def test_without_pages_keys_and_values_are_made_again(wan, attend):
    settings = replace(SETTINGS, clean_refresh=True, history_noise=0, window_frames=29)
    chain = Chain(wan, attend, settings, None)
    parked, entered = chain.stretch(None, 0, 5)
    exact = chain.finish(parked, entered)
    again = Chain(wan, attend, settings, None)
    plan = again.growth.plan(5)
    memory = again.memory(plan)
    state, missing = takes.unpark(plan, parked.without_pages(), memory, PER_FRAME, STATE_CLASSES, again.whole, CPU)
    clean = {chunk.place for chunk in takes.clean_chunks(plan, state.next_call)}
    due = {plan.calls[state.next_call].parts[0].chunk}  # to be refreshed by the next call
    assert missing and {chunk.place for chunk in missing} == clean - due
    list(takes.make_again(plan, state, memory, again.call(memory), again.growth, missing))
    again.run(plan, state, memory, None)
    error = (again.made[4] - exact[:, :, 8:]).abs().max() / exact.abs().max()
    assert error < 1e-5  # all earlier chunks are still in sight, and a clean refresh made them: the same numbers


def test_a_lower_precision_is_close(wan, attend):
    exact = chained(wan, attend, (2, 2), cache=None)[0]
    half = chained(wan, attend, (2, 2), cache=None, dtype=torch.bfloat16)[0]
    error = (half - exact).abs().max() / exact.abs().max()
    assert 0 < error < 0.05


def test_far_positions_give_what_near_ones_do(wan, attend):
    """Rotary positions count only as distances: a chunk far into a take sees what it would see at its beginning."""
    chain = Chain(wan, attend, cache=None)
    plan = chain.growth.plan(3)
    near = [call for call in plan.calls if call.row == plan.calls[-1].row - 3]
    x = torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(5))

    def outputs(shift: int) -> list[torch.Tensor]:
        memory = NetworkRun(KVCache(2, 4 * PER_FRAME, 32, torch.float32, CPU))
        made = []
        for call in near:
            part = call.parts[0]
            moved = replace(part, start=part.start + shift, stop=part.stop + shift)
            reads = (near[0].start + shift, call.stop + shift)
            made.append(chain.call(memory)(replace(call, parts=(moved,), reads=reads), x))
        return made

    assert len(near) == 2
    for a, b in zip(outputs(0), outputs(100_000), strict=True):
        assert torch.allclose(a, b, atol=2e-4 * float(a.abs().max()))


def test_chunks_see_no_further_than_the_window():
    plan = SkyReelsV2Growth(SETTINGS).plan(40)
    distances = [call.stop - call.reads[0] for call in plan.calls]
    assert max(distances) == 4  # window_frames 13 = 4 latent frames
    assert plan.stored_frames <= 4 + 2 * (SETTINGS.steps // SETTINGS.ar_step)


def test_chunks_that_begin_together_are_refused():
    with pytest.raises(PlanError, match=r"ar_step is 0.*nearest: 1"):
        SkyReelsV2Growth(replace(SETTINGS, ar_step=0)).plan(2)
    with pytest.raises(PlanError, match=r"window is 5 frames.*nearest: 9"):
        SkyReelsV2Growth(replace(SETTINGS, window_frames=5)).plan(2)


def test_a_stand_in_is_of_the_same_sample_and_list():
    there = [("positive", 0, 0), ("positive", 0, 1), ("negative", 0, 0), ("negative", 0, 1)]
    assert takes.stand_in(("negative", 1, 1), there) == ("negative", 0, 1)
    assert takes.stand_in(("third", 0, 1), there) == ("positive", 0, 1)


def test_ring():
    assert ring(3, 7, 10) == [slice(3, 7)]
    assert ring(8, 13, 10) == [slice(8, 10), slice(0, 3)]
    assert ring(20, 20, 10) == []
