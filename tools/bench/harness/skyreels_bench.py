"""SkyReels-V2's variants, and what deciding costs with the live policy.

``tools.bench.harness.pack.load`` comes before this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from motioncache.motioncache_core.config import CacheConfig

from . import compare
from .compare import CHUNK_WISE, REFRESH, VANILLA, Say, Variant
from .machine import OthersMeter
from .measured import Measured, Stopwatch, synchroniser
from .pattern import make_pattern
from .policies import ReplayedPolicy, TimedPolicy
from .skyreels_runs import Sampling, Scene, sample

RELATIVE_CHANGE = (1.0, 0.0)
"""Polynomial that leaves the time embedding's change as it is; the published one means nothing on random weights."""

ALWAYS_TOKENS = CacheConfig(
    warmup_steps=0, chunk_phase_updates=1, chunk_threshold=0.0, distance_coefficients=RELATIVE_CHANGE
)
"""Token phase from the third step on: under a replayed pattern the policy does all that it ever does."""


def variants(model: Any, prompts: tuple[Any, Any], scene: Scene, fractions: Sequence[float]) -> dict[str, Variant]:
    """Name -> variant. Raises ValueError for a fraction that the scene's steps cannot reach."""
    run = partial(sample, model, prompts, scene)
    named = {
        VANILLA: Variant(partial(run, Sampling("vanilla full"))),
        CHUNK_WISE: Variant(partial(run, Sampling())),
        REFRESH: Variant(partial(run, Sampling(clean_refresh=True))),
    }
    for fraction in fractions:
        pattern = make_pattern(fraction, scene.steps)

        def replayed(pattern=pattern) -> Measured:  # noqa: ANN001 - bound to this turn of the loop
            return run(Sampling(cache=ALWAYS_TOKENS), ReplayedPolicy(ALWAYS_TOKENS, pattern, scene.grid))

        named[f"MotionCache, {fraction:g} computed"] = Variant(replayed, reuses=True)
    return named


def deciding(
    model: Any, prompts: tuple[Any, Any], scene: Scene, distance: str, repeats: int, meter: OthersMeter, say: Say
) -> dict[str, Any]:
    """Share of a run that the live policy takes to decide, see :func:`.compare.deciding`."""
    config = ALWAYS_TOKENS.with_changes(distance=distance, min_update_ratio=0.1)
    first = sample(model, prompts, replace(scene, chunks=1, ar_step=0), Sampling(cache=config))

    def live(threshold: float, watch: Stopwatch) -> Measured:
        own = config.with_changes(chunk_threshold=threshold, token_threshold=threshold)
        return sample(model, prompts, scene, Sampling(cache=own), TimedPolicy(own, watch))

    watch = partial(Stopwatch, synchroniser(model.load_device))
    return compare.deciding(distance, first, live, watch, repeats, meter, say)
