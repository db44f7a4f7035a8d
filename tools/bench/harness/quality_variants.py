"""What the quality benchmark compares: ways to sample without a cache, and caches at several thresholds on them.

``tools.bench.harness.pack.load`` comes before this module.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from motioncache.motioncache_core.config import CacheConfig

from .quality_table import CHUNK, SERIES, STEP, STOCK, TOKEN
from .tiny_world_runs import CHUNK_WISE, VANILLA, Sampling

TOGETHER = "vanilla block-causal, chunks at once"
REFRESH = "chunk-wise, clean refresh"

WARM_UP = 2
"""Steps that every cache computes before it may reuse anything; the published 4 of 50 would be 1 or 2 of 20."""

STEP_CONFIG = CacheConfig(
    granularity="step", warmup_steps=WARM_UP, distance="patch embedding", min_update_ratio=0.0, vote=None
)
CHUNK_CONFIG = CacheConfig(
    granularity="chunk", warmup_steps=WARM_UP, distance="patch embedding", min_update_ratio=0.0, vote=None
)
TOKEN_CONFIG = CacheConfig(
    granularity="token", warmup_steps=WARM_UP, chunk_phase_updates=1, motion_floor=0.4, distance="patch embedding",
    min_update_ratio=0.0, vote=None,
)  # fmt: skip
THRESHOLDS: dict[str, tuple[float, ...]] = {
    STEP: (0.05, 0.1, 0.15, 0.25),
    STOCK: (0.05, 0.1, 0.2),
    CHUNK: (0.08, 0.14, 0.2, 0.3),
    TOKEN: (0.08, 0.14, 0.2, 0.3),
}


@dataclass(frozen=True)
class Variant:
    """One row of the table.

    Args:
        name: of the row.
        series: whose curve it lies on.
        baseline: name of the uncached row that samples in the same way.
        how: it samples.
        threshold: of the cache, ``None`` without one.
    """

    name: str
    series: str
    baseline: str
    how: Sampling
    threshold: float | None = None


def variants(thresholds: dict[str, tuple[float, ...]]) -> list[Variant]:
    """All rows; those without a cache come first.

    Args:
        thresholds: of a cache, in place of its :data:`THRESHOLDS`.
    """
    thresholds = {**THRESHOLDS, **thresholds}
    plain = {
        VANILLA: Sampling(VANILLA),
        TOGETHER: Sampling(VANILLA, together=True),
        REFRESH: Sampling(clean_refresh=True),
        CHUNK_WISE: Sampling(),
    }
    rows = [Variant(name, name, name, how) for name, how in plain.items()]
    return rows + [row for series in SERIES for row in _caches(series, thresholds[series])]


def _caches(series: str, thresholds: tuple[float, ...]) -> Iterator[Variant]:
    for threshold in thresholds:
        name = f"{series}, {threshold:g}"
        if series == STOCK:
            # The node follows one noise level that falls over the whole clip; the sampler refuses it otherwise.
            yield Variant(name, series, TOGETHER, Sampling(VANILLA, together=True, easycache=threshold), threshold)
            continue
        config = {STEP: STEP_CONFIG, CHUNK: CHUNK_CONFIG, TOKEN: TOKEN_CONFIG}[series]
        config = config.with_changes(chunk_threshold=threshold, token_threshold=threshold)
        attention = VANILLA if series == STEP else CHUNK_WISE
        yield Variant(name, series, attention, Sampling(attention, cache=config), threshold)
