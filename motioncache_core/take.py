"""A take: a video that grows chunk by chunk, put down between two calls as a value that nobody changes.

A stretch of new chunks is planned together with one chunk more, and run until that one would enter: a plan's calls
before a chunk enters do not depend on it. The chunks in flight are then at staggered noise levels, and the next stretch
goes on with the same call of a longer plan. So a chain of stretches makes the calls of one run, in the same order.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from . import state as saved
from .events import CallEvent
from .kv_cache import KVCache
from .loop import ModelCall, NetworkMemory, RunState, call_input, start_noise
from .plan import Call, Chunk, Plan

Rows = dict[int, dict[Hashable, list[slice]]]
"""Place of a chunk -> role -> rows of the store."""
Page = Mapping[Hashable, tuple[Tensor, ...]]
"""Role -> keys and values of a chunk in every layer, each ``[2, n, width]``."""


class Growth(Protocol):
    """How a family's plan grows.

    Args:
        whole_last_row: whether a run always computes its last row, which it might reuse if more chunks came behind it.
    """

    whole_last_row: ClassVar[bool]

    def plan(self, chunks: int) -> Plan:
        """The plan of so many generated chunks. Raises PlanError for settings that cannot be sampled."""

    def clean_call(self, plan: Plan, chunk: Chunk, oldest: int) -> Call:
        """A call that makes the keys and values of a chunk that is clean. ``oldest``: first latent frame there is."""


class TakeMemory(NetworkMemory, Protocol):
    """What a take asks of the network's memory beside what the loop does."""

    kv: KVCache

    def rows_kept(self, plan: Plan, next_call: int, per_frame: int) -> Rows:
        """Where keys and values that are read again from a call on lie, chunks that are yet to enter left out."""

    def memory(self) -> dict[str, Any]: ...
    def recall(self, memory: dict[str, Any]) -> None: ...
    def redo(self, chunk: int) -> None:
        """The next step of a chunk computes everything, since its keys and values are lost."""


@dataclass(frozen=True)
class Parked:
    """A run at rest, in main memory.

    Args:
        next_call: index of the call to go on with.
        tensors, data: latents, solvers and cache decisions, as :func:`.state.export` gives them.
        pages: keys and values of the chunks that are read again, by place. Pages of chunks that do not change any
            more are shared by all later states. Missing ones are made again from the latents.
    """

    next_call: int
    tensors: Mapping[str, Tensor]
    data: Any
    pages: Mapping[int, Page] = field(default_factory=dict)

    def bytes_beside(self, before: Parked | None) -> int:
        """Main memory that it takes beside an earlier state, whose pages it shares where they have not changed."""
        shared = [] if before is None else [id(page) for page in before.pages.values()]
        own = (page for page in self.pages.values() if id(page) not in shared)
        layers = (pair for page in own for pairs in page.values() for pair in pairs)
        return sum(tensor.nbytes for tensor in (*self.tensors.values(), *layers))

    def without_pages(self) -> Parked:
        """The same, smaller: its keys and values have to be made again from clean latents, which is not exact."""
        return replace(self, pages={})


def stand_in(role: Hashable, there: Iterable[Hashable]) -> Hashable:
    """The branch whose keys and values serve one that was not passed: of the same sample, of the same list if possible.

    Args:
        role, there: (list or pass, slot, sample) triples.
    """
    same_sample = [other for other in there if other[-1] == role[-1]]
    return next((other for other in same_sample if other[0] == role[0]), same_sample[0])


def generated(plan: Plan) -> tuple[Chunk, ...]:
    """A take's chunks that are not given, in order."""
    return tuple(chunk for chunk in plan.windows[0].chunks if chunk.number is not None)


def entry_calls(plan: Plan) -> list[int]:
    """Of each generated chunk, index of the first call that may be another one than without the chunk: the first one of
    the row in which it makes its first step, or of refreshes just before that.
    """
    rows: dict[int, int] = {}
    entries: dict[int, int] = {}
    for call in plan.calls:
        if call.kind != "context":
            rows.setdefault(call.row, call.index)
        entries |= {part.chunk: rows[call.row] for part in call.parts if part.step == 0}

    def before_refreshes(entry: int) -> int:
        while entry and plan.calls[entry - 1].kind == "refresh":
            entry -= 1
        return entry

    return [before_refreshes(entries[chunk.place]) for chunk in generated(plan)]


def clean_chunks(plan: Plan, next_call: int) -> list[Chunk]:
    """Generated chunks whose last step is done before a call."""
    last = {part.chunk: call.index for call in plan.calls for part in call.parts if part.step == plan.steps - 1}
    return [chunk for chunk in generated(plan) if last[chunk.place] < next_call]


def pages_needed(plan: Plan, next_call: int, whole: Callable[[int], bool]) -> set[int]:
    """Places of the chunks whose stored keys and values are read from a call on before they are made anew.

    A chunk in flight that is always computed whole makes its own anew in its next call, so nobody needs the old ones,
    and so does one that is passed clean; one under a cache goes on from them.

    Args:
        whole: whether a chunk's calls compute all of its tokens, by place.
    """
    written = {part.chunk for call in plan.calls[:next_call] if call.writes for part in call.parts}
    starts = [chunk.start for chunk in plan.windows[0].chunks]
    needed: set[int] = set()
    anew: set[int] = set()
    for call in plan.calls[next_call:]:
        own = call.parts[0].chunk
        old = () if call.kind != "denoise" or whole(own) else (own,)
        needed |= {*range(bisect_right(starts, call.reads[0]) - 1, own), *old} - anew
        anew.add(own)
    return needed & written


def _rows_needed(plan: Plan, next_call: int, memory: TakeMemory, per_frame: int, whole: Callable[[int], bool]) -> Rows:
    """Where the keys and values of :func:`pages_needed` lie in the store."""
    needed = pages_needed(plan, next_call, whole)
    kept = memory.rows_kept(plan, next_call, per_frame)
    return {place: rows for place, rows in kept.items() if place in needed}


def enter(plan: Plan, state: RunState, chunks: Iterable[Chunk], seed: int) -> None:
    """Lay out new chunks behind those that are there: start noise, nothing clean yet."""
    for chunk in chunks:
        noise = start_noise(plan, plan.windows[0], chunk, seed, state.video)
        state.window = torch.cat([state.window, noise], dim=2)
        state.video = torch.cat([state.video, torch.zeros_like(noise)], dim=2)


def let_go(plan: Plan, state: RunState) -> None:
    """Drop latents that no later call shows: all but the chunks that are read again, and one frame before them."""
    calls = [call for call in plan.calls if call.index >= state.next_call]
    if not calls:
        return
    oldest = min(min(call.reads[0], call.start) for call in calls)
    chunk = next(chunk for chunk in plan.windows[0].chunks if chunk.stop > oldest)
    first = max(state.first, chunk.start - 1)
    state.window = state.window[:, :, first - state.first :].clone()
    state.video = state.video[:, :, first - state.first :].clone()
    state.first = first


def park(
    plan: Plan,
    state: RunState,
    memory: TakeMemory,
    per_frame: int,
    family: tuple[type, ...],
    whole: Callable[[int], bool],
    before: Parked | None,
    written: set[int],
    dtype: torch.dtype | None,
) -> Parked:
    """Put a run down.

    Args:
        plan: with a chunk more than have entered.
        per_frame: tokens of a latent frame.
        family: the family's classes in its memory.
        whole: see :func:`pages_needed`.
        before: the state that this one grew from.
        written: places of the chunks whose keys and values were written since.
        dtype: precision of the kept keys and values, ``None``: do not keep them.
    """
    parts = {key: value for key, value in memory.memory().items() if key != "kv"}
    tensors, data = saved.export({"run": state, **parts}, family)
    kept = {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}
    pages: dict[int, Page] = {}
    rows_needed = {} if dtype is None else _rows_needed(plan, state.next_call, memory, per_frame, whole)
    for place, rows in rows_needed.items():
        old = before.pages.get(place) if before is not None else None
        if old is not None and place not in written and set(rows) <= set(old):
            pages[place] = old
        else:
            pages[place] = {role: tuple(memory.kv.take_out(role, own, dtype)) for role, own in rows.items()}
    return Parked(state.next_call, kept, data, pages)


def unpark(
    plan: Plan,
    parked: Parked,
    memory: TakeMemory,
    per_frame: int,
    family: tuple[type, ...],
    whole: Callable[[int], bool],
    device: torch.device,
) -> tuple[RunState, list[Chunk]]:
    """Take a run up again.

    Args:
        memory: new, its store allocated.
        whole: see :func:`pages_needed`.

    Returns:
        (its state, clean chunks whose keys and values have to be made again with :meth:`Growth.clean_call`, the oldest
        first).

    Raises:
        ValueError: it holds what it cannot.
    """
    parts = saved.restore(dict(parked.tensors), parked.data, family, device)
    state: RunState = parts.pop("run")
    memory.recall({**parts, "kv": memory.kv})
    chunks = {chunk.place: chunk for chunk in plan.windows[0].chunks}
    clean = {chunk.place for chunk in clean_chunks(plan, state.next_call)}
    missing = []
    for place, rows in _rows_needed(plan, state.next_call, memory, per_frame, whole).items():
        page = parked.pages.get(place)
        if page is not None:
            for role, own in rows.items():
                memory.kv.put_back(role, own, page[role if role in page else stand_in(role, page)])
        elif place in clean or chunks[place].number is None:
            missing.append(chunks[place])
        else:
            memory.redo(place)
    return state, sorted(missing, key=lambda chunk: chunk.place)


def make_again(
    plan: Plan, state: RunState, memory: NetworkMemory, model_call: ModelCall, growth: Growth, chunks: Iterable[Chunk]
) -> Iterator[CallEvent]:
    """Pass clean chunks, the oldest first, once more for their keys and values."""
    chunks = list(chunks)
    for chunk in chunks:
        call = growth.clean_call(plan, chunk, chunks[0].start)
        x = call_input(call, plan.windows[0], state)
        x0 = model_call(call, x)
        passes, decisions = memory.take_notes()
        yield CallEvent(call, passes, decisions, 0.0, x0)
