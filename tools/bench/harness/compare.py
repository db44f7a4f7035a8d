"""Ways to sample, measured in alternating rounds and held against each other; what deciding costs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .machine import OthersMeter
from .measured import Measured, Stopwatch
from .rounds import Spread, alternate, speed_up

VANILLA, CHUNK_WISE, REFRESH = "vanilla", "chunk-wise", "chunk-wise, clean refresh"
"""Variants that every family has; the first two are what all are compared with."""

THRESHOLD_IN_DISTANCES = 1.5
"""Threshold of the live policy, as a multiple of the median distance of a step: some steps reuse, some compute."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Variant:
    """A way to sample.

    Args:
        sample: samples once.
        reuses: whether it leaves out work that a cache decides about.
    """

    sample: Callable[[], Measured]
    reuses: bool = False


def rounds_of(
    named: Mapping[str, Variant], pairs: int, meter: OthersMeter, say: Say
) -> Iterator[tuple[dict[str, list[Measured]], dict[str, list[float]]]]:
    """Every variant ``pairs`` times; after each round (runs, seconds) of each variant so far."""
    runs: dict[str, list[Measured]] = {name: [] for name in named}

    def measure(name: str, round_index: int) -> float:
        with meter:
            run = named[name].sample()
        say(f"round {round_index + 1} of {pairs}: {name}: {run.seconds:.2f} s")
        runs[name].append(run)
        if pairs > 1 and sum(map(len, runs.values())) == len(named):
            say(f"about {(pairs - 1) * sum(r.seconds for (r,) in runs.values()):.0f} s to go")
        return run.seconds

    for seconds in alternate(list(named), pairs, measure):
        yield runs, seconds


def compare(named: Mapping[str, Variant], pairs: int, meter: OthersMeter, say: Say) -> Iterator[list[dict[str, Any]]]:
    """After each round one row a variant, ready for a table or JSON; ``vanilla`` and ``chunk-wise`` are among them."""
    for runs, seconds in rounds_of(named, pairs, meter, say):
        yield [_row(name, named[name], runs, seconds) for name in named]


def _row(
    name: str, variant: Variant, runs: dict[str, list[Measured]], seconds: dict[str, list[float]]
) -> dict[str, Any]:
    run, chunk_wise = runs[name][0], runs[CHUNK_WISE][0]
    faster, ratio = speed_up(seconds[name], seconds[CHUNK_WISE]), chunk_wise.summary["flops"] / run.summary["flops"]
    cpu, cpu_chunk_wise = ([r.cpu_seconds for r in runs[which]] for which in (name, CHUNK_WISE))
    return {
        "variant": name,
        "reuses": variant.reuses,
        "computed_fraction": run.summary["computed_fraction"],
        "branch_steps": run.summary["branch_steps"],
        "token_forwards": run.summary["token_forwards"] + run.summary["token_forwards_context_and_refresh"],
        "flops": run.summary["flops"],
        "model_calls": run.summary["model_calls"],
        "seconds": asdict(Spread.of(seconds[name])),
        "seconds_by_round": seconds[name],
        "cpu_seconds_by_round": cpu,
        "flops_ratio_to_chunk_wise": ratio,
        "speed_up_over_chunk_wise": asdict(faster),
        "speed_up_of_flops_ratio": faster.median / ratio,
        "cpu_speed_up_of_flops_ratio": speed_up(cpu, cpu_chunk_wise).median / ratio,
        "speed_up_over_vanilla": asdict(speed_up(seconds[name], seconds[VANILLA])),
        "peak_bytes": median_peak(runs[name]),
        "kv_bytes": run.kv_bytes,
    }


def median_peak(runs: list[Measured]) -> int | None:
    """Median of the runs' peak memory, ``None`` where it is not known."""
    peaks = [run.peak_bytes for run in runs if run.peak_bytes is not None]
    return int(statistics.median(peaks)) if peaks else None


def deciding(
    distance: str,
    first: Measured,
    sample: Callable[[float, Stopwatch], Measured],
    new_watch: Callable[[], Stopwatch],
    repeats: int,
    meter: OthersMeter,
    say: Say,
) -> dict[str, Any]:
    """Share of a run that the live policy takes to decide.

    Args:
        distance: its name.
        first: a run that is not counted, to find out how large a step's distance is on these weights; the threshold
            follows from it.
        sample: samples once with a threshold and with a watch that runs while the policy decides.
        new_watch: a watch at 0.
    """
    distances = [branch["distance"] for branch in first.branches if branch["distance"] is not None]
    threshold = THRESHOLD_IN_DISTANCES * statistics.median(distances)
    shares, runs = [], []
    for repeat in range(repeats):
        watch = new_watch()
        with meter:
            run = sample(threshold, watch)
        shares.append(watch.seconds / run.seconds)
        runs.append(run)
        say(f"deciding by {distance}, {repeat + 1} of {repeats}: {shares[-1]:.2%} of {run.seconds:.2f} s")
    run = runs[0]
    return {
        "distance": distance,
        "share": asdict(Spread.of(shares)),
        "seconds": asdict(Spread.of([r.seconds for r in runs])),
        "computed_fraction": run.summary["computed_fraction"],
        "branch_steps": run.summary["branch_steps"],
        "phases": run.phases,
        "threshold": threshold,
    }
