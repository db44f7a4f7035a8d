"""Does the cache see what moves? Motion weights as published and from the clean prediction, against the truth.

Uncached runs of the tiny world's trained prompts. Told by step: how well the weights tell tokens of a moving sprite
from the others (area under the curve: 0.5 is chance, 1 perfect), and how well they rank the tokens by what the next
step changes in their residual, which is what a reused token misses (Spearman's rank correlation). The picture shows the
weights of one chunk.
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
from PIL import Image
from scipy.stats import rankdata, spearmanr

from tools.bench.harness import pack, table
from tools.host.environment import REPO
from tools.tinyworld.dataset import held_out, known_scenes, pool_coverage
from tools.tinyworld.host import import_comfyui
from tools.tinyworld.world import Scene

SOURCES = ("published", "clean prediction")
STEPS, AR_STEP, CHUNK_FRAMES = 20, 5, 5
SHOWN_CHUNK, SHOWN_STEPS = 2, (3, 9, 15)
Found = dict[int, dict[str, list[float]]]
"""Step -> measure -> values of all roles and chunks."""


def main(given: list[str] | None = None) -> int:
    """Measure, print the table, draw the picture, write the JSON."""
    parser = argparse.ArgumentParser(prog="dev.py bench motion_source", description=__doc__)
    parser.add_argument("--prompts", type=int, default=4, help="trained prompts, two runs each (%(default)s)")
    parser.add_argument("--out", type=Path, default=REPO / "build/bench/motion_source.json")
    options = parser.parse_args(given)
    found, picture = measure(options.prompts)
    rows = {step: {name: statistics.median(values) for name, values in found[step].items()} for step in sorted(found)}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    picture.save(options.out.with_suffix(".png"))
    names = [f"{what}, {source}" for what in ("finds what moves", "ranks what changes") for source in SOURCES]
    print(table.lines(("step", *names), [[str(step), *(f"{row[n]:.2f}" for n in names)] for step, row in rows.items()]))
    print(options.out.with_suffix(".png").resolve())
    return 0


def measure(prompts: int) -> tuple[Found, Image.Image]:
    """What the runs told, and the picture of the first one."""
    import_comfyui()
    pack.load()
    from motioncache.nodes.host import session

    from tools.bench.harness.quality_measures import MOVING, regions
    from tools.bench.harness.recording import COMPUTE_ALL, RecordingPolicy
    from tools.bench.harness.tiny_world_runs import Sampling, TinyWorld

    torch.set_num_threads(1)
    world, found, picture = TinyWorld(), defaultdict(lambda: defaultdict(list)), None
    for number, scene in enumerate(moving_scenes(prompts)):
        policies = {}
        for source in SOURCES:
            policies[source] = policy = RecordingPolicy(source)
            with pack.handed_in(session, SkyReelsV2Policy=lambda config, policy=policy: policy):
                run = world.sample(scene, number, STEPS, AR_STEP, Sampling(cache=COMPUTE_ALL))
        frames = world.decode(run.latents)
        moving = torch.nn.functional.max_pool2d(pool_coverage(regions(frames, scene)[MOVING].float()), 2)
        add(found, policies, moving)
        picture = picture or draw(frames, policies)
        print(f"{number + 1} of {prompts} prompts", file=sys.stderr, flush=True)
    return found, picture


def moving_scenes(count: int) -> list[Scene]:
    """Trained scenes with a sprite that moves, spread over the list."""
    scenes = [s for s in known_scenes() if not held_out(s) and s.sprites[0].motion != "none"]
    return [scenes[i * len(scenes) // count] for i in range(count)]


def add(found: Found, policies: dict[str, Any], moving: torch.Tensor) -> None:
    """Take up a scene.

    Args:
        moving: ``[F, h, w]`` share of each token that a moving sprite covers at some time.
    """
    renewed = policies["published"].renewed
    for source, policy in policies.items():
        for (role, chunk, step), weights in policy.motion.items():
            truth = moving[chunk * CHUNK_FRAMES : (chunk + 1) * CHUNK_FRAMES].flatten() > 0.5
            found[step][f"finds what moves, {source}"].append(area_under_curve(weights.numpy(), truth.numpy()))
            if (role, chunk, step + 1) in renewed:
                rank = spearmanr(weights.numpy(), renewed[role, chunk, step + 1].numpy()).statistic
                found[step][f"ranks what changes, {source}"].append(float(rank))
    if STEPS - 1 in found:
        for source in SOURCES:  # nothing comes after the last step
            found[STEPS - 1].setdefault(f"ranks what changes, {source}", [float("nan")])


def area_under_curve(scores: np.ndarray, truth: np.ndarray) -> float:
    """Chance that a true place scores higher than another, ties half; NaN if all places are alike."""
    positive, negative = int(truth.sum()), int((~truth).sum())
    if not positive or not negative:
        return float("nan")
    return float((rankdata(scores)[truth].sum() - positive * (positive + 1) / 2) / (positive * negative))


def draw(frames: torch.Tensor, policies: dict[str, Any]) -> Image.Image:
    """A row of a chunk's frames, then for each source and some steps the weights of its first branch, white = 1."""
    first = SHOWN_CHUNK * CHUNK_FRAMES
    rows = [frames[4 * (first + i) - 1] for i in range(CHUNK_FRAMES)]
    lines = [torch.cat(rows, dim=1)]
    side = frames.shape[1]
    for policy in policies.values():
        role = next(iter(policy.motion))[0]
        for step in SHOWN_STEPS:
            weights = policy.motion[role, SHOWN_CHUNK, step].view(CHUNK_FRAMES, -1)
            edge = round(weights.shape[1] ** 0.5)
            maps = weights.view(CHUNK_FRAMES, edge, edge).repeat_interleave(side // edge, 1)
            maps = maps.repeat_interleave(side // edge, 2)
            lines.append(torch.cat(list(maps), dim=1)[..., None].expand(-1, -1, 3))
    return Image.fromarray((torch.cat(lines) * 255).round().byte().numpy())


if __name__ == "__main__":
    sys.exit(main())
