"""The quality benchmark on the tiny MAGI-1: its model, and ways to sample it without a cache and with caches.

``tools.bench.harness.pack.load`` comes before this module.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from motioncache.motioncache_core.config import Magi1CacheConfig
from motioncache.motioncache_core.presets import MAGI1_PRESETS
from motioncache.nodes.host.model_support import attach_config
from torch import Tensor

from tools.host.environment import REPO
from tools.tinyworld.magi1_evaluate import TinyMagi1
from tools.tinyworld.world import Scene

from .quality_table import CHUNK, CHUNK_STRETCHED, TOKEN, TOKEN_STRETCHED
from .quality_variants import REFRESH, Variant
from .tiny_world_runs import CHUNK_WISE, VANILLA, Run

TOGETHER = "vanilla (window together)"
"""The original's sampling: the staged window, finished chunks passed once more, clean; block-causal."""
WARM_UP = 1
"""Steps that every cache computes before it may reuse anything; the published 5 of 64 would be 1 of 16."""
_CHUNK = Magi1CacheConfig(granularity="chunk", warmup_steps=WARM_UP)
_TOKEN = Magi1CacheConfig(warmup_steps=WARM_UP, chunk_phase_updates=3, motion_floor=0.4)
CONFIGS = {
    CHUNK: _CHUNK,
    TOKEN: _TOKEN,
    CHUNK_STRETCHED: _CHUNK.with_changes(rescale_residual=True),
    TOKEN_STRETCHED: _TOKEN.with_changes(rescale_residual=True),
}
"""Stretched: what is reused takes the length of the present step; the method repeats it as it was, and steps grow. So
without it a chunk that is reused early lags behind, its distances stay small, and it is reused to the end: thresholds
must be far lower."""
THRESHOLDS: dict[str, tuple[float, ...]] = {
    CHUNK: (0.01, 0.02, 0.03, 0.04),
    TOKEN: (0.01, 0.018, 0.026, 0.034),
    CHUNK_STRETCHED: (0.03, 0.1, 0.2, 0.3),
    TOKEN_STRETCHED: (0.03, 0.1, 0.2, 0.3),
}


PRESETS = {
    "preset (scaled)": MAGI1_PRESETS["MotionCache (scaled to the steps)"],
    "preset (stretched)": MAGI1_PRESETS["MotionCache, reuse stretched to the step (tiny world)"],
}
"""Rows for settings as an artist finds them on the node."""


@dataclass(frozen=True)
class Sampling:
    """How a run samples.

    Args:
        attention, clean_refresh: inputs of the sampler node.
        cache: what the MotionCache node would hang on the MODEL, ``None`` for none.
    """

    attention: str = CHUNK_WISE
    clean_refresh: bool = False
    cache: Magi1CacheConfig | None = None


class TinyMagi1World:
    """The trained model and the world's autoencoder, loaded once. ``file``: what its training wrote."""

    def __init__(self, file: Path):
        self.tiny = TinyMagi1(file, next((REPO / "tiny_world" / "vae").glob("*.safetensors")))

    def sample(self, scene: Scene, seed: int, steps: int, ar_step: int, how: Sampling) -> Run:
        """Make a scene's video once. ``ar_step`` is not used: chunks of MAGI-1 stay a stage behind each other."""
        model = self.tiny.model
        if how.cache is not None:
            model = model.clone()
            attach_config(model, how.cache)
        inputs: dict[str, Any] = {"attention": how.attention, "clean_refresh": how.clean_refresh}
        started = time.perf_counter()
        latents, report = self.tiny.sample(scene, seed, steps, model, **inputs)
        return Run(latents, time.perf_counter() - started, report)

    def decode(self, latents: Tensor) -> Tensor:
        """``[1, 16, F, h, w]`` -> frames ``[1 + 4 (F - 1), 8 h, 8 w, 3]`` in 0..1."""
        return torch.from_numpy(self.tiny.decode(latents))


def variants(thresholds: dict[str, tuple[float, ...]]) -> list[Variant]:
    """All rows; those without a cache come first. Caches run without clean refresh, as the method does; the presets
    also with it, as the node does by default.

    Args:
        thresholds: in place of :data:`THRESHOLDS`; those of other caches are left out.
    """
    plain = {
        VANILLA: Sampling(TOGETHER, clean_refresh=True),
        REFRESH: Sampling(clean_refresh=True),
        CHUNK_WISE: Sampling(),
    }
    rows = [Variant(name, name, name, how) for name, how in plain.items()]
    for series, config in CONFIGS.items():
        for threshold in {**THRESHOLDS, **thresholds}[series]:
            own = config.with_changes(chunk_threshold=threshold, token_threshold=threshold)
            rows.append(Variant(f"{series}, {threshold:g}", series, CHUNK_WISE, Sampling(cache=own), threshold))
    for name, config in PRESETS.items():
        rows.append(Variant(name, name, CHUNK_WISE, Sampling(cache=config)))
        refreshed = f"{name}, clean refresh"
        rows.append(Variant(refreshed, refreshed, REFRESH, Sampling(clean_refresh=True, cache=config)))
    return rows
