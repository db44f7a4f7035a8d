"""What the quality benchmark compares: ways to sample without a cache, and caches at several thresholds on them.

``tools.bench.harness.pack.load`` comes before this module.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from motioncache.motioncache_core.presets import PRESETS

from .quality_table import CHUNK, SERIES, STEP, STOCK, TOKEN
from .tiny_world_runs import CHUNK_WISE, VANILLA, Sampling

TOGETHER = "vanilla block-causal, chunks at once"
REFRESH = "chunk-wise, clean refresh"

BALANCED = PRESETS["balanced (measured on the tiny world, 20 steps)"]
"""What all caches share: warm-up and the calibrated distance."""
TOKENS_PART_AT = 0.6
"""Distance that a chunk covers before its tokens part; chosen on trained prompts."""
THRESHOLDS: dict[str, tuple[float, ...]] = {
    STEP: (0.1, 0.15, 0.25, 0.35),
    STOCK: (0.1, 0.2, 0.4),
    CHUNK: (0.1, 0.15, 0.25, 0.4),
    TOKEN: (0.1, 0.15, 0.25, 0.4),
}
GRANULARITIES = {STEP: "step", CHUNK: "chunk", TOKEN: "token"}


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
        config = BALANCED.with_changes(
            granularity=GRANULARITIES[series],
            chunk_threshold=threshold,
            token_threshold=threshold,
            chunk_phase_updates=math.ceil(TOKENS_PART_AT / threshold) if threshold > 0 else 0,
        )
        attention = VANILLA if series == STEP else CHUNK_WISE
        yield Variant(name, series, attention, Sampling(attention, cache=config), threshold)
