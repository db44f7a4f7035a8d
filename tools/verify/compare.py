"""Comparing what the core computed with what is stored, under a case's tolerance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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
        records: of a list of records, how many count for fields with their own tolerance; ``None`` for all.
    """

    value: Value
    where: Tensor | None = None
    records: int | None = None


@dataclass(frozen=True)
class Rounded:
    """A difference of larger float32 numbers: two computations agree on it to within a last place of those at best.

    Args:
        value: the difference.
        unit: of the same shape, one unit in the last place of what was subtracted.
    """

    value: Tensor
    unit: Tensor

    def towards(self, stored: Tensor) -> Tensor:
        """The value, moved by at most the unit towards another."""
        apart = self.value - stored
        return stored + apart.sign() * (apart.abs() - self.unit).clamp_min(0)


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
        if not _understood(measure, allowed):
            raise CaseError(f"output {output!r}: the tolerance {measure}: {allowed!r} is not understood")
    return entry


def _understood(measure: str, allowed: Any) -> bool:
    if measure == "exact":
        return allowed is True
    if measure == "only":
        return isinstance(allowed, list) and bool(allowed)
    if measure == "except":
        measured = isinstance(allowed, dict) and all(isinstance(entry, dict) and entry for entry in allowed.values())
        return measured and all(m in _MEASURES and _number(a) for e in allowed.values() for m, a in e.items())
    return (measure in _MEASURES or measure == "min_agreement") and _number(allowed)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def compare(output: str, ours: Value, stored: Value, tolerance: dict[str, Any]) -> Difference:
    """The worst difference of an output: a tensor, a series of tensors, or a JSON value."""
    entry = tolerance_of(tolerance, output)
    restricted, where, records = isinstance(ours, Restricted), None, None
    if restricted:
        ours, where, records = ours.value, ours.where, ours.records
    if isinstance(stored, Tensor):
        return _tensors(output, ours, stored, entry, where)
    if isinstance(stored, dict) and stored and all(isinstance(v, Tensor) for v in stored.values()):
        entries = set(ours) if isinstance(ours, dict) else set()
        if not entries or not entries <= set(stored) or not (restricted or entries == set(stored)):
            return _miss(output, f"entries {sorted(entries)} instead of {sorted(stored)}")
        if "min_agreement" in entry:
            equal = [(ours[key] == stored[key]).flatten() for key in entries if ours[key].shape == stored[key].shape]
            if len(equal) < len(entries):
                return _miss(output, "an entry of another shape")
            return _agreement(output, torch.cat(equal).tolist(), entry["min_agreement"], "values")
        return worst([_tensors(f"{output}[{key}]", ours[key], stored[key], entry, where) for key in sorted(entries)])
    if entry == {"exact": True}:
        different = first_difference(ours, stored)
        return _miss(output, different) if different else Difference(output, 0.0, "equal")
    return _json(output, ours, stored, entry, records)


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
    if isinstance(ours, Rounded):
        ours = ours.towards(stored)
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
    return worst([_one_measure(output, ours, stored, measure, allowed) for measure, allowed in entry.items()])


def _one_measure(output: str, ours: Tensor, stored: Tensor, measure: str, allowed: Any) -> Difference:
    if measure == "exact":
        return _exact(output, ours, stored)
    if measure == "min_agreement":
        return _agreement(output, (ours == stored).flatten().tolist(), allowed, "values")
    if measure not in _MEASURES:
        raise CaseError(f"output {output!r}: {measure!r} is a tolerance for JSON, not for arrays")
    return _measured(output, ours, stored, measure, allowed)


def _agreement(output: str, equal: Sequence[bool], allowed: float, what: str) -> Difference:
    apart = 1 - sum(equal) / len(equal) if equal else 0.0
    ratio = apart / (1 - allowed) if allowed < 1 else (math.inf if apart else 0.0)
    return Difference(output, ratio, f"{apart:.3g} of the {what} differ")


def _json(output: str, ours: Any, stored: Any, entry: dict[str, Any], records: int | None) -> Difference:
    """JSON under a tolerance: fields of their own kind are measured, all others equal or equal often enough."""
    if "only" in entry:
        ours, stored = ({key: value.get(key) for key in entry["only"]} for value in (ours, stored))
    mine, theirs = dict(_leaves(ours)), dict(_leaves(stored))
    if mine.keys() != theirs.keys():
        return _miss(output, first_difference(ours, stored))
    measures = {name: allowed for name, allowed in entry.items() if name in _MEASURES}
    groups: dict[str, list[tuple[str | int, ...]]] = {}
    exact = []
    for path in theirs:
        field = next((step for step in reversed(path) if isinstance(step, str)), "")
        measured = field in entry.get("except", {}) or measures
        if not measured or theirs[path] is None or mine[path] is None:
            exact.append(path)
        elif records is None or path[0] < records:
            groups.setdefault(field, []).append(path)
    parts = [Difference(output, 0.0, "equal")]
    for field, paths in groups.items():
        values = [torch.tensor([leaves[path] for path in paths], dtype=torch.float64) for leaves in (mine, theirs)]
        own = entry.get("except", {}).get(field) or measures
        parts += [_measured(f"{output}.{field}", *values, measure, allowed) for measure, allowed in own.items()]
    equal = [type(mine[path]) is type(theirs[path]) and mine[path] == theirs[path] for path in exact]
    if "min_agreement" in entry:
        parts.append(_agreement(output, equal, entry["min_agreement"], "entries"))
    elif not all(equal):
        path = exact[equal.index(False)]
        at = "/".join(map(str, path))
        parts.append(_miss(output, f"{mine[path]!r:.60} instead of {theirs[path]!r:.60} at /{at}"))
    return worst(parts)


def _leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Paths and values of everything in a JSON value that is not a list or an object; empty ones count as values."""
    if isinstance(value, (dict, list)) and value:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(inner, (*path, key))
    else:
        yield path, value


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


def _luma(frames: Tensor) -> Tensor:
    """Brightness of ``[..., 3]`` red, green and blue."""
    return frames @ torch.tensor([0.299, 0.587, 0.114], dtype=frames.dtype)


_MEASURES: dict[str, Callable[[Tensor, Tensor], float]] = {
    "abs": _max_abs,
    "mean_abs": _mean_abs,
    "max_abs_over_max": _max_abs_over_max,
    "luma_abs": lambda ours, stored: _max_abs(_luma(ours), _luma(stored)),
    "luma_mean_abs": lambda ours, stored: _mean_abs(_luma(ours), _luma(stored)),
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
