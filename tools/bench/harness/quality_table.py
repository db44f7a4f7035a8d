"""The quality benchmark's rows gathered: means over clips, curves at equal FLOPs, the table and the Pareto plot."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from motioncache_core.plots import Point, pareto_plot

from .rounds import Spread
from .table import lines

Row = dict[str, Any]
STEP, STOCK, CHUNK, TOKEN = "TeaCache (step-level)", "EasyCache (stock node)", "FlowCache (chunk-level)", "MotionCache"
SERIES = (STEP, STOCK, CHUNK, TOKEN)
"""Caches, the coarsest first."""
CHUNK_STRETCHED, TOKEN_STRETCHED = f"{CHUNK}, stretched", f"{TOKEN}, stretched"
"""The same where what is reused is stretched to the length of the step (MAGI-1)."""
PSNR_MOVING = "psnr moving"
GRID = 16
"""Places along the shared range of two curves at which they are compared."""


def by_variant(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows of all clips, by variant, in the order in which they ran."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["variant"], []).append(row)
    return found


def measured(row: Row, beside: str, name: str) -> float:
    """A measure of a row beside ``own`` or ``vanilla``; NaN where it was not taken."""
    return row.get(beside, {}).get(name, math.nan)


def mean(values: Iterable[float]) -> float:
    """Mean of the values that are there, NaN of none."""
    present = [value for value in values if not math.isnan(value)]
    return statistics.fmean(present) if present else math.nan


def over_seeds(rows: Sequence[Row], value: Callable[[Row], float]) -> Spread:
    """Mean over all clips, with the smallest and the largest mean over the clips of one seed."""
    seeds = sorted({row["seed"] for row in rows})
    means = [mean(value(row) for row in rows if row["seed"] == seed) for seed in seeds]
    return Spread(mean(value(row) for row in rows), min(means), max(means))


def comparison(rows: Sequence[Row]) -> str:
    """One line a variant, means over clips."""
    head = (
        "variant", "computed fraction", "FLOPs of vanilla", "speed-up over vanilla (smallest–largest)",
        "moving PSNR (seeds)", "still PSNR", "moving SSIM", "still SSIM", "moving JOD", "still JOD",
        "moving PSNR to vanilla", "still PSNR to vanilla", "moving JOD to vanilla", "still JOD to vanilla", "as asked",
    )  # fmt: skip
    return lines(head, [_cells(name, own) for name, own in by_variant(rows).items()])


def _cells(name: str, rows: Sequence[Row]) -> list[str]:
    def shown(beside: str, measure: str, digits: int) -> str:
        value = mean(measured(row, beside, measure) for row in rows)
        return "–" if math.isnan(value) else f"{value:.{digits}f}"

    faster = Spread.of([row["speed_up"] for row in rows])
    moving = over_seeds(rows, lambda row: measured(row, "own", PSNR_MOVING))
    return [
        name,
        f"{mean(row['computed_fraction'] for row in rows):.3f}",
        f"{mean(row['flops_of_vanilla'] for row in rows):.3f}",
        f"{faster.median:.2f} ({faster.low:.2f}–{faster.high:.2f})",
        "–" if math.isnan(moving.median) else f"{moving.median:.1f} ({moving.low:.1f}–{moving.high:.1f})",
        shown("own", "psnr still", 1),
        shown("own", "ssim moving", 3),
        shown("own", "ssim still", 3),
        shown("own", "cvvdp moving", 2),
        shown("own", "cvvdp still", 2),
        shown("vanilla", PSNR_MOVING, 1),
        shown("vanilla", "psnr still", 1),
        shown("vanilla", "cvvdp moving", 2),
        shown("vanilla", "cvvdp still", 2),
        f"{mean(float(row['right']) for row in rows):.0%}",
    ]


def curve(rows: Sequence[Row], series: str, beside: str, measure: str, seed: int | None = None) -> list[Point]:
    """(FLOPs as a share of vanilla's, mean of a measure) of a series' variants, cheapest first.

    Args:
        seed: of the clips, ``None``: all; then the points carry the smallest and largest mean of a seed.
    """
    points = []
    for own in by_variant(row for row in rows if row["series"] == series and seed in (None, row["seed"])).values():
        spread = over_seeds(own, lambda row: measured(row, beside, measure))
        cost = mean(row["flops_of_vanilla"] for row in own)
        if not math.isnan(spread.median):
            threshold = own[0]["threshold"]
            label = "" if threshold is None else f"{threshold:g}"
            points.append(Point(cost, spread.median, label, spread.low, spread.high))
    return sorted(points)


def advantage(rows: Sequence[Row], series: str, other: str, beside: str, measure: str) -> Row | None:
    """How much more of a measure a series has than another at equal FLOPs, the mean over the range that both reach.

    The curves are interpolated, straight over the logarithm of the FLOPs. ``None`` where they share no range.
    """
    whole = _difference(curve(rows, series, beside, measure), curve(rows, other, beside, measure))
    if whole is None:
        return None
    seeds = sorted({row["seed"] for row in rows})
    each = [_difference(*(curve(rows, name, beside, measure, seed) for name in (series, other))) for seed in seeds]
    by_seed = [found["mean"] for found in each if found is not None]
    return {"series": series, "other": other, "beside": beside, "measure": measure, **whole, "by_seed": by_seed}


def _difference(curve_a: Sequence[Point], curve_b: Sequence[Point]) -> Row | None:
    if len(curve_a) < 2 or len(curve_b) < 2:
        return None
    low, high = max(curve_a[0].x, curve_b[0].x), min(curve_a[-1].x, curve_b[-1].x)
    if low >= high:
        return None
    grid = np.linspace(math.log(low), math.log(high), GRID)
    a, b = (np.interp(grid, np.log([p.x for p in c]), [p.y for p in c]) for c in (curve_a, curve_b))
    return {"mean": float((a - b).mean()), "least": float((a - b).min()), "most": float((a - b).max()),
            "from": low, "to": high}  # fmt: skip


def advantages(found: Sequence[Row]) -> str:
    """The comparisons at equal FLOPs as a table."""
    head = (
        "more dB in the moving region", "measured against", "mean over the shared range", "least–most along it",
        "seed by seed", "FLOPs of vanilla",
    )  # fmt: skip
    cells = [
        [
            f"{row['series']} than {row['other']}",
            "its own uncached run" if row["beside"] == "own" else "block-causal vanilla",
            f"{row['mean']:+.2f}",
            f"{row['least']:+.2f} – {row['most']:+.2f}",
            ", ".join(f"{value:+.2f}" for value in row["by_seed"]),
            f"{row['from']:.3f}–{row['to']:.3f}",
        ]
        for row in found
    ]
    return lines(head, cells)


def plot(rows: Sequence[Row], series: Sequence[str], beside: str, measure: str, title: str, y_label: str) -> np.ndarray:
    """Quality over FLOPs, ``[H, W, 3]`` uint8."""
    curves = {name: curve(rows, name, beside, measure) for name in series}
    drawn = {name: points for name, points in curves.items() if points}
    return pareto_plot(drawn, title=title, x_label="FLOPs, as a share of vanilla's", y_label=y_label, log_x=True)
