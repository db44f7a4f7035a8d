"""Plans MAGI-1 runs: chunks entering a staged window, every call and pass, or a refusal before anything is loaded.

One window covers the whole video. Given latents that fill whole chunks are shown once (``context``); those that begin a
chunk are shown in each of its steps. A finished chunk is passed once more, clean, when its stage is over (``refresh``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from ...plan import Call, Chunk, Kind, Part, Plan, PlanError, Window
from .guidance import BRANCHES, Guidance, Shares, ThreePass
from .schedule import (
    EVERYTHING,
    Curve,
    Shortcut,
    Stage,
    as_float32,
    chunks_in_sight,
    clean_chunks_in_sight,
    given_chunks_in_sight,
    intervals,
    sight,
    stages,
    stride_of,
    time_table,
)

FAMILY = "magi1"
Attention = Literal["chunk-wise", "staged window"]
TEMPORAL = 4
"""Pixel frames of a latent frame."""


@dataclass(frozen=True)
class SamplingSettings:
    """What decides the plan.

    Args:
        frames: pixel frames to make, rounded up to whole chunks; given latents come on top.
        steps: denoising steps of every chunk, a multiple of ``window_chunks`` and of the parts of ``history_chunks``.
        shift: bends the times towards noise (curve ``sd3`` only).
        curve, shortcut: form of the time table; ``shortcut`` places the steps of 12-step runs.
        chunk_frames: latent frames of a chunk.
        window_chunks: chunks that are in work at once.
        history_chunks: how many chunks, itself included, a chunk attends to, for equal parts of its steps, noisiest
            first; empty: all.
        clean_chunks: the same for given and finished chunks; -1: as in the last part.
        clean_t: time at which given and finished chunks are shown.
        guidance: passes of a step. One pass means a distilled model, which is told the length of its steps.
        attention: one chunk a call with stored keys and values, or the window's chunks together.
        clean_refresh: pass finished chunks once more, clean; without, their last noisy keys and values stay
            (chunk-wise only).
        start_latents: latent frames given at the beginning; exactly 1 means an image.
        skip_redundant: leave out passes that cannot change the result.
    """

    frames: int = 96
    steps: int = 64
    shift: float = 3.0
    curve: Curve = "sd3"
    shortcut: Shortcut = "8,16,16"
    chunk_frames: int = 6
    window_chunks: int = 4
    history_chunks: tuple[int, ...] = (5, 4, 3, 2)
    clean_chunks: int = 1
    clean_t: float = 0.9999
    guidance: Guidance = field(default_factory=ThreePass)
    attention: Attention = "chunk-wise"
    clean_refresh: bool = True
    start_latents: int = 0
    skip_redundant: bool = True

    @property
    def chunks(self) -> int:
        """Chunks of the video, given ones included."""
        return math.ceil((self.frames // TEMPORAL + self.start_latents) / self.chunk_frames)

    @property
    def given_chunks(self) -> int:
        """Leading chunks that are given whole."""
        return self.start_latents // self.chunk_frames


def build_plan(settings: SamplingSettings) -> Plan:
    """The run's calls in order. Raises PlanError for settings that cannot be sampled."""
    _check(settings)
    return _Planner(settings).plan()


class _Planner:
    """Builds one plan."""

    def __init__(self, settings: SamplingSettings):
        self.settings = settings
        self.times = time_table(settings.steps, settings.curve, settings.shift, settings.shortcut)
        # The table's last entry may exceed 1 by one unit in the last place.
        self.sigmas = (*(1.0 - t for t in self.times[:-1]), 0.0)
        self.intervals = intervals(settings.steps, settings.shortcut)
        self.distilled = not isinstance(settings.guidance, ThreePass)
        self.clean_t = as_float32(settings.clean_t)
        self.calls: list[Call] = []

    def plan(self) -> Plan:
        s = self.settings
        for chunk in range(s.given_chunks):
            reads = sight(chunk, given_chunks_in_sight(s.clean_chunks, s.history_chunks))
            shares = ((s.guidance.stored_branch, 0.0),)
            self._add("context", 0, (self._clean_part(chunk, reads, shares),))
        stage_steps = s.steps // s.window_chunks
        for number, stage in enumerate(stages(s.chunks, s.window_chunks, s.given_chunks)):
            for inner in range(stage_steps):
                self._row(number * stage_steps + inner, stage, inner, stage_steps)
        return Plan(
            family=FAMILY,
            latent_frames=s.chunks * s.chunk_frames,
            steps=s.steps,
            sigmas=self.sigmas,
            chunk_frames=s.chunk_frames,
            chunk_wise=s.attention == "chunk-wise",
            causal=True,
            clean_refresh=s.clean_refresh,
            windows=(self._window(),),
            calls=tuple(self.calls),
        )

    def _window(self) -> Window:
        s = self.settings
        chunks = tuple(
            Chunk(
                place,
                place * s.chunk_frames,
                (place + 1) * s.chunk_frames,
                place - s.given_chunks if place >= s.given_chunks else None,
            )
            for place in range(s.chunks)
        )
        image = s.start_latents == 1 and not s.given_chunks
        return Window(0, 0, s.chunks * s.chunk_frames, s.start_latents, chunks, remakes_context=image)

    def _row(self, row: int, stage: Stage, inner: int, stage_steps: int) -> None:
        """One step of all active chunks, after the chunk that has just become clean."""
        s = self.settings
        active = range(stage.first, stage.stop)
        steps = {chunk: stage.step_of(chunk, inner, stage_steps) for chunk in active}
        reads = {c: sight(c, chunks_in_sight(step, s.steps, s.history_chunks)) for c, step in steps.items()}
        shares = {c: s.guidance.shares(self.times[step], c == stage.first) for c, step in steps.items()}
        refreshed = stage.first - 1 if s.clean_refresh and inner == 0 and stage.first > s.given_chunks else None
        if s.skip_redundant:
            shares, refresh_shares = _needed(shares, reads, refreshed, s.guidance.stored_branch)
        else:
            refresh_shares = tuple((name, 0.0) for name, _ in shares[stage.first] if BRANCHES[name].history)
        settled = (stage.first if refreshed is None else refreshed) * s.chunk_frames
        if refreshed is not None:
            own = sight(refreshed, clean_chunks_in_sight(s.clean_chunks, s.history_chunks))
            self._add("refresh", row, (self._clean_part(refreshed, own, refresh_shares, settled),))
        stride = self._stride(inner)
        parts = [
            Part(
                chunk=chunk,
                start=chunk * s.chunk_frames,
                stop=(chunk + 1) * s.chunk_frames,
                timestep=self.times[step],
                sigma=self.sigmas[step],
                sigma_next=self.sigmas[step + 1],
                step=step,
                reads=self._frames(reads[chunk]),
                branches=shares[chunk],
                settled=settled,
                stride=stride,
            )
            for chunk, step in steps.items()
        ]
        if s.attention == "chunk-wise":
            for part in parts:
                self._add("denoise", row, (part,))
        else:
            self._add("denoise", row, tuple(parts))

    def _clean_part(self, chunk: int, reads: tuple[int, int], shares: Shares, settled: int = 0) -> Part:
        start, stop = self._frames((chunk, chunk + 1))
        stride = self._stride(0)
        return Part(chunk, start, stop, self.clean_t, 0.0, 0.0, -1, self._frames(reads), shares, settled, stride)

    def _stride(self, inner: int) -> float:
        return stride_of(self.settings.steps, self.intervals[inner]) if self.distilled else 0.0

    def _frames(self, chunks: tuple[int, int]) -> tuple[int, int]:
        return chunks[0] * self.settings.chunk_frames, chunks[1] * self.settings.chunk_frames

    def _add(self, kind: Kind, row: int, parts: tuple[Part, ...]) -> None:
        sigma = max(part.sigma for part in parts) if kind == "denoise" else self.sigmas[-2]
        writes = kind != "denoise" or self.settings.attention == "chunk-wise"
        reads = min(part.reads[0] for part in parts), parts[-1].stop
        self.calls.append(Call(len(self.calls), kind, 0, row, parts, sigma, reads, writes, causal=True))


def _needed(
    shares: dict[int, Shares], reads: dict[int, tuple[int, int]], refreshed: int | None, stored: str
) -> tuple[dict[int, Shares], Shares]:
    """What is left of a row's passes if those are skipped whose results nobody uses.

    A pass is used if it has a share in its chunk's velocity, or if a used pass of the same branch attends to its keys
    and values: those of an active chunk, or of the chunk that is being passed clean. The stored branch is always made,
    for its keys and values.

    Returns:
        (passes of every active chunk, passes of the clean chunk).
    """
    kept: dict[int, list[tuple[str, float]]] = {chunk: [] for chunk in shares}
    clean = []
    for name in BRANCHES:
        seen_from = math.inf
        for chunk in sorted(shares, reverse=True):
            share = dict(shares[chunk]).get(name)
            if share is None:
                continue
            history = BRANCHES[name].history
            if share or name == stored or (history and chunk >= seen_from):
                kept[chunk].append((name, share))
                seen_from = min(seen_from, reads[chunk][0]) if history else seen_from
        if refreshed is not None and (name == stored or refreshed >= seen_from):
            clean.append((name, 0.0))
    return {chunk: tuple(passes) for chunk, passes in kept.items()}, tuple(clean)


def stored_chunks(plan: Plan) -> dict[str, int]:
    """For each branch, how many chunks' keys and values must be kept at once, so that every range finds its rows.

    A chunk's rows are needed from its first write to its last read; chunk c uses the place c modulo the result, so
    those that share a place must not be needed at the same time.
    """
    needed = lifetimes(plan)
    return {name: _places(lives) for name, lives in needed.items()}


def lifetimes(plan: Plan) -> dict[str, dict[int, tuple[int, int]]]:
    """Branch -> chunk -> calls of its first write and its last read."""
    lives: dict[str, dict[int, tuple[int, int]]] = {}
    stored = stored_branch(plan)
    for call in plan.calls:
        for part in call.parts:
            for name in [name for name, _ in part.branches if BRANCHES[name].history]:
                own = lives.setdefault(name, {})
                if call.writes:  # partly computed chunks read what they wrote in earlier steps
                    own[part.chunk] = own.get(part.chunk, (call.index,))[0], call.index
                first, last = (frame // plan.chunk_frames for frame in part.reads)
                for chunk in range(first, min(last, part.chunk)):
                    reader = lives[stored] if chunk * plan.chunk_frames < part.settled else own
                    if chunk in reader:
                        reader[chunk] = reader[chunk][0], call.index
    return {name: own for name, own in lives.items() if own}


def stored_branch(plan: Plan) -> str:
    """The branch whose keys and values of settled frames all others read."""
    made = {name for call in plan.calls for part in call.parts for name, _ in part.branches}
    return "null" if "null" in made else "text"


def _places(lives: dict[int, tuple[int, int]]) -> int:
    """Smallest number of places in which no two chunks meet that are needed at the same time.

    Successive chunks begin and end their lives in order, so that it is enough to ask each about the next one in its
    place.
    """
    return next(
        places
        for places in range(1, max(lives) + 2)
        if all(chunk + places not in lives or lives[chunk][1] < lives[chunk + places][0] for chunk in lives)
    )


def _check(s: SamplingSettings) -> None:
    for name, legal in (("attention", Attention), ("curve", Curve), ("shortcut", Shortcut)):
        if getattr(s, name) not in get_args(legal):
            options = ", ".join(map(repr, get_args(legal)))
            raise PlanError(f"{name} is {getattr(s, name)!r}; it must be one of {options}")
    for name, low in (("steps", 1), ("chunk_frames", 1), ("window_chunks", 1), ("start_latents", 0)):
        _at_least(name, getattr(s, name), low)
    _at_least("frames", s.frames, TEMPORAL)
    if s.frames % TEMPORAL:
        below = s.frames // TEMPORAL * TEMPORAL
        raise PlanError(
            f"frames is {s.frames}; it must be a multiple of {TEMPORAL} (nearest: {below} or {below + TEMPORAL})"
        )
    if s.curve == "sd3" and not s.shift >= 1:
        raise PlanError(f"shift is {s.shift}; it must be at least 1 (nearest: 1.0)")
    for count, what in ((s.window_chunks, "chunks of the window"), (len(s.history_chunks), "parts of history_chunks")):
        if count and s.steps % count:
            nearest = max(1, round(s.steps / count)) * count
            raise PlanError(f"steps is {s.steps}; it must be a multiple of the {count} {what} (nearest: {nearest})")
    if any(chunks < 1 for chunks in s.history_chunks):
        raise PlanError(f"history_chunks is {list(s.history_chunks)}; a chunk sees at least itself (nearest: 1)")
    if s.clean_chunks != EVERYTHING and s.clean_chunks < 1:
        raise PlanError(f"clean_chunks is {s.clean_chunks}; it must be -1 or at least 1 (nearest: 1)")
    if not 0 < s.clean_t <= 1:
        nearest = min(max(s.clean_t, 0.01), 1.0)
        raise PlanError(f"clean_t is {s.clean_t}; it must lie above 0 and be at most 1 (nearest: {nearest})")
    if s.attention == "staged window" and not s.clean_refresh:
        raise PlanError(
            "clean_refresh is off, but the staged window keeps no keys and values of noisy chunks; turn it on or "
            "choose 'chunk-wise'"
        )


def _at_least(name: str, value: int, low: int) -> None:
    if value < low:
        raise PlanError(f"{name} is {value}; it must be at least {low} (nearest: {low})")
