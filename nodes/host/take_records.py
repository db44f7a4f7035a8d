"""A take's report and trace as a few tensors, so that a long one's file has a small header and is written quickly."""

from __future__ import annotations

import copy
import json
from collections import Counter
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from ...motioncache_core.plan import Plan
from ...motioncache_core.report import Report
from ...motioncache_core.trace import Trace, TraceEntry


def packed_report(report: Report) -> dict[str, Any]:
    """Its fields but the plan; what it says of every call as a text's bytes, ``[n]`` uint8."""
    plain = {name: value for name, value in vars(report).items() if name != "plan"}
    text = json.dumps(report.calls).encode()
    return plain | {"calls": torch.frombuffer(bytearray(text), dtype=torch.uint8)}


def unpacked_report(packed: dict[str, Any], plan: Plan) -> Report:
    """The report that :func:`packed_report` was given. Raises one of Python's usual errors if it is not one."""
    if set(packed) != {one.name for one in fields(Report)} - {"plan"} or not isinstance(packed["_flops"], Counter):
        raise ValueError("the file's report is not one")
    calls = json.loads(packed["calls"].numpy().tobytes())
    report = Report(plan, packed["config"], packed["size"])
    vars(report).update({name: copy.copy(value) for name, value in packed.items()}, calls=calls)
    return report


def packed_trace(trace: Trace) -> dict[str, Any]:
    """Its entries one behind the other: places, pictures, and motion weights of those that have some."""
    entries = trace.entries
    weighed = [entry.weights for entry in entries if entry.weights is not None]
    return {
        "grid": (trace.rows, trace.columns),
        "places": torch.tensor([(e.start, e.stop, e.step, e.weights is not None) for e in entries]).view(-1, 4),
        "computed": _joined([entry.computed for entry in entries], torch.uint8),
        "weights": _joined(weighed, torch.float16),
    }


def unpacked_trace(packed: dict[str, Any], plan: Plan) -> Trace:
    """The trace that :func:`packed_trace` was given. Raises one of Python's usual errors if it is not one."""
    rows, columns = packed["grid"]
    places = packed["places"].tolist()
    computed, weights = packed["computed"], packed["weights"]
    entries = []
    for start, stop, step, weighed in places:
        shape = stop - start, rows, columns
        count = shape[0] * rows * columns
        own, computed = computed[:count].view(shape), computed[count:]
        heat = None
        if weighed:
            heat, weights = weights[:count].view(shape), weights[count:]
        entries.append(TraceEntry(start, stop, step, own, heat))
    if len(computed) or len(weights):
        raise ValueError("the file's record of decisions does not fit its places")
    return Trace(plan, rows, columns, entries)


def _joined(pictures: list[Tensor], dtype: torch.dtype) -> Tensor:
    return torch.cat([picture.reshape(-1) for picture in pictures]) if pictures else torch.empty(0, dtype=dtype)
