"""The loop: it can stop anywhere and go on bit-equal, tells every chunk once, and leaves given frames alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from motioncache_core.config import CacheConfig
from motioncache_core.events import CallEvent, ChunkEvent, Event
from motioncache_core.kv_cache import KVCache
from motioncache_core.loop import RunState, clean_prediction, context_level, part_levels, run, window_noise
from motioncache_core.models.skyreels_v2.adapter import BranchRow, NetworkRun, SkyReelsV2Adapter
from motioncache_core.models.skyreels_v2.plan import SamplingSettings, build_plan
from motioncache_core.models.skyreels_v2.policy import SkyReelsV2Policy
from motioncache_core.noise import chunk_noise
from motioncache_core.plan import Call, Plan

CACHE = CacheConfig(
    warmup_steps=1,
    chunk_phase_updates=1,
    chunk_threshold=0.02,
    token_threshold=0.15,
    motion_floor=0.3,
    distance="patch embedding",
    vote=None,
    min_update_ratio=0.0,
)
SEED = 3


def plan_of(**changes: object) -> Plan:
    settings = {"frames": 21, "steps": 6, "chunk_frames": 2, "ar_step": 2, "window_frames": 13, "overlap_frames": 5}
    return build_plan(SamplingSettings(**(settings | changes)))


class Sampling:
    """A plan on the tiny network, one branch and latents of 4 x 4, with its memory."""

    def __init__(self, network, attend, plan: Plan, *, cache: CacheConfig | None = CACHE, batch: int = 1, start=None):
        self.plan, self.batch, self.start = plan, batch, start
        self.adapter = SkyReelsV2Adapter(network, attend)
        self.text = torch.randn(batch, 3, 8, generator=torch.Generator().manual_seed(1))
        self.memory = NetworkRun(KVCache(2, plan.stored_frames * 4, 32, torch.float32, torch.device("cpu")))
        self.memory.policy = SkyReelsV2Policy(cache) if cache else None
        self.state = RunState.new(plan, batch, 16, 4, 4, torch.device("cpu"))
        self.inputs: list[Tensor] = []

    def call(self, call: Call, x: Tensor) -> Tensor:
        self.inputs.append(x.clone())
        timesteps = [part.timestep for part in call.parts for _ in range(part.start, part.stop)]
        rows = [BranchRow(("positive", 0, sample), "prompt") for sample in range(self.batch)]
        levels, rates = [timesteps] * self.batch, [[1] * call.frames] * self.batch
        velocity = self.adapter.forward(x, self.text, call, rows, self.memory, levels, rates)
        return clean_prediction(call, x, velocity)

    def events(self, solver: str = "unipc") -> Iterator[Event]:
        return run(self.plan, self.state, self.memory, self.call, SEED, solver, self.start)

    def go(self, **options: str) -> Tensor:
        for _ in self.events(**options):
            pass
        return self.state.video


def told(event: Event) -> tuple:
    """An event without its times, to compare."""
    if isinstance(event, ChunkEvent):
        return event.window, event.chunk, event.latents.flatten().tolist()
    outcomes = [(d.phase, d.outcome, d.computed, d.distance) for d in event.decisions]
    return event.call, event.passes, outcomes, event.x0.flatten().tolist()


PLANS = {
    "windows, cache and refresh": (plan_of(clean_refresh=True), CACHE),
    "start frame, no cache": (plan_of(frames=9, start_latents=1, steps=3), None),
    "vanilla": (plan_of(frames=13, steps=3, attention="vanilla block-causal"), None),
}


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("solver", ["unipc", "euler"])
def test_stopped_after_any_event_a_run_goes_on_bit_equal_and_tells_the_rest(wan, attend, name: str, solver: str):
    plan, cache = PLANS[name]
    start = torch.full((1, 16, 1, 4, 4), 0.5) if plan.windows[0].context else None

    def fresh() -> Sampling:
        return Sampling(wan, attend, plan, cache=cache, start=start)

    whole = fresh()
    expected = [told(event) for event in whole.events(solver)]
    outcomes = {outcome for event in expected if isinstance(event[0], Call) for _, outcome, _, _ in event[2]}
    assert outcomes == ({"full", "partial", "reused"} if cache else set())
    for stop in range(1, len(expected), 1 if solver == "unipc" else 4):
        stopped, seen = fresh(), []
        generator = stopped.events(solver)
        for _ in range(stop):
            seen.append(told(next(generator)))
        generator.close()
        seen += [told(event) for event in stopped.events(solver)]
        assert seen == expected, f"stopped after event {stop}"
        assert torch.equal(stopped.state.video, whole.state.video)


def test_a_finished_run_has_nothing_more_to_do(wan, attend):
    sampling = Sampling(wan, attend, plan_of(frames=9, steps=2))
    video = sampling.go().clone()
    assert list(sampling.events()) == []
    assert torch.equal(sampling.state.video, video)


@pytest.mark.parametrize("attention", ["chunk-wise", "vanilla full"])
def test_every_chunk_is_told_once_when_its_last_step_is_done(wan, attend, attention: str):
    plan = plan_of(attention=attention, frames=25)
    sampling, chunks, steps = Sampling(wan, attend, plan, cache=None), [], {}
    for event in sampling.events():
        if isinstance(event, CallEvent):
            steps.update({(event.call.window, part.chunk): part.step for part in event.call.parts if part.step >= 0})
        else:
            assert steps[event.window, event.chunk.place] == plan.steps - 1
            chunks.append(event)
    assert sorted(event.chunk.number for event in chunks) == [0, 1, 2, 3]
    for event in chunks:
        at = plan.windows[event.window].start
        frames = sampling.state.video[:, :, at + event.chunk.start : at + event.chunk.stop]
        assert torch.equal(event.latents, frames) and event.latents.abs().max() > 0


def test_events_hold_copies(wan, attend):
    chunks = []
    sampling = Sampling(wan, attend, plan_of(frames=9, steps=2), cache=None)
    for event in sampling.events():
        if isinstance(event, ChunkEvent):
            chunks.append((event.latents, event.latents.clone()))
            sampling.state.video.add_(0)
            sampling.state.window.mul_(1)
    sampling.state.window.zero_()
    sampling.state.video.zero_()
    assert all(torch.equal(kept, copy) for kept, copy in chunks)


@pytest.mark.parametrize("frames", [21, 33])
def test_a_longer_video_begins_with_the_shorter_one(wan, attend, frames: int):
    short = Sampling(wan, attend, plan_of(frames=13)).go()
    assert torch.equal(Sampling(wan, attend, plan_of(frames=frames)).go()[:, :, :4], short)


def test_given_frames_stay_and_history_is_what_was_made(wan, attend):
    plan = plan_of(start_latents=1, history_noise=100)
    start = torch.randn(1, 16, 1, 4, 4, generator=torch.Generator().manual_seed(5))
    sampling = Sampling(wan, attend, plan, start=start)
    video = sampling.go()
    assert torch.equal(video[:, :, :1], start)
    context = {call.window: call for call in plan.calls if call.kind == "context"}
    for window in plan.windows:
        call = context[window.index]
        noise = chunk_noise(SEED, window.index, 1, 16, window.context, 4, 4, window.context, "history")
        given = start if window.index == 0 else video[:, :, window.start : window.start + window.context]
        shown = given * 0.9 + noise * 0.1
        torch.testing.assert_close(sampling.inputs[call.index], shown[:, :, call.start : call.stop])


def test_the_first_call_of_a_chunk_sees_its_own_noise(wan, attend):
    plan = plan_of()
    sampling = Sampling(wan, attend, plan)
    sampling.go()
    first = {}
    for call in plan.calls:
        if call.kind == "denoise" and call.parts[0].step == 0:
            number = plan.windows[call.window].chunks[call.parts[0].chunk].number
            first[number] = sampling.inputs[call.index]
    assert set(first) == {0, 1, 2}
    for number, seen in first.items():
        assert torch.equal(seen, chunk_noise(SEED, number, 1, 16, 2, 4, 4, 2, "start"))


def test_an_euler_run_is_the_straight_line_to_the_predictions():
    """With a network that predicts the same clean latents whatever it sees, one chunk goes straight to them."""
    plan = plan_of(frames=5, steps=4, ar_step=0)
    clean = torch.full((1, 16, 2, 4, 4), 0.25)
    state, seen = RunState.new(plan, 1, 16, 4, 4, torch.device("cpu")), []

    def call(call: Call, x: Tensor) -> Tensor:
        seen.append(x)
        return clean

    for _ in run(plan, state, NetworkRun(), call, SEED, "euler"):
        pass
    noise = chunk_noise(SEED, 0, 1, 16, 2, 4, 4, 2, "start")
    for x, sigma in zip(seen, plan.sigmas, strict=False):
        torch.testing.assert_close(x, clean + (noise - clean) * sigma / plan.sigmas[0])
    torch.testing.assert_close(state.video, clean)


def test_a_batch_is_noised_sample_by_sample(wan, attend):
    plan = plan_of(frames=9, steps=3)
    alone = Sampling(wan, attend, plan, cache=None)
    alone.go()
    both = Sampling(wan, attend, plan, cache=None, batch=2)
    both.text[1] = both.text[0] = alone.text[0]
    both.go()
    torch.testing.assert_close(both.state.video[:1], alone.state.video, atol=2e-5, rtol=0)
    assert (both.state.video[1] - both.state.video[0]).abs().max() > 0.1


def test_noise_of_a_window_is_that_of_its_chunks_and_none_where_frames_are_given():
    plan = plan_of(start_latents=1, frames=13)
    window, like = plan.windows[0], torch.zeros(2, 16, 4, 4, 4)
    noise, given = window_noise(plan, window, SEED, like)
    assert noise.shape == like.shape and given.shape == (2, 16, 1, 4, 4)
    assert not noise[:, :, :1].any()
    assert torch.equal(noise[:, :, 1:3], chunk_noise(SEED, 0, 2, 16, 2, 4, 4, 2, "start"))
    assert torch.equal(noise[:, :, 3:], chunk_noise(SEED, 1, 2, 16, 1, 4, 4, 2, "start"))
    later = plan_of().windows[1]
    noise, _ = window_noise(plan_of(), later, SEED, like)
    assert torch.equal(noise[:, :, 2:4], chunk_noise(SEED, 2, 2, 16, 2, 4, 4, 2, "start"))


def test_levels_of_a_call_and_the_prediction_by_hand():
    plan = build_plan(SamplingSettings(frames=13, steps=2, ar_step=1, chunk_frames=2, attention="vanilla full"))
    call = plan.calls[1]
    first, second = plan.sigmas[1], plan.sigmas[0]
    like = torch.ones(1, 1, 4, 1, 1)
    torch.testing.assert_close(part_levels(call, like).flatten(), torch.tensor([first, first, second, second]))
    torch.testing.assert_close(
        clean_prediction(call, like * 3, like * 2).flatten(),
        torch.tensor([3 - 2 * first] * 2 + [3 - 2 * second] * 2),
    )


@pytest.mark.parametrize("attention", ["chunk-wise", "vanilla full"])
@pytest.mark.parametrize("noise", [0, 20, 999])
def test_the_level_of_given_frames_is_a_thousandth_of_their_timestep(attention: str, noise: int):
    plan = plan_of(start_latents=1, history_noise=noise, attention=attention)
    assert [context_level(plan, window) for window in plan.windows] == [noise / 1000] * len(plan.windows)
    assert context_level(plan_of(attention=attention), plan_of(attention=attention).windows[0]) == 0.0
