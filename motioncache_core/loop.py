"""The loop: runs a plan with a solver, a model call and what the network remembers, one event after the other.

It knows nothing of a model family: which tokens a call computes is between the network's memory and its adapter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from .events import CallEvent, ChunkEvent, Decision, Event, Pass, StepReuse
from .noise import chunk_noise
from .plan import Call, Chunk, Part, Plan, Window
from .solvers import Solver, make_solver

ModelCall = Callable[[Call, Tensor], Tensor]
"""(call, noisy latents ``[B, C, F, H, W]`` of its frames) -> prediction of the clean latents, same shape."""


class NetworkMemory(Protocol):
    """What the loop asks of the network's memory."""

    def begin_window(self) -> None: ...
    def finish_chunk(self, chunk: int) -> None: ...
    def take_notes(self) -> tuple[tuple[Pass, ...], tuple[Decision, ...]]: ...


class StepPolicy(Protocol):
    """Decides above the network, guidance included, on what whole steps of a chunk add to its latents."""

    def reuse(self, call: Call, x: Tensor) -> StepReuse | None:
        """What a call takes over from earlier steps; ``None``: nothing, or it steps nothing."""

    def stepped(self, call: Call, x: Tensor, after: Tensor, previous: Tensor | None) -> None:
        """Take note of a call's outcome: its latents before and after, and the latent frame before them, if any."""


@dataclass
class RunState:
    """Where a run stands. Stopping after any event and going on with the same state loses nothing.

    Args:
        video: ``[B, C, F, H, W]`` clean latents so far in model units, zero where not yet made.
        next_call: index of the call to make next.
        window: latents of the window in work; its given frames are clean.
        first: latent frame at which ``video`` and ``window`` begin; those before it have been let go.
        history: the window's given frames as the network sees them, noised.
        begun: index of the window in work, -1 before the first.
        solvers: of the window's chunks, by place.
        untold: places of chunks that are clean, but whose event has not been yielded yet.
    """

    video: Tensor
    next_call: int = 0
    window: Tensor | None = None
    first: int = 0
    history: Tensor | None = None
    begun: int = -1
    solvers: dict[int, Solver] = field(default_factory=dict)
    untold: list[int] = field(default_factory=list)

    @classmethod
    def new(cls, plan: Plan, batch: int, channels: int, height: int, width: int, device: torch.device) -> RunState:
        """The state before the first call."""
        return cls(torch.zeros(batch, channels, plan.latent_frames, height, width, device=device))


def clean_prediction(call: Call, x: Tensor, velocity: Tensor) -> Tensor:
    """x0 = x - sigma * v with every part's own sigma, ``[B, C, F, H, W]``."""
    return x - part_levels(call, x) * velocity


def part_levels(call: Call, like: Tensor) -> Tensor:
    """``[F, 1, 1]`` sigma of every latent frame of a call."""
    levels = [part.sigma for part in call.parts for _ in range(part.start, part.stop)]
    return torch.tensor(levels, dtype=like.dtype, device=like.device).view(-1, 1, 1)


def window_noise(plan: Plan, window: Window, seed: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """(start noise of the window's frames, noise for its given frames), drawn per chunk from (seed, chunk).

    Args:
        like: ``[B, C, F, H, W]`` latents that tell batch, channels, size and device.
    """
    given = history_noise(window, seed, like)
    chunks = [start_noise(plan, window, chunk, seed, like) for chunk in window.chunks if chunk.number is not None]
    return torch.cat([torch.zeros_like(given), *chunks], dim=2), given


def history_noise(window: Window, seed: int, like: Tensor) -> Tensor:
    """Noise for a window's given frames. ``like``: see :func:`window_noise`."""
    if not window.context:
        return like[:, :, :0]
    return _drawn(seed, window.index, window.context, window.context, "history", like)


def start_noise(plan: Plan, window: Window, chunk: Chunk, seed: int, like: Tensor) -> Tensor:
    """Start noise of a generated chunk's new frames; one that begins among the given frames gets the end of its noise.

    Args:
        like: see :func:`window_noise`.
    """
    whole = _drawn(seed, chunk.number, chunk.frames, plan.chunk_frames, "start", like)
    return whole[:, :, max(window.context - chunk.start, 0) :]


def _drawn(seed: int, index: int, frames: int, full: int, purpose: str, like: Tensor) -> Tensor:
    batch, channels, _, height, width = like.shape
    return chunk_noise(seed, index, batch, channels, frames, height, width, full, purpose).to(like.device)


def begin_window(
    plan: Plan,
    window: Window,
    state: RunState,
    memory: NetworkMemory,
    noise: Tensor,
    given_noise: Tensor,
    given: Tensor,
) -> None:
    """Lay out a window: start noise behind the given frames, which the network sees noised.

    Args:
        noise: ``[B, C, window frames, H, W]``.
        given_noise: ``[B, C, given frames, H, W]``.
        given: clean latents of the given frames, same shape.
    """
    state.window = noise.clone()
    state.window[:, :, : window.context] = given
    level = context_level(plan, window)
    state.history = given * (1.0 - level) + given_noise * level
    if window.index == 0:
        state.video[:, :, : window.context] = given
    state.solvers = {}
    state.begun = window.index
    memory.begin_window()


def context_level(plan: Plan, window: Window) -> float:
    """Share of noise in what the network sees of the given frames."""
    given = {chunk.place for chunk in window.chunks if chunk.number is None}
    levels = (part.sigma for call in plan.calls_of(window.index) for part in call.parts if part.chunk in given)
    return next(levels, 0.0)


def run_window(
    plan: Plan,
    window: Window,
    state: RunState,
    memory: NetworkMemory,
    model_call: ModelCall,
    solver: str = "unipc",
    quirks: frozenset[str] = frozenset(),
    policy: StepPolicy | None = None,
    until: int | None = None,
) -> Iterator[Event]:
    """Make the calls of a window that has begun; goes on where ``state`` stands.

    Args:
        until: index of the call to stop before; ``None``: make all.

    Raises:
        ValueError: a ``policy`` that reuses steps is given with a solver that remembers earlier ones.
    """
    if policy is not None and solver != "euler":
        raise ValueError(f"solver is {solver!r}; steps can only be reused with 'euler'")
    yield from _tell(window, state)
    for call in plan.calls_of(window.index):
        if call.index < state.next_call:
            continue
        if until is not None and call.index >= until:
            return
        started = time.perf_counter()
        x = call_input(call, window, state)
        reuse = policy.reuse(call, x) if policy is not None else None
        x0 = model_call(call, x) if reuse is None or reuse.computed is not None else None
        finished = [part for part in call.parts if _step(part, call, x, x0, reuse, plan, state, solver, quirks)]
        if policy is not None:
            policy.stepped(call, x, *_after(call, state))
        if reuse is not None:
            x0 = _prediction(call, x, x0, reuse)
        passes, decisions = memory.take_notes()
        for part in finished:
            _finish(part, window, state, memory)
        state.next_call = call.index + 1
        yield CallEvent(call, passes, decisions, time.perf_counter() - started, x0)
        yield from _tell(window, state)


def run(
    plan: Plan,
    state: RunState,
    memory: NetworkMemory,
    model_call: ModelCall,
    seed: int,
    solver: str = "unipc",
    start: Tensor | None = None,
    policy: StepPolicy | None = None,
) -> Iterator[Event]:
    """Run a whole plan, later windows going on from the latents before them.

    Args:
        start: ``[B, C, f, H, W]`` clean latents given at the beginning, if the plan has some.
    """
    for window in plan.windows[max(state.begun, 0) :]:
        if state.begun < window.index:
            noise, given_noise = window_noise(plan, window, seed, state.video)
            given = start if window.index == 0 and start is not None else history_latents(window, state.video)
            begin_window(plan, window, state, memory, noise, given_noise, given)
        yield from run_window(plan, window, state, memory, model_call, solver, policy=policy)


def history_latents(window: Window, video: Tensor) -> Tensor:
    """The latents before a window that it starts from."""
    return video[:, :, window.start : window.start + window.context]


def call_input(call: Call, window: Window, state: RunState) -> Tensor:
    """``[B, C, F, H, W]`` a call's latents as the network is shown them: given frames noised, others as they are."""
    given = state.history[:, :, call.start : call.stop]
    made = state.window[:, :, max(call.start, window.context) - state.first : call.stop - state.first]
    return torch.cat([given, made], dim=2)


def _after(call: Call, state: RunState) -> tuple[Tensor, Tensor | None]:
    """A call's latents as they are now, and the latent frame before them."""
    start, stop = call.start - state.first, call.stop - state.first
    return state.window[:, :, start:stop], state.window[:, :, start - 1] if start else None


def _step(
    part: Part,
    call: Call,
    x: Tensor,
    x0: Tensor | None,
    reuse: StepReuse | None,
    plan: Plan,
    state: RunState,
    solver: str,
    quirks: frozenset[str],
) -> bool:
    """Step one part; whether its chunk is now clean."""
    if part.step < 0:
        return False
    stepper = state.solvers.setdefault(part.chunk, make_solver(solver, plan.sigmas, quirks))
    own = slice(part.start - call.start, part.stop - call.start)
    if x0 is None:
        stepper.skip()
        after = x[:, :, own] + reuse.added[:, :, own]
    else:
        after = stepper.step(x0[:, :, own], x[:, :, own])
        if reuse is not None:
            after = torch.where(reuse.computed[:, :, own], after, x[:, :, own] + reuse.added[:, :, own])
    state.window[:, :, part.start - state.first : part.stop - state.first] = after
    return part.step == plan.steps - 1


def _prediction(call: Call, x: Tensor, x0: Tensor | None, reuse: StepReuse) -> Tensor:
    """The clean latents that a call's steps head for: reused ones go straight on."""
    levels = [(part.sigma, part.sigma_next) for part in call.parts for _ in range(part.frames)]
    lengths = torch.tensor([now / (now - after) for now, after in levels], dtype=x.dtype, device=x.device)
    straight = x + reuse.added * lengths.view(-1, 1, 1)
    return straight if x0 is None else torch.where(reuse.computed, x0, straight)


def _finish(part: Part, window: Window, state: RunState, memory: NetworkMemory) -> None:
    memory.finish_chunk(part.chunk)
    del state.solvers[part.chunk]
    start = part.start if window.remakes_context else max(part.start, window.context)
    made = state.window[:, :, start - state.first : part.stop - state.first]
    begin = window.start - state.first
    state.video[:, :, begin + start : begin + part.stop] = made
    state.untold.append(part.chunk)


def _tell(window: Window, state: RunState) -> Iterator[ChunkEvent]:
    """Events of the chunks that became clean; a run that was stopped between them tells the rest when it goes on."""
    while state.untold:
        chunk = window.chunks[state.untold.pop(0)]
        yield ChunkEvent(window.index, chunk, _latents(chunk, state).clone())


def _latents(frames: Part | Chunk, state: RunState) -> Tensor:
    return state.window[:, :, frames.start - state.first : frames.stop - state.first]
