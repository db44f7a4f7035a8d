"""Named settings of the cache, by model family.

Source of the published values: MotionCache, arXiv 2605.01725, and the settings its scripts use; FlowCache (arXiv
2602.10825) for the chunk rule, TeaCache (arXiv 2411.19108) for the step rule.
"""

from __future__ import annotations

from dataclasses import replace

from .config import CacheConfig, Magi1CacheConfig

TINY_WORLD_DISTANCES = (
    (999, 0), (989, 0.101), (978, 0.198), (965, 0.287), (952, 0.382), (937, 0.455), (920, 0.539), (902, 0.627),
    (882, 0.7), (859, 0.775), (833, 0.835), (803, 0.91), (768, 0.98), (728, 1.05), (681, 1.13), (624, 1.19),
    (555, 1.284), (468, 1.384), (356, 1.542), (208, 1.791),
)  # fmt: skip
"""Accumulated change of the residual of the tiny world's model by timestep, 20 steps, measured on trained prompts by
`python dev.py bench calibrate`."""
TINY_WORLD_WIDTH = 256
"""Channels of a token of that model, by which it is told from others."""

_TINY_WORLD = CacheConfig(
    warmup_steps=2,
    chunk_phase_updates=4,
    chunk_threshold=0.15,
    token_threshold=0.15,
    motion_floor=0.5,
    distance="table",
    distance_table=TINY_WORLD_DISTANCES,
    motion_source="clean prediction",
    vote=None,
    min_update_ratio=0.0,
)

PRESETS: dict[str, CacheConfig] = {
    "MotionCache (published SkyReels-V2 settings)": CacheConfig(),
    "chunk-level only (FlowCache's rule)": CacheConfig(granularity="chunk", min_update_ratio=0.0, vote=None),
    "step-level (TeaCache's rule, vanilla sampling)": CacheConfig(
        granularity="step", warmup_steps=1, chunk_phase_updates=0, min_update_ratio=0.0, vote=None
    ),
    "off": CacheConfig(granularity="off"),
    "quality (measured on the tiny world, 20 steps)": replace(
        _TINY_WORLD, chunk_phase_updates=6, chunk_threshold=0.1, token_threshold=0.1
    ),
    "balanced (measured on the tiny world, 20 steps)": _TINY_WORLD,
    "fast (measured on the tiny world, 20 steps)": replace(
        _TINY_WORLD, chunk_phase_updates=3, chunk_threshold=0.25, token_threshold=0.25
    ),
}
"""Named starting points. The first is published for the 1.3B model with 50 steps, then come the peers' rules. The last
three were measured on the tiny world; their distances hold for that model alone."""

_PUBLISHED_MAGI1_STEPS = 64

MAGI1_PRESETS: dict[str, CacheConfig] = {
    "MotionCache (scaled to the steps)": Magi1CacheConfig(made_for_steps=_PUBLISHED_MAGI1_STEPS),
    "MotionCache (published MAGI-1 settings, 64 steps)": Magi1CacheConfig(),
    "chunk-level only (FlowCache's rule, scaled to the steps)": Magi1CacheConfig(
        granularity="chunk", made_for_steps=_PUBLISHED_MAGI1_STEPS
    ),
    "off": Magi1CacheConfig(granularity="off"),
    "MotionCache, reuse stretched to the step (tiny world)": Magi1CacheConfig(
        warmup_steps=1,
        chunk_phase_updates=3,
        chunk_threshold=0.1,
        token_threshold=0.1,
        motion_floor=0.4,
        rescale_residual=True,
        made_for_steps=16,
    ),
}
"""For MAGI-1. Published for 64 steps; unscaled, runs of up to 25 steps never reach the token phase. The last one was
chosen on the tiny MAGI-1 of the tiny world with 16 steps."""

PRESETS_OF_FAMILY: dict[str, dict[str, CacheConfig]] = {"skyreels_v2": PRESETS, "magi1": MAGI1_PRESETS}
"""By the name of the family that plans carry."""
