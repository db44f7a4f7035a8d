"""The results of a benchmark as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MIB = 2**20


def comparison(rows: Sequence[dict[str, Any]]) -> str:
    """One line a variant; see ``compare.compare`` for the rows."""
    head = (
        "variant",
        "computed fraction",
        "token-forwards",
        "TFLOPs",
        "seconds (smallest–largest)",
        "FLOPs ratio to chunk-wise",
        "speed-up over chunk-wise",
        "of the FLOPs ratio",
        "the same in CPU time",
        "speed-up over vanilla",
        "peak memory of the run, MiB",
        "of it keys and values, MiB",
    )
    return lines(head, [_cells(row) for row in rows])


def _cells(row: dict[str, Any]) -> list[str]:
    seconds, faster, vanilla = row["seconds"], row["speed_up_over_chunk_wise"], row["speed_up_over_vanilla"]
    return [
        row["variant"],
        f"{row['computed_fraction']:.3f}",
        f"{row['token_forwards']}",
        f"{row['flops'] / 1e12:.3f}",
        f"{seconds['median']:.2f} ({seconds['low']:.2f}–{seconds['high']:.2f})",
        f"{row['flops_ratio_to_chunk_wise']:.2f}",
        f"{faster['median']:.2f} ({faster['low']:.2f}–{faster['high']:.2f})",
        f"{row['speed_up_of_flops_ratio']:.2f}",
        f"{row['cpu_speed_up_of_flops_ratio']:.2f}",
        f"{vanilla['median']:.2f} ({vanilla['low']:.2f}–{vanilla['high']:.2f})",
        "not known" if row["peak_bytes"] is None else f"{row['peak_bytes'] / MIB:.0f}",
        f"{row['kv_bytes'] / MIB:.1f}",
    ]


def deciding(rows: Sequence[dict[str, Any]]) -> str:
    """One line a distance; see ``compare.deciding``."""
    head = ("distance", "deciding, share of the run", "computed fraction", "full / partial / reused", "phases")
    cells = []
    for row in rows:
        share, steps = row["share"], row["branch_steps"]
        cells.append(
            [
                row["distance"],
                f"{share['median']:.2%} ({share['low']:.2%}–{share['high']:.2%})",
                f"{row['computed_fraction']:.3f}",
                f"{steps['full']} / {steps['partial']} / {steps['reused']}",
                ", ".join(f"{name} {count}" for name, count in row["phases"].items()),
            ]
        )
    return lines(head, cells)


def savings(rows: Sequence[dict[str, Any]]) -> str:
    """One line a saving; see ``magi1_bench.savings``."""
    head = (
        "attention",
        "saving",
        "TFLOPs",
        "seconds (smallest–largest)",
        "FLOPs ratio",
        "speed-up",
        "peak memory of the run, MiB",
        "of it keys and values, MiB",
    )
    cells = []
    for row in rows:
        seconds, faster = row["seconds"], row["speed_up"]
        cells.append(
            [
                row["attention"],
                row["saving"],
                f"{row['flops'] / 1e12:.3f}",
                f"{seconds['median']:.2f} ({seconds['low']:.2f}–{seconds['high']:.2f})",
                f"{row['flops_ratio']:.2f}",
                f"{faster['median']:.2f} ({faster['low']:.2f}–{faster['high']:.2f})",
                "not known" if row["peak_bytes"] is None else f"{row['peak_bytes'] / MIB:.0f}",
                f"{row['kv_bytes'] / MIB:.1f}",
            ]
        )
    return lines(head, cells)


def lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    table = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in table)
