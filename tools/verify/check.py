"""Checks the cases of a folder, one after the other, and says how each went."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from .compare import Difference, Restricted, compare, compare_records, tolerance_of, worst
from .folder import Case, CaseError, Value

Handler = Callable[[Case], Mapping[str, Value | Restricted]]
"""Case -> our results by output name. It never looks at the outputs' stored values, but for stored decisions where the
case's `compare` says that values count only until one differs."""


@dataclass(frozen=True)
class Kind:
    """How cases of one kind are computed.

    Args:
        handler: computes them.
        quirks: names of the quirks that it can reproduce.
        restrictions: phrases by which it knows a `compare`.
        told: settings that only tell where a case comes from; every other one that is not read is noted.
    """

    handler: Handler
    quirks: frozenset[str] = frozenset()
    restrictions: tuple[str, ...] = ()
    told: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Outcome:
    """How a case went; ``worst`` is the output furthest off, where one was compared."""

    case: Case
    status: Literal["ok", "FAIL", "skipped"]
    worst: Difference | None = None
    reason: str = ""

    def line(self) -> str:
        where = f"{self.case.id}  {self.case.kind}"
        if self.worst is None:
            return f"{self.status:<7} {where}  {self.reason}"
        told = f"{self.worst.ratio:.3g} of the tolerance, {self.worst.output}: {self.worst.detail}"
        return "; ".join([f"{self.status:<7} {where}  {told}", *self.case.notes])


def check(case: Case, kinds: Mapping[str, Kind]) -> Outcome:
    """Compute a case and compare every output. An exception is a failure with its message."""
    try:
        kind = _known(case, kinds)
        case.check_form()
        missing = [name for name in case.record["needs"] if importlib.util.find_spec(name) is None]
        if missing:
            return Outcome(case, "skipped", reason=f"needs {', '.join(missing)}")
        for name in case.outputs:
            tolerance_of(case.tolerance, name)
        furthest = worst(list(_differences(case, kind.handler(case))))
        case.notes += [f"setting {name} was not used" for name in sorted(case.settings.unread() - kind.told)]
    except CaseError as error:
        return Outcome(case, "FAIL", reason=str(error))
    except Exception as error:  # whatever goes wrong in a case is that case's failure
        return Outcome(case, "FAIL", reason=f"{type(error).__name__}: {error}")
    return Outcome(case, "FAIL" if furthest.missed else "ok", furthest)


def _known(case: Case, kinds: Mapping[str, Kind]) -> Kind:
    if case.kind not in kinds:
        raise CaseError(f"unknown kind {case.kind!r} of family {case.folder.family!r}")
    kind = kinds[case.kind]
    if strange := sorted(case.quirks - kind.quirks):
        raise CaseError(f"unknown quirk {', '.join(map(repr, strange))} for {case.kind}")
    if case.compare and not any(phrase in case.compare for phrase in kind.restrictions):
        raise CaseError(f"unknown restriction {case.compare!r}")
    return kind


def _differences(case: Case, ours: Mapping[str, Value | Restricted]) -> Iterator[Difference]:
    for name, reference in case.outputs.items():
        if name not in ours:
            raise CaseError(f"output {name!r} was not compared: {case.kind} does not compute it")
        if isinstance(ours[name], Restricted) and not case.compare:
            raise CaseError(f"output {name!r} came out restricted, but the case restricts nothing")
        stored = reference.load()
        columns = case.settings.get(f"{name.removesuffix('s')}_columns")
        if columns is not None:
            yield compare_records(name, columns, ours[name], stored, case.tolerance)
        else:
            yield compare(name, ours[name], stored, case.tolerance)
