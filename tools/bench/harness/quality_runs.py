"""The quality benchmark's runs: every variant on every clip, in several processes, one row each.

One process samples all variants of a clip, so that their times can be compared.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.bench.harness import pack
from tools.host.torchvision_ops import declare_missing_ops
from tools.tinyworld import parallel
from tools.tinyworld.dataset import held_out, known_pairs, known_scenes
from tools.tinyworld.host import import_comfyui
from tools.tinyworld.world import Scene

Row = dict[str, Any]
log = logging.getLogger("tiny_world")


@dataclass(frozen=True)
class Job:
    """A clip to make with every variant.

    Args:
        perceptual: measure the slow perceptual metric too.
    """

    scene: Scene
    seed: int
    steps: int
    ar_step: int
    perceptual: bool


def prompts(count: int) -> list[Scene]:
    """Held-out scenes in which something moves; every fourth has two sprites."""
    alone = [s for s in known_scenes() if held_out(s) and s.sprites[0].motion != "none"]
    two = [s for s in known_pairs() if held_out(s)]
    single = count - count // 4
    chosen = [alone[i * len(alone) // single] for i in range(single)]
    for place in range(count // 4):
        chosen.insert(4 * place + 3, two[place])
    return chosen


def run(
    jobs: list[Job], thresholds: dict[str, tuple[float, ...]], workers: int, work: Path, magi1: Path | None = None
) -> list[Row]:
    """All rows of all jobs; what every process has finished is kept in ``work`` on the way.

    Args:
        magi1: file of a tiny MAGI-1 to sample; ``None``: the shipped model.
    """
    work.mkdir(parents=True, exist_ok=True)
    parallel.run(workers, _share, jobs, thresholds, work, magi1)
    return [row for rank in range(workers) for row in json.loads(_part(work, rank).read_text(encoding="utf-8"))]


def _share(
    rank: int, jobs: list[Job], thresholds: dict[str, tuple[float, ...]], work: Path, magi1: Path | None
) -> None:
    declare_missing_ops()
    import_comfyui()
    pack.load()
    from tools.bench.harness import quality_magi1, quality_variants
    from tools.bench.harness.tiny_world_runs import TinyWorld

    logging.getLogger("motioncache").setLevel(logging.WARNING)
    world = TinyWorld() if magi1 is None else quality_magi1.TinyMagi1World(magi1)
    variants = (quality_variants if magi1 is None else quality_magi1).variants(thresholds)
    rows: list[Row] = []
    began, mine = time.monotonic(), jobs[rank :: parallel.workers()]
    for done, job in enumerate(mine, 1):
        rows += clip_rows(world, job, variants)
        _part(work, rank).write_text(json.dumps(rows), encoding="utf-8")
        if rank == 0:
            log.info("%d of %d clips of this process, %.0f s", done, len(mine), time.monotonic() - began)


def clip_rows(world: Any, job: Job, variants: Sequence[Any]) -> list[Row]:
    """One row a variant.

    Args:
        world: a ``TinyWorld`` or ``TinyMagi1World``.
        variants: its ``quality_variants.Variant``s, uncached ones first.
    """
    from tools.bench.harness import quality_measures as measures
    from tools.bench.harness.quality_variants import VANILLA

    judge = measures.make_perceptual(24.0) if job.perceptual else None
    frames: dict[str, Any] = {}
    plain: dict[str, Row] = {}
    rows = []
    for variant in variants:
        made = world.sample(job.scene, job.seed, job.steps, job.ar_step, variant.how)
        shown = world.decode(made.latents)
        summary = made.report["summary"]
        row = {
            "variant": variant.name, "series": variant.series, "baseline": variant.baseline,
            "threshold": variant.threshold, "text": job.scene.text, "seed": job.seed, "seconds": made.seconds,
            "flops": summary["flops"], "token_forwards": summary["token_forwards"],
            "branch_steps": summary["branch_steps"], **measures.shows(shown, job.scene),
        }  # fmt: skip
        if variant.name == variant.baseline:
            frames[variant.name], plain[variant.name] = shown, row
        if variant.name == VANILLA:
            where = measures.regions(shown, job.scene)
            row["moving_share"] = float(where[measures.MOVING].float().mean())
        row["computed_fraction"] = row["token_forwards"] / plain[variant.baseline]["token_forwards"]
        row["flops_of_vanilla"] = row["flops"] / plain[VANILLA]["flops"]
        row["speed_up"] = plain[VANILLA]["seconds"] / row["seconds"]
        if variant.name != VANILLA:
            row["vanilla"] = measures.compare(shown, frames[VANILLA], where, judge)
        if variant.name != variant.baseline:
            same = variant.baseline == VANILLA
            row["own"] = row["vanilla"] if same else measures.compare(shown, frames[variant.baseline], where, judge)
        rows.append(row)
        log.debug("%s", row)
    return rows


def _part(work: Path, rank: int) -> Path:
    return work / f"quality_{rank}.json"
