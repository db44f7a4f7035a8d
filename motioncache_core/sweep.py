"""Several runs, what each cost and how good it was: as points of a plot and as a table."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .plots import Point, pareto_optimal
from .report import FORMAT, VERSION

COSTS: dict[str, Callable[[Run], float]] = {
    "computed fraction": lambda run: run.computed_fraction,
    "TFLOPs": lambda run: run.flops / 1e12,
    "seconds": lambda run: run.seconds,
}
"""What the x axis can show; less is better of all three."""
SERIES = {"step": "step-level", "chunk": "chunk-level", "token": "token-level"}


class ReportError(ValueError):
    """The text is not the report of a run."""


@dataclass(frozen=True)
class Run:
    """One run.

    Args:
        label: its name in plot and table.
        series: runs with the same caching (granularity of the cache; without one the kind of sampling).
        video: family and latent frames; runs of different ones cannot be compared.
        computed_fraction: share of the plan's token-forwards that were done. Not a speed-up.
        flops: of the whole run.
        seconds: of its model calls, wall-clock.
        quality: higher is better; ``None`` for the run that the others are measured against.
    """

    label: str
    series: str
    video: tuple[str, int]
    computed_fraction: float
    flops: float
    seconds: float
    quality: float | None


def read_run(report: str, label: str, quality: float | None) -> Run:
    """A run from its report's text.

    Raises:
        ReportError: if it is not a report that this version reads.
        ValueError: if the quality is not finite.
    """
    if quality is not None and not math.isfinite(quality):
        raise ValueError(f"quality is {quality:g}; it must be a finite number")
    content = parse_report(report)
    summary = content["summary"]
    numbers = [summary[name] for name in ("computed_fraction", "flops", "seconds")]
    video = (content["family"], content["latent_frames"])
    return Run(label, _series(summary["cache"], content["sampling"]), video, *map(float, numbers), quality)


def with_quality(runs: Sequence[Run]) -> list[Run]:
    """Those that have a place in the plot."""
    return [run for run in runs if run.quality is not None]


def plot_series(runs: Sequence[Run], cost: str) -> dict[str, list[Point]]:
    """Points of :func:`~.plots.pareto_plot` by series, in the order of the runs."""
    series: dict[str, list[Point]] = {}
    for run in with_quality(runs):
        series.setdefault(run.series, []).append(Point(COSTS[cost](run), run.quality, run.label))
    return series


def references(runs: Sequence[Run], cost: str) -> dict[str, float]:
    """Name -> cost of the runs without a quality."""
    found: dict[str, float] = {}
    for run in runs:
        if run.quality is None:
            number = 2
            name = run.label
            while name in found:
                name, number = f"{run.label} ({number})", number + 1
            found[name] = COSTS[cost](run)
    return found


def table(runs: Sequence[Run], cost: str, quality_name: str) -> str:
    """All runs as a Markdown table, with a sentence on what the words mean."""
    placed = with_quality(runs)
    best = dict(zip(map(id, placed), pareto_optimal([(COSTS[cost](run), run.quality) for run in placed]), strict=True))
    head = ["run", "caching", *COSTS, quality_name, "Pareto-optimal"]
    lines = [_row(head), _row(["---"] * len(head))]
    for run in runs:
        quality = "reference" if run.quality is None else f"{run.quality:.4g}"
        costs = (f"{run.computed_fraction:.3f}", f"{run.flops / 1e12:.3g}", f"{run.seconds:.1f}")
        lines.append(_row([run.label, run.series, *costs, quality, "yes" if best.get(id(run)) else ""]))
    lines += [
        "",
        "Computed fraction: share of the token passes that were done; it is not a speed-up. Pareto-optimal: no run has "
        f"a better quality for the same {cost}, or the same quality for less.",
    ]
    videos = sorted({run.video for run in runs})
    if len(videos) > 1:
        kinds = ", ".join(f"{family} with {frames} latent frames" for family, frames in videos)
        lines += ["", f"These runs made different videos and should not be compared: {kinds}."]
    return "\n".join(lines)


def parse_report(report: str) -> dict[str, Any]:
    """The report's JSON, with all that is read from it present and of its kind."""
    start = " ".join(report.split())[:40]
    try:
        content = json.loads(report)
    except json.JSONDecodeError:
        raise ReportError(
            f"report is not a sampler's report (it begins {start!r}); connect the output called report"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ReportError(f"report is JSON, but not a sampler's report (it begins {start!r})")
    if content.get("version") != VERSION:
        raise ReportError(f"report has version {content.get('version')!r}; this pack reads version {VERSION}")
    summary = content.get("summary")
    wanted = [(content, name, kind) for name, kind in (("family", str), ("sampling", str), ("latent_frames", int))]
    wanted += [(summary, "cache", str)]
    wanted += [(summary, name, (int, float)) for name in ("computed_fraction", "flops", "seconds")]
    for place, name, kind in wanted:
        if not isinstance(place, dict) or not isinstance(place.get(name), kind) or isinstance(place[name], bool):
            raise ReportError(f"report is damaged: {name} is missing or not of its kind; run the sampler again")
    for name in ("computed_fraction", "flops", "seconds"):
        if not (math.isfinite(summary[name]) and summary[name] >= 0):
            raise ReportError(f"report is damaged: {name} is {summary[name]:g}; it must be 0 or more")
    return content


def _series(granularity: str, sampling: str) -> str:
    return SERIES.get(granularity, f"no cache, {sampling}")


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
