"""What can be said of a run before it begins: for every step of every chunk its phase, and whether it may be reused.

The families say it for their rules (``models/FAMILY/forecast.py``); this turns it into the data that a drawing takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from .config import CacheConfig
from .decisions import Phase
from .plan import Plan
from .timeline import PHASES, Lane, lanes_of, outline

FORMAT = "motioncache_plan"
VERSION = 1

Expectation = Literal["computed", "reused", "open"]
EXPECTATIONS: tuple[Expectation, ...] = ("computed", "reused", "open")


@dataclass(frozen=True)
class Expected:
    """Of a chunk's step.

    Args:
        phase: the earliest one that it can be in is past when it is later than this; ``None``: no cache acts.
        what: ``computed`` and ``reused`` are certain; ``open`` depends on the picture.
        distance: where it is known beforehand.
    """

    phase: Phase | None
    what: Expectation
    distance: float | None = None


COMPUTED = Expected(None, "computed")
Forecast = Callable[[Lane, int], Expected]
"""(chunk, its step) -> what is expected."""


def plan_preview(plan: Plan, config: CacheConfig | None, forecast: Forecast, exact: bool, notes: list[str]) -> dict:
    """The plan as plain data, in the form of a live state: what it needs to be drawn, one cell a chunk's step.

    Args:
        exact: whether the pattern of the chunk phase is the one that the run will have.
        notes: sentences for the reader.
    """
    lanes = lanes_of(plan)
    cells: list[list[Any]] = []
    first_open = None
    for index, lane in enumerate(lanes):
        for step in range(plan.steps):
            expected = forecast(lane, step)
            cells.append([index, step, PHASES.index(expected.phase or "none"), EXPECTATIONS.index(expected.what)])
            if expected.distance is not None:
                cells[-1].append(float(f"{expected.distance:.5g}"))
            if expected.what != "computed" and (first_open is None or step < first_open):
                first_open = step
    kinds = [call.kind for call in plan.calls]
    return {
        "format": FORMAT,
        "version": VERSION,
        **outline(plan, lanes, config),
        "cells": cells,
        "exact": exact,
        "first_reuse": first_open,
        "calls": {kind: kinds.count(kind) for kind in ("denoise", "context", "refresh")},
        "notes": notes,
    }
