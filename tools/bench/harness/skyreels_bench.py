"""SkyReels-V2's variants, measured in alternating rounds, and what deciding costs with the live policy.

``tools.bench.harness.pack.load`` comes before this module.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from motioncache.motioncache_core.config import CacheConfig
from motioncache.motioncache_core.models.skyreels_v2.policy import SkyReelsV2Policy

from .machine import OthersMeter
from .pattern import make_pattern
from .policies import ReplayedPolicy, TimedPolicy
from .rounds import Spread, alternate, speed_up
from .skyreels_runs import Measured, Sampling, Scene, sample, synchroniser

VANILLA, CHUNK_WISE, REFRESH = "vanilla", "chunk-wise", "chunk-wise, clean refresh"

RELATIVE_CHANGE = (1.0, 0.0)
"""Polynomial that leaves the time embedding's change as it is; the published one means nothing on random weights."""

ALWAYS_TOKENS = CacheConfig(
    warmup_steps=0, chunk_phase_updates=1, chunk_threshold=0.0, distance_coefficients=RELATIVE_CHANGE
)
"""Token phase from the third step on: under a replayed pattern the policy does all that it ever does."""

THRESHOLD_IN_DISTANCES = 1.5
"""Threshold of the live policy, as a multiple of the median distance of a step: some steps reuse, some compute."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Variant:
    """A way to sample.

    Args:
        sampling: inputs of the nodes.
        make_policy: new policy for a run, ``None`` for none.
    """

    sampling: Sampling
    make_policy: Callable[[], SkyReelsV2Policy] | None = None


def variants(scene: Scene, fractions: Sequence[float]) -> dict[str, Variant]:
    """Name -> variant. Raises ValueError for a fraction that the scene's steps cannot reach."""
    named = {
        VANILLA: Variant(Sampling("vanilla full")),
        CHUNK_WISE: Variant(Sampling()),
        REFRESH: Variant(Sampling(clean_refresh=True)),
    }
    for fraction in fractions:
        make_policy = partial(ReplayedPolicy, ALWAYS_TOKENS, make_pattern(fraction, scene.steps), scene.grid)
        named[f"MotionCache, {fraction:g} computed"] = Variant(Sampling(cache=ALWAYS_TOKENS), make_policy)
    return named


def compare(
    model: Any,
    prompts: tuple[Any, Any],
    scene: Scene,
    fractions: Sequence[float],
    pairs: int,
    meter: OthersMeter,
    say: Say,
) -> Iterator[list[dict[str, Any]]]:
    """Every variant ``pairs`` times; after each round one row a variant, ready for a table or JSON."""
    named = variants(scene, fractions)
    runs: dict[str, list[Measured]] = {name: [] for name in named}

    def measure(name: str, round_index: int) -> float:
        variant = named[name]
        policy = variant.make_policy() if variant.make_policy else None
        with meter:
            run = sample(model, prompts, scene, variant.sampling, policy)
        say(f"round {round_index + 1} of {pairs}: {name}: {run.seconds:.2f} s")
        runs[name].append(run)
        if pairs > 1 and sum(map(len, runs.values())) == len(named):
            say(f"about {(pairs - 1) * sum(r.seconds for (r,) in runs.values()):.0f} s to go")
        return run.seconds

    for seconds in alternate(list(named), pairs, measure):
        yield [_row(name, runs, seconds) for name in named]


def _row(name: str, runs: dict[str, list[Measured]], seconds: dict[str, list[float]]) -> dict[str, Any]:
    run, chunk_wise = runs[name][0], runs[CHUNK_WISE][0]
    peaks = [r.peak_bytes for r in runs[name] if r.peak_bytes is not None]
    faster, ratio = speed_up(seconds[name], seconds[CHUNK_WISE]), chunk_wise.summary["flops"] / run.summary["flops"]
    return {
        "variant": name,
        "reuses": name not in (VANILLA, CHUNK_WISE, REFRESH),
        "computed_fraction": run.summary["computed_fraction"],
        "branch_steps": run.summary["branch_steps"],
        "token_forwards": run.summary["token_forwards"] + run.summary["token_forwards_context_and_refresh"],
        "flops": run.summary["flops"],
        "model_calls": run.summary["model_calls"],
        "seconds": asdict(Spread.of(seconds[name])),
        "seconds_by_round": seconds[name],
        "cpu_seconds_by_round": [r.cpu_seconds for r in runs[name]],
        "flops_ratio_to_chunk_wise": ratio,
        "speed_up_over_chunk_wise": asdict(faster),
        "speed_up_of_flops_ratio": faster.median / ratio,
        "speed_up_over_vanilla": asdict(speed_up(seconds[name], seconds[VANILLA])),
        "peak_bytes": int(statistics.median(peaks)) if peaks else None,
        "kv_bytes": run.kv_bytes,
    }


def deciding(
    model: Any, prompts: tuple[Any, Any], scene: Scene, distance: str, repeats: int, meter: OthersMeter, say: Say
) -> dict[str, Any]:
    """Share of a run that the live policy takes to decide.

    A first run of one chunk, not counted, finds out how large a step's distance is on these weights; the threshold
    follows from it.
    """
    wait = synchroniser(model.load_device)
    config = ALWAYS_TOKENS.with_changes(distance=distance, min_update_ratio=0.1)
    first = sample(model, prompts, replace(scene, chunks=1, ar_step=0), Sampling(cache=config))
    distances = [b["distance"] for b in first.branches if b["distance"] is not None]
    threshold = THRESHOLD_IN_DISTANCES * statistics.median(distances)
    config = config.with_changes(chunk_threshold=threshold, token_threshold=threshold)
    shares, runs = [], []
    for repeat in range(repeats):
        policy = TimedPolicy(config, wait)
        with meter:
            run = sample(model, prompts, scene, Sampling(cache=config), policy)
        shares.append(policy.seconds / run.seconds)
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
