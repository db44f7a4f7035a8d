"""Whether a take stays as fast and as small however long it gets: a chain of *Generate chunks* nodes, each measured.

The shipped tiny world with its workflow's settings and MotionCache, 50 chunks, also with keys and values of
finished chunks only; MAGI-1 with small random weights; shorter, the tiny world with them kept in fp8, and with
nothing kept. Compared are the first nodes at full speed (pipeline and window full) and the last ones: CPU time for
the calls of a chunk, which other programs disturb less than wall-clock; what a node does outside of its calls; peak
memory of the process above what it held before the node; what is handed on; and what the outputs of all nodes hold
together, as ComfyUI keeps them. Finished latents and the record of decisions grow with the video, so they are
counted apart.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

from tools.bench.harness import command, long_table, machine

RUN_IN = 10
"""Chunks until pipeline and window of earlier chunks are full, in either family."""


def main(given: list[str] | None = None) -> int:
    """Measure, print the tables, write the JSON."""
    return command.run(parse(given), measure, text)


def parse(given: list[str] | None) -> argparse.Namespace:
    """The options, filled in and checked."""
    parser = command.plain_parser("long", __doc__)
    parser.add_argument("--chunks", type=int, help="of the long take (50)")
    parser.add_argument("--short", type=int, help="chunks of the others (30)")
    parser.add_argument("--node", type=int, help="chunks a node (5)")
    parser.add_argument("--steps", type=int, help="denoising steps of every chunk (20)")
    defaults = {"chunks": (50, 4), "short": (30, 4), "node": (5, 2), "steps": (20, 5), "threads": (1, 1)}
    return command.parsed(parser, given, defaults, ("chunks", "short", "node", "steps"))


def measure(options: argparse.Namespace, facts: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The result after every take."""
    command.prepare(options.device)
    from tools.bench.harness import long_runs
    from tools.bench.harness.tiny_world_runs import TinyWorld

    world, meter, started = TinyWorld(), machine.OthersMeter(), time.perf_counter()
    kinds = [
        ("SkyReels-V2", "skyreels_v2", "as computed", options.chunks),
        ("SkyReels-V2, finished chunks kept", "skyreels_v2", "finished chunks", options.chunks),
        ("SkyReels-V2, kept in fp8", "skyreels_v2", "fp8_e4m3fn", options.short),
        ("SkyReels-V2, nothing kept", "skyreels_v2", "nothing", options.short),
        ("MAGI-1", "magi1", "as computed", options.chunks),
    ]
    runs: list[dict[str, Any]] = []
    for name, family, keep, chunks in kinds:
        take, grow = long_runs.magi1(keep) if family == "magi1" else long_runs.skyreels(world, options.steps, keep)
        rows = []
        with meter:
            for row in long_runs.grown(take, grow, nodes(chunks, options.node)):
                rows.append(row)
                command.say(f"{name}: {row['all_chunks']} chunks, {row['calls']} calls in {row['seconds']:.1f} s")
        flat = long_table.flatness(rows, RUN_IN)
        runs.append({"name": name, "keep": keep, "run_in": RUN_IN, "flat": flat, "rows": rows})
        yield {
            "format": "motioncache_long",
            "version": 1,
            "machine": facts,
            "setup": {"steps": options.steps, "peak_memory_is": machine.PeakMemory.what(torch.device(options.device))},
            "runs": runs,
            "targets": long_table.targets(runs),
            "other_processes_cores": None if meter.cores is None else round(meter.cores, 2),
            "seconds_in_all": round(time.perf_counter() - started, 1),
        }


def nodes(chunks: int, a_node: int) -> list[int]:
    """Chunks of every node of a chain; the last one may have fewer."""
    return [min(a_node, chunks - done) for done in range(0, chunks, a_node)]


def text(result: dict[str, Any]) -> str:
    """The result for a person, as Markdown."""
    facts, runs = result["machine"], result["runs"]
    lines = [
        f"Tiny world, {result['setup']['steps']} steps, MotionCache on; {facts['processor']}, {facts['threads']} "
        f"threads, PyTorch {facts['torch']}; others used {result['other_processes_cores']} of {facts['cores']} cores "
        f"meanwhile; {result['seconds_in_all']:.0f} s. Peak: {result['setup']['peak_memory_is']}.",
        "",
        long_table.comparison(runs),
    ]
    for run in runs:
        lines += ["", f"{run['name']}, node by node:", "", long_table.by_node(run["rows"])]
    lines.append("")
    for target in result["targets"]:
        lines.append(f"{'held' if target['held'] else 'MISSED'}: {target['target']} ({target['value']})")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
