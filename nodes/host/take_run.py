"""Going on with a take: the stretches that have chunks in flight, each with its own guider, in one run of the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ...motioncache_core.events import CallEvent, ChunkEvent, Event, StepReuse
from ...motioncache_core.loop import RunState, begin_window, history_noise, run_window
from ...motioncache_core.plan import Call, Chunk, Plan
from ...motioncache_core.replay import retell
from ...motioncache_core.report import SEVERAL_SETTINGS
from ...motioncache_core.take import enter, entry_calls, generated, let_go, make_again, pages_needed, park, unpark
from ...motioncache_core.trace import Trace
from .chunk_session import guided_call
from .latents import InputError
from .live_run import Node, live_run
from .nested_runs import make_current, nested, patched_otherwise
from .previews import PacedCallback
from .runs import listen
from .sampler import newest_frame
from .takes import KEPT, KEPT_AS_COMPUTED, KEPT_FINISHED, Lane, Stretch, Take
from .thumbnails import latent_colours

CHANNELS = 16
SHOWN_BEFORE = 8
"""Chunks finished by earlier nodes whose pictures a node's view shows."""
OTHER_PATCHES = (
    "This part or the one before has a LoRA or another patch of its own. While chunks of both are in work, the model "
    "is patched anew in every step, which is slow; a higher ar_step keeps fewer chunks in work."
)
MADE_AGAIN = "keys and values of finished chunks were made again from their latents"


@dataclass
class Outcome:
    """A take that has been gone on with.

    Args:
        payload: for the node's view.
        store: a sentence on the keys and values that it took, ``None``: no call was made.
    """

    take: Take
    payload: dict[str, Any]
    store: str | None = None


@dataclass(frozen=True)
class Autosave:
    """Told of the take whenever a chunk has become clean, and at the end unless nothing can follow.

    Args:
        save: given the take as it stands.
        with_memory: whether keys and values are to be in it.
    """

    save: Callable[[Take], None]
    with_memory: bool


def add_stretch(take: Take, stretch: Stretch, settings_of: Any) -> tuple[Take, list[str]]:
    """A take with a stretch more, nothing of it made yet, and notices for the artist.

    Args:
        settings_of: MODEL whose cache settings act on it; the next stretch goes on with the stretch's own MODEL.

    Raises:
        ValueError: it cannot be made.
    """
    if take.complete:
        raise InputError("take is finished, no chunk can follow; connect the take from before Finish video")
    earlier = take.stretches[-1].model if take.stretches else take.model
    notices = take.settings.check(stretch, take.stretches, earlier)
    plan = take.settings.growth.plan(take.chunks + stretch.chunks)
    if take.parked is not None and take.parked.next_call > entry_calls(plan)[take.chunks]:
        raise InputError(
            "take was saved by Finish video, past the point where a chunk could follow; it can only be finished"
        )
    cache, inactive = take.settings.active(settings_of, plan)
    if inactive is not None:
        notices.append(f"MotionCache is not active: {inactive}")
    if any(_swaps(stretch, other) for other in take.stretches[-1:]):
        notices.append(OTHER_PATCHES)
    stretch = replace(stretch, cache=cache, inactive=inactive)
    return replace(take, stretches=(*take.stretches, stretch)), notices


def _swaps(stretch: Stretch, other: Stretch) -> bool:
    """Whether two stretches' MODELs are one checkpoint, so that they share their place in memory, and are patched
    differently: each guider patches for the LoRA on its own prompts.
    """
    if stretch.model.model is not other.model.model:
        return False
    return patched_otherwise(stretch.model, other.model) or _has_hooks(stretch) or _has_hooks(other)


def _has_hooks(stretch: Stretch) -> bool:
    prompts = (*(stretch.positive or ()), *(stretch.negative or ()))
    return any(options.get("hooks") is not None for _, options in prompts)


def go_on(take: Take, node: Node, finish: bool = False, autosave: Autosave | None = None) -> Outcome:
    """Make the calls that can be made before the next chunk enters.

    Args:
        finish: no chunk enters any more: make all of them.
    """
    total = take.chunks
    shown = take.settings.growth.plan(total)
    plan = shown if finish else take.settings.growth.plan(total + 1)
    until = len(plan.calls) if finish else entry_calls(plan)[total]
    if not finish and take.settings.growth.whole_last_row:
        until = min(until, next(call.index for call in shown.calls if call.row == shown.calls[-1].row))
    return _Going(take, node, plan, shown, until).run(finish, autosave)


class _Going:
    """One going on with a take.

    Args:
        plan: with a chunk more, unless the take is to be finished.
        shown: without it, for report, trace and view.
        until: call to stop before.
    """

    def __init__(self, take: Take, node: Node, plan: Plan, shown: Plan, until: int):
        self.take, self.node, self.plan, self.until = take, node, plan, until
        settings, newest = take.settings, take.stretches[-1]
        if take.report is None:
            self.report, self.trace = settings.report(newest, shown), Trace(shown, *settings.grid(newest))
        else:
            self.report = take.report.extended(shown, newest.cache, newest.inactive)
            self.trace = take.trace.extended(shown)
        self.several = any(stretch.cache != newest.cache for stretch in take.stretches)
        if self.several and SEVERAL_SETTINGS not in self.report.notes:
            self.report.notes.append(SEVERAL_SETTINGS)
        self.finished = list(take.finished)
        self.written: set[int] = set()
        self.given_chunks = len(plan.windows[0].chunks) - len(generated(plan))
        self.per_frame = self.trace.rows * self.trace.columns

    def run(self, finish: bool, autosave: Autosave | None) -> Outcome:
        """Sample, and the take as it stands then."""
        newest = self.take.stretches[-1]
        colours = latent_colours(self.take.settings.colours_format(newest))
        plan = self.trace.plan
        told = live_run(self.node, plan, newest.cache, self.trace, colours, self.until)
        retell(told.state, self.trace, self.report.calls)
        if self.several:
            told.state.take_several_settings()
        shown_from = max(0, len(self.finished) - SHOWN_BEFORE)
        told.state.forget_pictures(shown_from)
        for number, latents in enumerate(self.finished[shown_from:], start=shown_from) if colours is not None else ():
            told.show(number, colours(latents))
        with told as live:
            self._hear = listen(self.report, self.trace, live)
            self._autosave = autosave
            lanes = self._lanes()
            if lanes:
                nested(list(lanes.values()), lambda: self._sample(lanes), self._noise())
                take = self._standing()
                if autosave is not None and not finish:
                    autosave.save(take if autosave.with_memory else take.without_memory())
            else:
                take = replace(self.take, report=self.report, trace=self.trace)
        return Outcome(replace(take, complete=finish), live.payload(), self._store_used() if lanes else None)

    def _store_used(self) -> str:
        store = self.memory.kv
        return f"Keys and values took {store.bytes / 2**30:.2g} GB on {store.device}"

    def _lanes(self) -> dict[int, Lane]:
        """By stretch: those whose chunks have calls to make, and those whose clean chunks have to be made again."""
        begin = self.take.parked.next_call if self.take.parked is not None else 0
        calls = [call for call in self.plan.calls if begin <= call.index < self.until]
        if not calls:
            return {}
        places = {part.chunk for call in calls for part in call.parts}
        if self.take.parked is not None:
            places |= pages_needed(self.plan, begin, self._whole) - set(self.take.parked.pages)
        wanted = sorted({self._stretch_at(place) for place in places})
        stretches = [self.take.stretches[i] for i in wanted]
        off = any(stretch.cache is not None for stretch in stretches)
        state, lanes = RunState(self._empty()), {}
        for index, stretch in zip(wanted, stretches, strict=True):
            lanes[index] = self.take.settings.lane(stretch, self.plan, state, off)
        self.take.settings.count_store(list(lanes.values()), self.plan)
        return lanes

    def _stretch_at(self, place: int) -> int:
        return min(self.take.stretch_of(place - self.given_chunks), len(self.take.stretches) - 1)

    def _whole(self, place: int) -> bool:
        return self.take.stretches[self._stretch_at(place)].cache is None

    def _empty(self) -> Tensor:
        device = self.take.stretches[-1].model.load_device
        return torch.zeros(self.take.settings.batch, CHANNELS, 0, *self.take.settings.latent_size, device=device)

    def _noise(self) -> Tensor:
        """Of the shape of one call's latents, for ComfyUI's estimate."""
        shape = (self.take.settings.batch, CHANNELS, self.plan.chunk_frames, *self.take.settings.latent_size)
        return torch.zeros(shape)

    def _sample(self, lanes: dict[int, Lane]) -> None:
        """All calls, inside of all guiders' runs."""
        self._join(list(lanes.values()))
        base = next(iter(lanes.values())).session
        self.memory = base.memory
        window, shape = self.plan.windows[0], self._noise().shape

        def enter_lane(call: Call) -> Lane:
            lane = lanes[self._stretch_at(call.parts[0].chunk)]
            make_current(lane.patcher, shape)
            lane.relay.begin(call)
            return lane

        def model_call(call: Call, x: Tensor) -> Tensor:
            lane = enter_lane(call)
            x0 = guided_call(lane.model_wrap, lane.relay, call, x, lane.extra_args)
            lane.session.mirror(call)
            return x0

        self.state, missing = self._take_up(lanes)
        for lane in lanes.values():
            lane.session.state = self.state
            if lane.session.policy is not None:
                lane.session.policy.share(self.memory.policy)
        for _ in make_again(self.plan, self.state, self.memory, model_call, self.take.settings.growth, missing):
            pass
        if missing and MADE_AGAIN not in self.report.notes:
            self.report.notes.append(MADE_AGAIN)
        policy = _Choice(base.step_policy, enter_lane) if base.step_policy is not None else None

        def run(until: int) -> Iterator[Event]:
            solver = self.take.settings.solver
            return run_window(
                self.plan, window, self.state, self.memory, model_call, solver, policy=policy, until=until
            )

        self._follow(self._calls(run), list(lanes.values())[-1])

    def _calls(self, run: Callable[[int], Iterator[Event]]) -> Iterator[Event]:
        """Events of all calls; a chunk enters just before the first call that sees it, so that latents of a long
        stretch do not lie on the device from its beginning on.

        Args:
            run: events of the calls before one.
        """
        there = self.state.first + self.state.window.shape[2]
        for chunk, entry in zip(generated(self.plan)[: self.take.chunks], entry_calls(self.plan), strict=False):
            if chunk.stop <= there:
                continue
            yield from run(min(entry, self.until))
            let_go(self.plan, self.state)
            enter(self.plan, self.state, [chunk], self.take.stretches[self._stretch_at(chunk.place)].seed)
        yield from run(self.until)

    def _follow(self, events: Iterator[Event], newest: Lane) -> None:
        """Take note of what happens, and show it."""
        first = self.state.next_call
        callback = PacedCallback(self.take.settings.callback(newest.patcher, self.until - first))
        try:
            for event in events:
                self._take_note(event)
                if isinstance(event, CallEvent):
                    frame = newest_frame(event.call)
                    shown = event.x0[:, :, frame : frame + 1]
                    callback(event.call.index - first, shown, self.state.window, self.until - first)
        except comfy.model_management.InterruptProcessingException:
            while self.state.untold:  # chunks that the call before it had finished
                self._take_note(next(events))
            raise

    def _join(self, lanes: list[Lane]) -> None:
        """Put every session's wrapper into its guider's run; they share the first one's memory."""
        first = lanes[0].session
        make_current(lanes[0].patcher, self._noise().shape)  # its precision is the store's
        for lane in lanes:
            if lane.session is not first:
                lane.session.take_memory_of(first)
            lane.relay = lane.session.join(lane.model_wrap, lane.extra_args)

    def _take_up(self, lanes: dict[int, Lane]) -> tuple[RunState, list[Chunk]]:
        take, window = self.take, self.plan.windows[0]
        if take.parked is None:
            empty, seed = self._empty(), take.stretches[0].seed
            given = empty if take.given is None else self._model_units(take.given).to(empty.device)
            state, missing = RunState(torch.zeros_like(given)), []
            noise = history_noise(window, seed, given)
            begin_window(self.plan, window, state, self.memory, torch.zeros_like(given), noise, given)
            return state, missing
        return unpark(
            self.plan,
            take.parked,
            self.memory,
            self.per_frame,
            take.settings.state_classes,
            self._whole,
            self._empty().device,
        )

    def _model_units(self, latents: Tensor) -> Tensor:
        return self.take.stretches[0].model.model.process_latent_in(latents.float())

    def _take_note(self, event: Event) -> None:
        self._hear(event)
        if isinstance(event, CallEvent):
            self.written |= {part.chunk for part in event.call.parts}
        elif isinstance(event, ChunkEvent):
            begin, end = (frame - self.state.first for frame in (event.chunk.start, event.chunk.stop))
            self.finished.append(self.state.video[:, :, begin:end].to("cpu", copy=True))
            if self._autosave is not None:
                self._autosave.save(self._standing(self._autosave.with_memory))

    def _standing(self, with_memory: bool = True) -> Take:
        """The take as it is now."""
        settings = self.take.settings
        let_go(self.plan, self.state)
        dtype = self.memory.kv.dtype if settings.keep in (KEPT_AS_COMPUTED, KEPT_FINISHED) else KEPT[settings.keep]
        every_step_whole = settings.keep == KEPT_FINISHED  # as if: the next step of the chunks in flight will be
        parked = park(
            self.plan,
            self.state,
            self.memory,
            self.per_frame,
            settings.state_classes,
            (lambda place: True) if every_step_whole else self._whole,
            self.take.parked,
            self.written,
            dtype if with_memory else None,
        )
        plan, newest = self.trace.plan, self.take.stretches[-1]
        standing = replace(
            self.take,
            finished=tuple(self.finished),
            parked=parked,
            report=self.report.extended(plan, newest.cache, newest.inactive),
            trace=self.trace.extended(plan),
        )
        return standing if with_memory else standing.without_memory()


class _Choice:
    """Steps decided above guidance, by the policy of the stretch that a call belongs to."""

    def __init__(self, memory: Any, enter_lane: Callable[[Call], Lane]):
        self.memory, self.enter_lane = memory, enter_lane

    def reuse(self, call: Call, x: Tensor) -> StepReuse | None:
        self.enter_lane(call)
        return self.memory.reuse(call, x)

    def stepped(self, call: Call, x: Tensor, after: Tensor, previous: Tensor | None) -> None:
        self.memory.stepped(call, x, after, previous)
