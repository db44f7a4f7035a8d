"""A finished run seen again: the live state from its trace and report, and what a report says in pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from .events import CallEvent, Decision, Pass
from .live import LiveState
from .plan import Call
from .report import SEVERAL_SETTINGS
from .sweep import ReportError
from .trace import Trace, TraceEntry

EMPTY = torch.empty(0)


def replayed(
    trace: Trace, report: dict[str, Any] | None, run: str, node: str, kind: str, workflow: str = "", prompt: str = ""
) -> LiveState:
    """The state of the run that left a trace.

    Args:
        report: of the same run (``sweep.parse_report``), for phases, distances and times; without it, what was
            computed is all that is known.
        run, node, kind, workflow, prompt: see :class:`LiveState`.

    Raises:
        ReportError: the report is of another run.
    """
    state = LiveState(trace.plan, None, trace.rows, trace.columns, run, node, kind, workflow=workflow, prompt=prompt)
    if report is not None:
        state.take_settings(report.get("config"))
        if SEVERAL_SETTINGS in report.get("notes", ()):
            state.take_several_settings()
    retell(state, trace, _calls(trace, report))
    state.finish("finished")
    return state


def retell(state: LiveState, trace: Trace, calls: Sequence[dict[str, Any] | None]) -> None:
    """Tell a state of calls that were made before. ``calls``: of a report, as many as were made."""
    for call, told, own in zip(trace.plan.calls, calls, entries_by_call(trace), strict=False):
        state.add(_event(call, own, told), own)


def entries_by_call(trace: Trace) -> Iterator[list[TraceEntry]]:
    """The entries of each call that was made."""
    entries = iter(trace.entries)
    for call in trace.plan.calls[: _calls_made(trace)]:
        yield [next(entries) for part in call.parts if part.step >= 0]


def _calls(trace: Trace, report: dict[str, Any] | None) -> list[dict[str, Any] | None]:
    made = _calls_made(trace)
    if report is None:
        return [None] * made
    calls = report.get("calls")
    same = isinstance(calls, list) and len(calls) == made and report["latent_frames"] == trace.plan.latent_frames
    steps = zip(calls, trace.plan.calls, strict=False) if same else ()
    other_step = any(told.get("step") != max(p.step for p in call.parts) for told, call in steps)
    if not same or other_step or not _same_shares(trace, calls):
        raise ReportError("report and decisions are of different runs; connect both outputs of the same sampler")
    return calls


def _share(entries: Sequence[TraceEntry]) -> float:
    """Share of the tokens of all branches that steps recomputed."""
    return sum(int(e.computed.sum()) for e in entries) / (255 * sum(e.computed.numel() for e in entries))


def _same_shares(trace: Trace, calls: Sequence[dict[str, Any]]) -> bool:
    """Whether every call of a report computed as much as the trace's entries for it tell."""
    for told, own in zip(calls, entries_by_call(trace), strict=False):
        total = sum(branch["total"] for branch in told["branches"])
        share = sum(branch["computed"] for branch in told["branches"]) / total if total else 1.0
        if own and abs(_share(own) - share) > 1 / 255:
            return False
    return True


def _calls_made(trace: Trace) -> int:
    """Calls of the plan that the trace has entries of; a run that was stopped has fewer than the plan."""
    left, made = len(trace.entries), 0
    for call in trace.plan.calls:
        left -= sum(part.step >= 0 for part in call.parts)
        if left < 0:
            break
        made += 1
    return made


def _event(call: Call, entries: list[TraceEntry], told: dict[str, Any] | None) -> CallEvent:
    """The call's event, as far as trace and report remember it."""
    if told is None:
        passes, decisions = [], []
        for part, entry in zip([part for part in call.parts if part.step >= 0], entries, strict=True):
            computed = round(_share([entry]) * entry.computed.numel())
            decisions.append(Decision("any", part.chunk, part.step, None, entry.computed.numel(), computed))
            passes.append(Pass("any", computed, entry.computed.numel(), 0.0))
        return CallEvent(call, tuple(passes), tuple(decisions), 0.0, EMPTY)
    place = call.parts[0].chunk if len(call.parts) == 1 else -1
    decisions = [
        Decision(
            branch["role"],
            place,
            told["step"],
            branch["phase"],
            branch["total"],
            branch["computed"],
            distance=branch["distance"],
            waited=branch["waited"],
        )
        for branch in told["branches"]
    ]
    passes = (Pass("any", told["computed"], told["total"], 0.0),)
    return CallEvent(call, passes, tuple(decisions), told["seconds"], EMPTY)
