"""From runs to the small pictures and timelines of a sheet.

``tools.bench.harness.pack.load`` comes before this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from motioncache.motioncache_core.overlay import heat as motion_heat
from motioncache.motioncache_core.side_by_side import heat as difference_heat
from motioncache.motioncache_core.timeline import PHASES
from motioncache.nodes.planning import drawn_plan

from .runs import Made
from .sheet import FULL, REUSED, Cell, Sheet, Timeline

FRAME = 45
"""The instant that is shown: in the third chunk, with the ball in sight."""
SIDE = 150
OFTEN = 0.6
"""Share of the steps in the token phase that is drawn orange."""
DIFFERENCE = 0.2
"""Difference of colour, as a share of the range, that is drawn brightest."""


def frame(made: Made, number: int = FRAME) -> np.ndarray:
    """A video frame."""
    return made.frames[number]


def difference(made: Made, reference: Made, number: int = FRAME) -> np.ndarray:
    """Where a frame differs from another run's: black nowhere, pale yellow by :data:`DIFFERENCE` or more."""
    apart = np.abs(made.frames[number].astype(float) - reference.frames[number]).mean(axis=-1) / 255
    return difference_heat(apart / DIFFERENCE)


def recomputed(made: Made, number: int = FRAME) -> np.ndarray:
    """How often each token of a frame was computed in its token phase: blue never, orange :data:`OFTEN` or more."""
    latent = (number + 3) // 4
    share, count = torch.zeros(made.trace.rows, made.trace.columns), 0
    chunk = next(lane for lane, (start, stop) in enumerate(made.state.lane_frames) if start <= latent < stop)
    parted = {step for (lane, step), cell in made.state.cells.items() if lane == chunk and PHASES[cell[2]] == "token"}
    for entry in made.trace.entries:
        if entry.start <= latent < entry.stop and entry.step in parted:
            share += entry.computed[latent - entry.start].float() / 255
            count += 1
    often = (share / max(count, 1) / OFTEN).clamp(max=1).unsqueeze(-1)
    mixed = torch.lerp(torch.tensor(REUSED).float(), torch.tensor(FULL).float(), often)
    return mixed.round().byte().numpy()


def motion(made: Made, before: int | None = None, number: int = FRAME) -> np.ndarray:
    """Motion weights of a frame, dark blue still, yellow moving; those that a step was decided with, or their mean."""
    return (motion_heat(made.trace.motion(before)[(number + 3) // 4]) * 255).round().byte().numpy()


def timeline(made: Made) -> Timeline:
    """What the view shows of a run."""
    seen = made.state.snapshot()
    begins = tuple(lane[2] for lane in seen["lanes"])
    cells = tuple(
        Cell(lane, begins[lane] + step, computed / total, PHASES[phase])
        for lane, step, phase, _, computed, total, *_ in seen["cells"]
    )
    return Timeline(len(begins), seen["rows_of_time"], cells, begins, seen["steps"])


def planned(node: str, cache: dict[str, Any] | None = None, **inputs: Any) -> Timeline:
    """What the view shows before a run of a sampler node with these inputs."""
    seen = drawn_plan({"node": node, "inputs": inputs, "cache": cache})
    begins = tuple(lane[2] for lane in seen["lanes"])
    shares = (1.0, 0.0, None)
    cells = tuple(
        Cell(lane, begins[lane] + step, shares[expected], PHASES[phase])
        for lane, step, phase, expected, *_ in seen["cells"]
    )
    return Timeline(len(begins), seen["rows_of_time"], cells, begins, seen["steps"])


def measured(made: Made, reference: Made) -> str:
    """A run's computed share, and how near it is to another."""
    if made is reference:
        return f"{made.computed:.0%} computed"
    return f"{made.computed:.0%} computed, {made.psnr(reference):.1f} dB"


def compared(
    sheet: Sheet, reference: Made, rows: Sequence[tuple[str, Made]], second: str = "difference", named: bool = True
) -> None:
    """A row for each run: words, its frame, a second picture, its timeline.

    Args:
        reference: the run without a cache.
        second: "difference" to the reference, or what was "recomputed".
        named: name the pictures above the first row.
    """
    for number, (words, made) in enumerate(rows):
        sheet.line(words, measured(made, reference))
        if second == "recomputed" and made.report["config"] is not None:
            panel, sharp = recomputed(made), False
        else:
            panel, sharp = difference(made, reference), True
        names = (f"frame {FRAME}", second, "steps of 3 chunks") if named and number == 0 else ()
        sheet.strip((frame(made), panel), SIDE, names, timeline(made), (True, sharp))
