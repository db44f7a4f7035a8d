"""What the rows of a growing take say: early against late, and whether time and memory stay flat."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from . import table

ALLOWED = 1.15
"""How much more a late node may take than an early one."""
KIB = 2**10
MEMORY = ("peak_bytes", "base_bytes")
"""Of the process: above what it held before a node, and that."""

Row = dict[str, Any]


def a_chunk(row: Row, name: str = "cpu_seconds") -> float:
    """Seconds that a node took for as many calls as a chunk has steps.

    The first node fills the pipeline, so it makes fewer calls than its chunks have steps.
    """
    return row[name] / row["calls"] * row["steps"]


def growing(rows: Sequence[Row]) -> list[Row]:
    """Those of the nodes that add chunks."""
    return [row for row in rows if row["chunks"]]


def early_and_late(rows: Sequence[Row], run_in: int, nodes: int = 2) -> tuple[list[Row], list[Row]]:
    """The first nodes that run at full speed, and the last ones.

    Args:
        run_in: chunks until the pipeline and the window of earlier chunks are full; a node that ends there or before
            does not count, if at least two others are left.
        nodes: how many of either, fewer if they would overlap.
    """
    full = [row for row in growing(rows) if row["all_chunks"] > run_in]
    if len(full) < 2:
        full = growing(rows)[-2:]
    nodes = max(1, min(nodes, len(full) // 2))
    return full[:nodes], full[-nodes:]


def flatness(rows: Sequence[Row], run_in: int) -> dict[str, dict[str, float | None]]:
    """Medians of early and late nodes and their ratio, by measure; ``None`` where memory cannot be read."""
    early, late = early_and_late(rows, run_in)
    found = {}
    for name in ("cpu_seconds", "peak_bytes", "kept_bytes", "other_seconds"):
        values = [[_value(row, name) for row in part] for part in (early, late)]
        if any(value is None for part in values for value in part):
            found[name] = {"early": None, "late": None, "ratio": None}
            continue
        before, after = map(statistics.median, values)
        found[name] = {"early": before, "late": after, "ratio": after / before if before else None}
    return found


def _value(row: Row, name: str) -> float | None:
    if name == "cpu_seconds":
        return a_chunk(row)
    if name == "other_seconds":
        return row["seconds"] - row["seconds_in_calls"]
    return row["kv_bytes"] + row["state_bytes"] if name == "kept_bytes" else row[name]


def targets(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What must hold of every run, the number, and whether it does."""
    said = {"cpu_seconds": "time a chunk", "peak_bytes": "peak memory", "kept_bytes": "keys, values and state"}
    found = []
    for run in runs:
        last = growing(run["rows"])[-1]["all_chunks"]
        for name, words in said.items():
            ratio = run["flat"][name]["ratio"]
            if ratio is not None:
                found.append(
                    {
                        "target": f"{run['name']}: {words} at {last} chunks at most {ALLOWED:g} of an early node's",
                        "value": round(ratio, 3),
                        "held": ratio <= ALLOWED,
                    }
                )
    return found


def comparison(runs: Sequence[dict[str, Any]]) -> str:
    """A line for the early nodes, one for the late ones and one for their ratio, for every run."""
    head = (
        "take",
        "chunks",
        "seconds a chunk (CPU time)",
        "outside of the calls, seconds a node",
        "peak above base, MiB",
        "all nodes' outputs hold, KiB",
        "keys and values of one, KiB",
        "state, KiB",
        "finished latents, KiB",
        "record of decisions, KiB",
        "calls a node",
    )
    lines = []
    for run in runs:
        early, late = early_and_late(run["rows"], run["run_in"])
        for part in (early, late):
            first = part[0]["all_chunks"] - part[0]["chunks"] + 1
            lines.append([run["name"], f"{first}–{part[-1]['all_chunks']}", *_cells(part)])
        flat = run["flat"]
        ratios = [_ratio(flat[name]["ratio"]) for name in ("cpu_seconds", "other_seconds", "peak_bytes", "kept_bytes")]
        lines.append([run["name"], "ratio", *ratios[:3], "", ratios[3], "", "", "", ""])
    return table.lines(head, lines)


def _cells(rows: Sequence[Row]) -> list[str]:
    def middle(name: str, unit: float = 1.0) -> float:
        return statistics.median(_value(row, name) for row in rows) / unit

    peak = "not known" if rows[0]["peak_bytes"] is None else f"{middle('peak_bytes', table.MIB):.1f}"
    last = rows[-1]
    return [
        f"{middle('cpu_seconds'):.2f}",
        f"{middle('other_seconds'):.2f}",
        peak,
        *(
            f"{last[name] / KIB:.0f}"
            for name in ("held_bytes", "kv_bytes", "state_bytes", "finished_bytes", "trace_bytes")
        ),
        f"{last['calls']}",
    ]


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def by_node(rows: Sequence[Row]) -> str:
    """One line a node."""
    head = ("chunks", "calls", "seconds", "CPU seconds", "computed", "peak, MiB", "process, MiB", "kept, KiB")
    lines = []
    for row in rows:
        memory = ["not known" if row["peak_bytes"] is None else f"{row[name] / table.MIB:.1f}" for name in MEMORY]
        lines.append(
            [
                f"{row['all_chunks']}" if row["chunks"] else "finish",
                f"{row['calls']}",
                f"{row['seconds']:.1f}",
                f"{row['cpu_seconds']:.1f}",
                f"{row['computed_fraction']:.2f}",
                *memory,
                f"{(row['kv_bytes'] + row['state_bytes']) / KIB:.0f}",
            ]
        )
    return table.lines(head, lines)
