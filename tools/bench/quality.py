"""How much the picture suffers: caches of every granularity on the tiny world's model, at equal FLOPs.

Held-out prompts, several seeds, the same noise in every run of a clip. Uncached: block-causal vanilla, and chunk-wise
with and without clean refresh. Caches: TeaCache's rule (step-level, on vanilla), ComfyUI's own EasyCache node (on
vanilla with all chunks begun at once, which is all that it serves), FlowCache's rule (chunk-level, on chunk-wise),
MotionCache (token-level, on chunk-wise), each at several thresholds. Every run is measured against the uncached run
that samples in the same way, and against vanilla, where the sprites move and where nothing does. Full attention is left
out: the model was trained block-causal. LPIPS is left out: its backbone would have to be downloaded.

With --family magi1 the same on the tiny MAGI-1 (`train tiny_magi1`): vanilla is the original's staged window, the
caches are FlowCache's rule and MotionCache, each also with what is reused stretched to the length of the step.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tools.bench.harness import machine, quality_runs, quality_table
from tools.host.environment import REPO
from tools.tinyworld import parallel

FORMS = {"short": {"prompts": 4, "seeds": 1, "perceptual": 0}, "full": {"prompts": 4, "seeds": 2, "perceptual": 2}}
COMPARED = (
    (quality_table.TOKEN, quality_table.CHUNK),
    (quality_table.CHUNK, quality_table.STEP),
    (quality_table.TOKEN_STRETCHED, quality_table.CHUNK_STRETCHED),
    (quality_table.TOKEN_STRETCHED, quality_table.TOKEN),
)
"""Pairs that are compared at equal FLOPs, the finer or stretched one first."""
STEPS = {"skyreels_v2": 20, "magi1": 16}
"""Family -> denoising steps of every chunk."""
MAGI1_FILE = REPO / "build" / "tiny_magi1" / "diffusion_models" / "tiny_world_magi1_distill.safetensors"
log = logging.getLogger("tiny_world")


def main(given: list[str] | None = None) -> int:
    """Measure, print the tables, write plots and the JSON."""
    options = parse(given)
    logging.basicConfig(level=logging.INFO, format=parallel.LOG_FORMAT, stream=sys.stderr)
    if options.read:
        result = json.loads(options.read.read_text(encoding="utf-8"))
    else:
        result = measure(options)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(text(result))
    for path in draw(result["rows"], options.out):
        print(path.resolve())
    print(options.out.resolve())
    return 0


def parse(given: list[str] | None) -> argparse.Namespace:
    """The options, those of the form filled in."""
    parser = argparse.ArgumentParser(prog="dev.py bench quality", description=__doc__)
    parser.add_argument("--form", choices=tuple(FORMS), default="short", help="how much is run (%(default)s)")
    parser.add_argument("--prompts", type=int, help="held-out prompts (4)")
    parser.add_argument("--seeds", type=int, help="seeds for each (short 1, full 2)")
    parser.add_argument("--perceptual", type=int, help="clips that are judged by ColorVideoVDP too (short 0, full 2)")
    parser.add_argument("--family", choices=tuple(STEPS), default="skyreels_v2", help="whose model (%(default)s)")
    parser.add_argument("--model", type=Path, default=MAGI1_FILE, help="magi1: what `train tiny_magi1` wrote")
    parser.add_argument("--steps", type=int, help="denoising steps of every chunk (skyreels_v2 20, magi1 16)")
    parser.add_argument("--ar-step", type=int, default=5, help="steps a chunk stays behind (%(default)s)")
    parser.add_argument("--thresholds", action="append", default=[], metavar="CACHE=T,T,...", help="others for a cache")
    parser.add_argument("--workers", type=int, default=2, help="processes, one core each (%(default)s)")
    parser.add_argument("--out", type=Path, default=REPO / "build/bench/quality.json", help="JSON with all numbers")
    parser.add_argument("--read", type=Path, help="only print and draw what an earlier run wrote")
    options = parser.parse_args(given)
    for name, value in {**FORMS[options.form], "steps": STEPS[options.family]}.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.family == "magi1" and not options.read:
        if not options.model.is_file():
            parser.error(f"--model: there is no {options.model.name} yet; run `python dev.py train tiny_magi1` first")
        if options.steps % 4:
            nearest = max(1, round(options.steps / 4)) * 4
            parser.error(f"--steps is {options.steps}; for magi1 it must be a multiple of 4 (nearest: {nearest})")
    for name, least in (("prompts", 1), ("seeds", 1), ("perceptual", 0), ("steps", 2), ("workers", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name} is {getattr(options, name)}; it must be at least {least} (nearest: {least})")
    try:
        options.thresholds = dict(read_thresholds(entry) for entry in options.thresholds)
    except ValueError as error:
        parser.error(str(error))
    return options


def read_thresholds(written: str) -> tuple[str, tuple[float, ...]]:
    """``CACHE=T,T`` -> (name, thresholds). Raises ValueError for anything else."""
    name, _, values = written.rpartition("=")
    try:
        return name, tuple(float(value) for value in values.split(",") if value)
    except ValueError:
        raise ValueError(f"--thresholds is {written!r}; write e.g. 'MotionCache=0.1,0.2'") from None


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All rows, and what a reader needs to know of the run."""
    torch.set_num_threads(1)
    facts = machine.facts(torch.device("cpu"))
    scenes = quality_runs.prompts(options.prompts)
    clips = [(scene, seed) for seed in range(options.seeds) for scene in scenes]
    jobs = [
        quality_runs.Job(scene, seed, options.steps, options.ar_step, number < options.perceptual)
        for number, (scene, seed) in enumerate(clips)
    ]
    started = time.perf_counter()
    magi1 = options.model.resolve() if options.family == "magi1" else None
    rows = quality_runs.run(jobs, options.thresholds, options.workers, options.out.parent / "parts", magi1)
    return {
        "format": "motioncache_quality",
        "version": 1,
        "family": options.family,
        "machine": facts,
        "prompts": [scene.text for scene in scenes],
        "seeds": options.seeds,
        "steps": options.steps,
        "ar_step": options.ar_step,
        "workers": options.workers,
        "seconds_in_all": round(time.perf_counter() - started, 1),
        "rows": rows,
    }


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The caches of :data:`COMPARED` against each other."""
    pairs = [(a, b, beside) for beside in ("own", "vanilla") for a, b in COMPARED]
    found = [quality_table.advantage(rows, a, b, beside, quality_table.PSNR_MOVING) for a, b, beside in pairs]
    return [row for row in found if row is not None]


def text(result: dict[str, Any]) -> str:
    """The result for a person, as Markdown."""
    rows, facts = result["rows"], result["machine"]
    share = quality_table.mean(row["moving_share"] for row in rows if "moving_share" in row)
    return "\n".join(
        [
            f"{len(result['prompts'])} held-out prompts x {result['seeds']} seeds, {result['steps']} steps, ar_step "
            f"{result['ar_step']}; the moving region is {share:.0%} of the picture. {facts['processor']}, "
            f"{result['workers']} processes of one thread, PyTorch {facts['torch']}, {result['seconds_in_all']:.0f} s.",
            "",
            quality_table.comparison(rows),
            "",
            quality_table.advantages(compared(rows)),
            "",
        ]
    )


def draw(rows: list[dict[str, Any]], out: Path) -> list[Path]:
    """Pareto plots beside ``out``."""
    paths = []
    for beside, against in (("own", "uncached run of the same sampling"), ("vanilla", "block-causal vanilla")):
        picture = quality_table.plot(
            rows,
            tuple(dict.fromkeys(row["series"] for row in rows if row["threshold"] is not None)),
            beside,
            quality_table.PSNR_MOVING,
            f"Moving region, against the {against}",
            "PSNR, dB",
        )
        paths.append(out.with_name(f"{out.stem}_{beside}.png"))
        Image.fromarray(np.asarray(picture)).save(paths[-1])
    return paths


if __name__ == "__main__":
    sys.exit(main())
