"""Distances for a model's cache, measured: how much each step changes what the blocks add, by timestep.

Uncached runs of the tiny world's trained prompts, chunk by chunk. Told for every step: the relative change (L1) of the
residual, which is what a reused step gets wrong, beside the two distances that need no calibration: the relative change
of the time embedding (TeaCache, arXiv 2411.19108, fits a polynomial of degree 4 to it) and of the patch embedding. The
table of accumulated changes is what the MotionCache node takes under distance 'table'.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tools.bench.harness import pack, table
from tools.host.environment import REPO
from tools.tinyworld.dataset import held_out, known_scenes
from tools.tinyworld.host import import_comfyui

AR_STEP = 5
DEGREE = 4
NAMES = ("residual", "time embedding", "patch embedding")
Steps = dict[tuple[int, int], list[dict[str, float]]]
"""(timestep before, timestep) -> what was measured there."""


def main(given: list[str] | None = None) -> int:
    """Measure, print the steps, the polynomial and the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="dev.py bench calibrate", description=__doc__)
    parser.add_argument("--prompts", type=int, default=4, help="trained prompts, one run each (%(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps (%(default)s)")
    parser.add_argument("--out", type=Path, default=REPO / "build/bench/calibrate.json")
    options = parser.parse_args(given)
    result = summary(measure(options.prompts, options.steps))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    head = ("timesteps", "residual", "time embedding", "patch embedding")
    print(table.lines(head, [[str(cell) for cell in row.values()] for row in result["steps"]]))
    print(f"\npolynomial of the time embedding's change, degree {DEGREE}, highest power first: {result['polynomial']}")
    print(f"share of the variance that it explains: {result['explained']}")
    print(f"\ndistance_table: {result['distance_table']}")
    return 0


def measure(prompts: int, steps: int) -> Steps:
    """Every step of every chunk and branch of the runs."""
    import_comfyui()
    pack.load()
    from motioncache.nodes.host import session

    from tools.bench.harness.recording import COMPUTE_ALL, RecordingPolicy
    from tools.bench.harness.tiny_world_runs import Sampling, TinyWorld

    torch.set_num_threads(1)
    world, found = TinyWorld(), defaultdict(list)
    trained = [scene for scene in known_scenes() if not held_out(scene)]
    for number in range(prompts):
        policy = RecordingPolicy()
        with pack.handed_in(session, SkyReelsV2Policy=lambda config, policy=policy: policy):
            world.sample(trained[number * len(trained) // prompts], number, steps, AR_STEP, Sampling(cache=COMPUTE_ALL))
        for pair, measured in policy.steps:
            found[pair].append(measured)
        print(f"{number + 1} of {prompts} runs", file=sys.stderr, flush=True)
    return found


def summary(steps: Steps) -> dict[str, Any]:
    """Medians by step, the polynomial with how well it fits, and the table for the MotionCache node."""
    pairs = sorted(steps, reverse=True)
    rows = [
        {"timesteps": f"{before}-{after}", **{name: _median(steps[before, after], name) for name in NAMES}}
        for before, after in pairs
    ]
    points = [measured for pair in pairs for measured in steps[pair]]
    x, y = (np.array([point[name] for point in points]) for name in ("time embedding", "residual"))
    polynomial = np.polyfit(x, y, DEGREE)
    explained = 1 - np.square(y - np.polyval(polynomial, x)).mean() / y.var()
    accumulated = np.cumsum([row["residual"] for row in rows])
    entries = [
        f"{pairs[0][0]}:0",
        *(f"{after}:{total:.3f}" for (_, after), total in zip(pairs, accumulated, strict=True)),
    ]
    return {
        "steps": rows,
        "polynomial": [float(f"{value:.6g}") for value in polynomial],
        "explained": round(float(explained), 3),
        "distance_table": ", ".join(entries),
    }


def _median(measured: list[dict[str, float]], name: str) -> float:
    return round(statistics.median(entry[name] for entry in measured), 4)


if __name__ == "__main__":
    sys.exit(main())
