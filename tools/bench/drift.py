"""Whether a long video drifts: one prompt for 20 chunks, gone on with in several ways, on the tiny world's model.

Overlap windows that start from history which was decoded and encoded again (the original's way), overlap windows that
start from the latents, and one take under a sliding window (what the storyboard nodes make), this one also with clean
refresh. The same noise for a clip's first window in all ways. Per chunk of the decoded video: mean, contrast and
saturation of the background, off the world's truth, since a ball that leaves changes those of the whole picture. The
model was trained on clips of 97 frames, 5 chunks.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from motioncache_core.plots import line_plot
from tools.bench.harness import command, drift_measures, machine
from tools.host.environment import REPO
from tools.tinyworld.world import Scene, Sprite

CHUNK = 5
"""Latent frames of a chunk."""
SCENES = (
    Scene("misty field", (Sprite("yellow", "ball", "none"),)),
    Scene("striped wall", (Sprite("red", "ball", "right"),)),
)
REENCODED, LATENTS, SLIDING = "re-encoded windows", "windows from latents", "sliding window"
REFRESHED = "sliding window, clean refresh"
WAYS: dict[str, dict[str, Any]] = {
    REENCODED: {"history": "re-encode with VAE"},
    LATENTS: {"history": "latents"},
    SLIDING: {"history": "sliding window"},
    REFRESHED: {"history": "sliding window", "clean_refresh": True},
}
"""Name -> inputs of the sampler node."""
PLOTTED = (*drift_measures.MEASURES, drift_measures.BACKGROUND)
SHOWN = (0, 1, 5, 10, 15, 20)
"""Chunks of which the contact sheet shows the last frame, 0: the very first frame."""


def main(given: list[str] | None = None) -> int:
    """Measure, print the table, write plot, contact sheet and JSON."""
    options = parse(given)
    if options.read:
        result = json.loads(options.read.read_text(encoding="utf-8"))
    else:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        for result in measure(options):  # one more clip each time, so that a run cut short leaves something
            options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(text(result))
    path = options.out.with_suffix(".png")
    Image.fromarray(plot(result["rows"])).quantize(64).save(path, optimize=True)
    print(path.resolve())
    print(options.out.resolve())
    return 0


def parse(given: list[str] | None) -> argparse.Namespace:
    """The options, filled in and checked."""
    parser = argparse.ArgumentParser(prog="dev.py bench drift", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 chunks of 5 steps, one clip: shows only that it runs")
    parser.add_argument("--chunks", type=int, help="chunks of the video (20)")
    parser.add_argument("--steps", type=int, help="denoising steps of every chunk (20)")
    parser.add_argument("--window", type=int, help="frames of a window (97)")
    parser.add_argument("--seeds", type=int, help="seeds of each of the two prompts (2)")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's threads (%(default)s)")
    parser.add_argument("--out", type=Path, default=REPO / "build/bench/drift.json", help="JSON with all numbers")
    parser.add_argument("--read", type=Path, help="only print and draw what an earlier run wrote")
    defaults = {"chunks": (20, 3), "window": (97, 37), "steps": (20, 5), "seeds": (2, 1)}
    options = command.parsed(parser, given, defaults, ("chunks", "window", "steps", "seeds", "threads"))
    options.scenes = SCENES[:1] if options.quick else SCENES
    return options


@torch.inference_mode()
def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Everything so far, after each clip."""
    torch.set_num_threads(options.threads)
    facts = machine.facts(torch.device("cpu"))
    command.prepare("cpu")
    from tools.bench.harness.long_world import LongWorld

    world, started = LongWorld(options.steps), time.perf_counter()
    rows: list[dict[str, Any]] = []
    folder = options.out.parent / "drift_sheets"
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(options.seeds):
        for scene in options.scenes:
            strips = []
            for way, inputs in WAYS.items():
                run = world.sample(scene, seed, options.chunks, window=options.window, **inputs)
                frames = world.decode(run.latents)
                chunks = drift_measures.by_chunk(frames, scene, options.chunks, CHUNK)
                rows.append(
                    {"way": way, "prompt": scene.text, "seed": seed, "seconds": round(run.seconds, 2), "chunks": chunks}
                )
                command.say(f"{scene.text}, seed {seed}, {way}: {run.seconds:.0f} s")
                strips.append(drift_measures.sheet(frames, [_last_frame(c) for c in SHOWN if c <= options.chunks]))
            Image.fromarray(np.concatenate(strips)).save(folder / f"{scene.name}_{seed}.png")
            yield {
                "format": "motioncache_drift",
                "version": 1,
                "machine": facts,
                "steps": options.steps,
                "window": options.window,
                "chunk_frames": CHUNK,
                "rows": rows,
                "seconds_in_all": round(time.perf_counter() - started, 1),
            }


def _last_frame(chunk: int) -> int:
    return drift_measures.chunk_frames(chunk, CHUNK)[-1].stop - 1 if chunk else 0


def text(result: dict[str, Any]) -> str:
    """The result for a person, as Markdown."""
    rows, facts = result["rows"], result["machine"]
    clips = {(row["prompt"], row["seed"]) for row in rows}
    return "\n".join(
        [
            f"{len(clips)} clips of {len(rows[0]['chunks'])} chunks, {result['steps']} steps, window of "
            f"{result['window']} frames, overlap 17, on a model that was trained on 97 frames (5 chunks). Means over "
            f"the clips. {facts['processor']}, {facts['threads']} threads, PyTorch "
            f"{facts['torch']}, {result['seconds_in_all']:.0f} s.",
            "",
            drift_measures.comparison(rows),
            "",
        ]
    )


def plot(rows: list[dict[str, Any]]) -> np.ndarray:
    """A small plot for each measure, two by two."""
    pictures = []
    for name in PLOTTED:
        share = name in drift_measures.MEASURES
        series = {}
        for way in drift_measures.ways(rows):
            curve = drift_measures.mean_curve(rows, way, name)
            series[way] = [(number + 1, value * (100 if share else 1)) for number, value in enumerate(curve)]
        pictures.append(
            line_plot(
                series,
                title=name if name == drift_measures.BACKGROUND else f"{name} of the background, off the truth",
                x_label="chunk",
                y_label="%" if share else "dB",
                size=(560, 380),
            )
        )
    return np.concatenate([np.concatenate(pictures[:2], axis=1), np.concatenate(pictures[2:], axis=1)])


if __name__ == "__main__":
    sys.exit(main())
