"""The present state of a run as small plain data, for whoever watches it: of the same events as report and trace.

Numbers per cell (a chunk's step) go out as they come; pictures (which tokens, which motion weights) are packed only
when somebody asks for them, with numpy and not with torch: that happens beside the sampling thread, and a second thread
that lets torch compute takes the cores from the first one's operations on a CPU (they then take about half as long
again, even between the second thread's).
"""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from typing import Any, Literal

import numpy as np
from torch import Tensor

from .config import CacheConfig
from .events import CallEvent, Decision, Outcome
from .plan import Part, Plan
from .timeline import PHASES, lanes_of, outline
from .trace import TraceEntry

FORMAT = "motioncache_live"
VERSION = 1
OUTCOMES: tuple[Outcome, ...] = ("full", "partial", "reused")
Status = Literal["running", "finished", "interrupted", "failed"]

MOST_WEIGHTS = 4096
"""Motion weights of a chunk that go into one picture; more are averaged in blocks."""

RECENT = 24
"""Calls whose mean time foretells the rest."""


def pack_bits(flags: Tensor) -> bytes:
    """Eight flags a byte, the first one lowest. ``flags``: any shape, nonzero is set."""
    return np.packbits(flags.numpy().ravel() != 0, bitorder="little").tobytes()


@dataclass(frozen=True)
class PackedWeights:
    """Motion weights in 8 bits: ``low + (high - low) * byte / 255``.

    Args:
        values: frame-major.
        rows, columns: of a frame, fewer than its tokens where blocks were averaged.
    """

    values: bytes
    low: float
    high: float
    rows: int
    columns: int

    def to_json(self) -> list[Any]:
        return [_text(self.values), round(self.low, 4), round(self.high, 4), self.rows, self.columns]


def pack_weights(weights: Tensor, most: int = MOST_WEIGHTS) -> PackedWeights:
    """``[F, h, w]`` motion weights in 8 bits, at most about ``most`` of them."""
    values = weights.numpy().astype(np.float32)
    block = math.ceil(math.sqrt(values.size / most))
    if block > 1:
        values = _block_means(_block_means(values, block, axis=1), block, axis=2)
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / max(high - low, 1e-8) * 255
    return PackedWeights(scaled.round().astype(np.uint8).tobytes(), low, high, *values.shape[1:])


def _block_means(values: np.ndarray, block: int, axis: int) -> np.ndarray:
    """Means of ``block`` values along an axis; the last block may be shorter."""
    length = values.shape[axis]
    starts = np.arange(0, length, block)
    counts = np.minimum(length - starts, block).reshape([-1 if at == axis else 1 for at in range(values.ndim)])
    return np.add.reduceat(values, starts, axis=axis) / counts


@dataclass(frozen=True)
class Picture:
    """What one cell shows.

    Args:
        bits: tokens that at least one branch recomputed; ``None``: none where the cell is reused, else all.
        weights: made in this step, for the next one.
    """

    bits: bytes | None
    weights: PackedWeights | None

    @classmethod
    def of(cls, entry: TraceEntry) -> Picture:
        computed = entry.computed.numpy()
        return cls(
            pack_bits(entry.computed) if computed.any() and not computed.all() else None,
            None if entry.weights is None else pack_weights(entry.weights),
        )

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.bits or b"") + len(self.weights.values if self.weights else b"")

    def to_json(self, step: int) -> dict[str, Any]:
        return {
            "step": step,
            "bits": None if self.bits is None else _text(self.bits),
            "weights": None if self.weights is None else self.weights.to_json(),
        }


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


@dataclass
class LiveState:
    """Collects a run's events.

    Args:
        plan: of the run.
        config: of the cache as it acts, ``None`` where none does.
        rows, columns: tokens of a latent frame.
        run: a name that no other run has.
        node, kind: id and class of the node that shows it.
        workflow: id of the graph that the node is in, empty where it is not known.
        prompt: id of the queued prompt that makes it, empty where none is known.
        began: seconds of the machine's clock, to tell which of two runs is the newer one.
        calls: calls after which the node that shows it is done, ``None``: all of the plan.
    """

    plan: InitVar[Plan]
    config: InitVar[CacheConfig | None]
    rows: int
    columns: int
    run: str = ""
    node: str = ""
    kind: str = ""
    calls: InitVar[int | None] = None
    workflow: str = ""
    prompt: str = ""
    began: float = field(default_factory=time.time)
    status: Status = "running"
    message: str = ""
    seq: int = 0
    """Events so far."""
    cells: dict[tuple[int, int], list[Any]] = field(default_factory=dict)
    _order: list[tuple[int, tuple[int, int]]] = field(default_factory=list)
    _pictures: dict[tuple[int, int], Picture | TraceEntry] = field(default_factory=dict)
    _seconds: float = 0.0
    _calls: int = 0
    _computed: int = 0
    _total: int = 0
    _outcomes: list[int] = field(default_factory=lambda: [0, 0, 0])
    _recent: list[float] = field(default_factory=list)
    _now: list[Any] = field(default_factory=list)

    def __post_init__(self, plan: Plan, config: CacheConfig | None, calls: int | None) -> None:
        lanes = lanes_of(plan)
        self.lane_count = len(lanes)
        self.lane_frames = [(lane.start, lane.stop) for lane in lanes]
        self._place = {(lane.window, lane.place): index for index, lane in enumerate(lanes)}
        self._lane_seconds = [0.0] * len(lanes)
        self._outline = outline(plan, lanes, config)
        self._planned_calls = len(plan.calls) if calls is None else calls

    def take_settings(self, settings: Mapping[str, Any] | None) -> None:
        """Take the cache's settings from a report in place of a configuration; ``None``: there was no cache."""
        if settings is not None:
            self._outline |= {
                "cache": settings["granularity"],
                "warmup": [settings.get("warmup_start", 0), settings["warmup_steps"]],
                "thresholds": {"chunk": settings["chunk_threshold"], "token": settings["token_threshold"]},
            }

    def take_several_settings(self) -> None:
        """The chunks have settings of their own: no threshold is that of all."""
        self._outline["thresholds"] = None

    def add(self, event: CallEvent, entries: Sequence[TraceEntry]) -> None:
        """Take up a call. ``entries``: what :meth:`Trace.add` made of it. Only references are kept here."""
        call = event.call
        self.seq += 1
        self._calls += 1
        self._seconds += event.seconds
        self._recent = [*self._recent[-RECENT + 1 :], event.seconds]
        stepping = [part for part in call.parts if part.step >= 0]
        known = [index for part in call.parts if (index := self._place.get((call.window, part.chunk))) is not None]
        for index in known:
            self._lane_seconds[index] += event.seconds / len(known)
        if call.kind == "denoise":
            self._computed += sum(made.computed for made in event.passes)
            self._total += sum(made.total for made in event.passes)
        for decision in event.decisions if all(d.phase for d in event.decisions) else ():
            self._outcomes[OUTCOMES.index(decision.outcome)] += 1
        for part, entry in zip(stepping, entries, strict=True):
            key = self._place[(call.window, part.chunk)], part.step
            self.cells[key] = [*key, *self._cell(event, part)]
            self._order.append((self.seq, key))
            self._pictures[key] = entry
        newest = (stepping or call.parts)[-1]
        self._now = [call.kind, self._place.get((call.window, newest.chunk)), newest.step]

    def _cell(self, event: CallEvent, part: Part) -> list[Any]:
        """[phase, outcome, tokens computed, tokens, distance, waited, seconds] of all branches together."""
        decisions = [d for d in event.decisions if d.chunk in (part.chunk, -1)]
        seconds = round(event.seconds, 4)
        if not decisions:
            tokens = part.frames * self.rows * self.columns
            return [PHASES.index("none"), OUTCOMES.index("full"), tokens, tokens, None, 0, seconds]
        computed, total = sum(d.computed for d in decisions), sum(d.total for d in decisions)
        outcome = OUTCOMES.index("full" if computed == total else "partial" if computed else "reused")
        return [_phase(decisions), outcome, computed, total, _distance(decisions), int(_waited(decisions)), seconds]

    def finish(self, status: Status, message: str = "", most_bytes: int = 16 * 2**20) -> None:
        """The run has ended. Pictures are packed, and the oldest ones left out where all would be too many."""
        self.status, self.message = status, message
        self.seq += 1
        left, packed = most_bytes, {}
        for key in reversed(self._pictures):
            picture = self._packed(key)
            left -= picture.size
            if left < 0:
                break
            packed[key] = picture
        self._pictures = dict(reversed(packed.items()))

    def forget_pictures(self, before: int) -> None:
        """Leave out the pictures of the chunks before one; their cells stay."""
        self._pictures = {key: picture for key, picture in self._pictures.items() if key[0] >= before}

    def totals(self) -> dict[str, Any]:
        """Counts so far. ``computed`` of ``total`` token-forwards is the computed fraction, which is no speed-up."""
        left = None
        if self.status == "running" and self._recent:
            left = round((self._planned_calls - self._calls) * sum(self._recent) / len(self._recent), 1)
        return {
            "calls": self._calls,
            "calls_planned": self._planned_calls,
            "computed": self._computed,
            "total": self._total,
            "outcomes": list(self._outcomes),
            "seconds": round(self._seconds, 3),
            "seconds_left": left,
            "seconds_by_lane": [round(value, 3) for value in self._lane_seconds],
        }

    def snapshot(self) -> dict[str, Any]:
        """Everything but pictures."""
        return {
            "format": FORMAT,
            "version": VERSION,
            **self._outline,
            "rows": self.rows,
            "columns": self.columns,
            **self.since(-1),
        }

    def since(self, base: int) -> dict[str, Any]:
        """What changed after event number ``base``; :meth:`apply` on the page's side overwrites cells."""
        new: list[tuple[int, int]] = []
        for seq, key in reversed(self._order):
            if seq <= base:
                break
            new.append(key)
        return {
            "run": self.run,
            "node": self.node,
            "workflow": self.workflow,
            "prompt": self.prompt,
            "began": self.began,
            "kind": self.kind,
            "base": base,
            "seq": self.seq,
            "status": self.status,
            "message": self.message,
            "now": self._now,
            "cells": [self.cells[key] for key in reversed(new)],
            "totals": self.totals(),
        }

    def pictures(self, lane: int) -> list[dict[str, Any]]:
        """Pictures of a chunk's steps, as far as there are."""
        keys = sorted(key for key in self._pictures if key[0] == lane)
        return [self._packed(key).to_json(key[1]) for key in keys]

    def picture(self, lane: int, step: int) -> dict[str, Any] | None:
        """Picture of one cell."""
        key = (lane, step)
        return self._packed(key).to_json(step) if key in self._pictures else None

    def picture_bytes(self) -> int:
        """Size of all pictures, packed."""
        return sum(self._packed(key).size for key in self._pictures)

    def complete(self, most_bytes: int) -> dict[str, Any]:
        """The snapshot with its pictures, if they take at most so many bytes, else without."""
        state = self.snapshot()
        if self.picture_bytes() <= most_bytes:
            state["pictures"] = {str(lane): self.pictures(lane) for lane in range(self.lane_count)}
        return state

    def lane_at(self, window: int, place: int) -> int | None:
        """Index of a chunk among the generated ones."""
        return self._place.get((window, place))

    def _packed(self, key: tuple[int, int]) -> Picture:
        found = self._pictures[key]
        if not isinstance(found, Picture):
            found = self._pictures[key] = Picture.of(found)
        return found


def _phase(decisions: Sequence[Decision]) -> int:
    """The phase of the branch that is furthest on."""
    return max(PHASES.index(d.phase or "none") for d in decisions)


def _distance(decisions: Sequence[Decision]) -> float | None:
    """Mean of the branches."""
    known = [d.distance for d in decisions if d.distance is not None]
    return float(f"{sum(known) / len(known):.5g}") if known else None


def _waited(decisions: Sequence[Decision]) -> bool:
    return any(d.waited for d in decisions)
