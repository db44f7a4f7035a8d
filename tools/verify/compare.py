"""Comparing what the core computed with what is stored, under a case's tolerance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .folder import CaseError, Value


@dataclass(frozen=True)
class Restricted:
    """A result of which only a part may be compared, as the case's `compare` says.

    Args:
        value: the result; of a series only the entries that count.
        where: bool, broadcastable to ``value``: the places that count; ``None`` for all.
    """

    value: Value
    where: Tensor | None = None


@dataclass(frozen=True)
class Difference:
    """How far an output is off.

    Args:
        output: its name.
        ratio: error over what is allowed; above 1 is a miss.
        detail: the error in words.
    """

    output: str
    ratio: float
    detail: str

    @property
    def missed(self) -> bool:
        return not self.ratio <= 1.0


def tolerance_of(tolerance: dict[str, Any], output: str) -> dict[str, Any]:
    """The entry for an output. Raises CaseError if there is none or it is not understood."""
    entry = tolerance.get(output, tolerance.get("default"))
    if not isinstance(entry, dict) or not entry:
        raise CaseError(f"output {output!r} has no tolerance")
    for measure, allowed in entry.items():
        if measure == "exact" and allowed is True:
            continue
        if measure not in _MEASURES or isinstance(allowed, bool) or not isinstance(allowed, (int, float)):
            raise CaseError(f"output {output!r}: the tolerance {measure}: {allowed!r} is not understood")
    return entry


def compare(output: str, ours: Value, stored: Value, tolerance: dict[str, Any]) -> Difference:
    """The worst difference of an output: a tensor, a series of tensors, or a JSON value (exact only)."""
    entry = tolerance_of(tolerance, output)
    restricted, where = isinstance(ours, Restricted), None
    if restricted:
        ours, where = ours.value, ours.where
    if isinstance(stored, Tensor):
        return _tensors(output, ours, stored, entry, where)
    if isinstance(stored, dict) and stored and all(isinstance(v, Tensor) for v in stored.values()):
        entries = set(ours) if isinstance(ours, dict) else set()
        if not entries or not entries <= set(stored) or not (restricted or entries == set(stored)):
            return _miss(output, f"entries {sorted(entries)} instead of {sorted(stored)}")
        return worst([_tensors(f"{output}[{key}]", ours[key], stored[key], entry, where) for key in sorted(entries)])
    if entry != {"exact": True}:
        raise CaseError(f"output {output!r} is JSON; its tolerance can only be exact")
    different = first_difference(ours, stored)
    return _miss(output, different) if different else Difference(output, 0.0, "equal")


def compare_records(
    output: str, columns: Sequence[str], ours: list[list[Any]], stored: list[list[Any]], tolerance: dict[str, Any]
) -> Difference:
    """Records with named columns. A column ``c`` with a tolerance ``event_c`` holds numbers, all others are exact."""
    tolerance_of(tolerance, output)
    valued = {c: tolerance_of(tolerance, f"event_{c}") for c in columns if f"event_{c}" in tolerance}
    if [len(r) for r in ours] != [len(r) for r in stored]:
        return _miss(output, f"{len(ours)} records instead of {len(stored)}, or of other lengths")
    parts = []
    for i, column in enumerate(columns):
        mine, theirs = [r[i] for r in ours], [r[i] for r in stored]
        if column in valued:
            values = [torch.tensor(v, dtype=torch.float64) for v in (mine, theirs)]
            parts.append(_tensors(f"{output}.{column}", *values, valued[column], None))
        elif different := first_difference(mine, theirs):
            parts.append(_miss(f"{output}.{column}", different))
        else:
            parts.append(Difference(f"{output}.{column}", 0.0, "equal"))
    return worst(parts)


def worst(differences: Sequence[Difference]) -> Difference:
    """The one furthest off."""
    return max(differences, key=lambda d: math.inf if math.isnan(d.ratio) else d.ratio)


def _miss(output: str, detail: str) -> Difference:
    return Difference(output, math.inf, detail)


def _tensors(output: str, ours: Any, stored: Tensor, entry: dict[str, Any], where: Tensor | None) -> Difference:
    if not isinstance(ours, Tensor):
        return _miss(output, f"{type(ours).__name__} instead of an array")
    if ours.shape != stored.shape:
        return _miss(output, f"shape {list(ours.shape)} instead of {list(stored.shape)}")
    if ours.dtype != stored.dtype:
        return _miss(output, f"dtype {ours.dtype} instead of {stored.dtype}")
    if where is not None:
        where = where.expand_as(stored)
        ours, stored = ours[where], stored[where]
        if not stored.numel():
            raise CaseError(f"output {output!r}: the restriction leaves nothing to compare")
    parts = [
        _exact(output, ours, stored) if measure == "exact" else _measured(output, ours, stored, measure, allowed)
        for measure, allowed in entry.items()
    ]
    return worst(parts)


def _exact(output: str, ours: Tensor, stored: Tensor) -> Difference:
    wrong = ours != stored
    count = int(wrong.sum())
    if not count:
        return Difference(output, 0.0, "equal")
    place = wrong.nonzero()[0].tolist()
    values = f"{ours[tuple(place)].item()} instead of {stored[tuple(place)].item()}"
    return _miss(output, f"{count} of {stored.numel()} values differ, first {values} at {place}")


def _measured(output: str, ours: Tensor, stored: Tensor, measure: str, allowed: float) -> Difference:
    if not (torch.isfinite(ours).all() and torch.isfinite(stored).all()):
        return _miss(output, "values that are not finite")
    if not stored.numel():
        return Difference(output, 0.0, "empty")
    error = _MEASURES[measure](ours.double(), stored.double())
    if error == 0.0:
        return Difference(output, 0.0, "equal")
    return Difference(output, error / allowed if allowed > 0 else math.inf, f"{measure} {error:.3g} of {allowed:g}")


def _max_abs(ours: Tensor, stored: Tensor) -> float:
    return float((ours - stored).abs().max())


def _mean_abs(ours: Tensor, stored: Tensor) -> float:
    return float((ours - stored).abs().mean())


def _max_abs_over_max(ours: Tensor, stored: Tensor) -> float:
    error, size = _max_abs(ours, stored), float(stored.abs().max())
    return error / size if size else (math.inf if error else 0.0)


_MEASURES: dict[str, Callable[[Tensor, Tensor], float]] = {
    "abs": _max_abs,
    "mean_abs": _mean_abs,
    "max_abs_over_max": _max_abs_over_max,
}


def first_difference(ours: Any, stored: Any, at: str = "") -> str:
    """Where two JSON values part, in words; empty if they are equal. Types count: 1, 1.0 and true are three values."""
    if type(ours) is not type(stored):
        return f"{ours!r:.60} instead of {stored!r:.60} at {at or '/'}"
    if isinstance(stored, dict):
        if set(ours) != set(stored):
            missing, extra = sorted(set(stored) - set(ours)), sorted(set(ours) - set(stored))
            return f"keys at {at or '/'}: missing {missing[:3]}, extra {extra[:3]}"
        steps = ((key, ours[key], stored[key]) for key in stored)
    elif isinstance(stored, list):
        if len(ours) != len(stored):
            return f"{len(ours)} entries instead of {len(stored)} at {at or '/'}"
        steps = ((i, a, b) for i, (a, b) in enumerate(zip(ours, stored, strict=True)))
    else:
        return "" if ours == stored else f"{ours!r:.60} instead of {stored!r:.60} at {at or '/'}"
    return next((found for key, a, b in steps if (found := first_difference(a, b, f"{at}/{key}"))), "")
