"""The picture of a run as lanes of chunks over rows of time: where a chunk's steps lie, before and as they happen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .config import CacheConfig
from .plan import Plan

PHASES = ("none", "warm-up", "chunk", "token")
"""Phases of a cell; ``none``: no cache acts, or it is not known."""


@dataclass(frozen=True)
class Lane:
    """A generated chunk.

    Args:
        window, place: where the plan has it.
        start, stop: its latent frames in the video.
        begin: row of the run in which it makes its first step; a chunk steps in every row from there on.
    """

    window: int
    place: int
    start: int
    stop: int
    begin: int


def lanes_of(plan: Plan) -> list[Lane]:
    """The generated chunks in order. Rows count on from one window to the next."""
    first_row: dict[tuple[int, int], int] = {}
    window_rows = [0] * len(plan.windows)
    for call in plan.calls:
        window_rows[call.window] = max(window_rows[call.window], call.row + 1)
        for part in call.parts:
            if part.step == 0:
                first_row[(call.window, part.chunk)] = call.row
    lanes, before = [], 0
    for window, rows in zip(plan.windows, window_rows, strict=True):
        lanes += [
            Lane(
                window.index,
                chunk.place,
                window.start + chunk.start,
                window.start + chunk.stop,
                before + first_row[(window.index, chunk.place)],
            )
            for chunk in window.chunks
            if chunk.number is not None
        ]
        before += rows
    return lanes


def outline(plan: Plan, lanes: list[Lane], config: CacheConfig | None) -> dict[str, Any]:
    """What a drawing of the run needs before anything has happened, as plain data."""
    return {
        "family": plan.family,
        "sampling": "chunk-wise" if plan.chunk_wise else "vanilla",
        "cache": config.granularity if config else "none",
        "steps": plan.steps,
        "latent_frames": plan.latent_frames,
        "rows_of_time": max(lane.begin for lane in lanes) + plan.steps,
        "lanes": [[lane.start, lane.stop, lane.begin, lane.window] for lane in lanes],
        "warmup": [getattr(config, "warmup_start", 0), config.warmup_steps] if config else None,
        "thresholds": {"chunk": config.chunk_threshold, "token": config.token_threshold} if config else None,
    }
