"""What an artist can set: a frozen, validated configuration of the cache.

Source of the defaults: MotionCache, arXiv 2605.01725, and the settings its SkyReels-V2 and MAGI-1 scripts use.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

Granularity = Literal["off", "step", "chunk", "token"]
Distance = Literal["time embedding", "table", "patch embedding"]
WeightNorm = Literal["min-max", "mean", "max"]
MotionSource = Literal["published", "clean prediction"]

SKYREELS_1_3B_COEFFICIENTS = (-5.21862437e04, 9.23041404e03, -5.28275948e02, 1.36987616e01, -4.99875664e-02)
SKYREELS_14B_COEFFICIENTS = (-3.03318725e05, 4.90537029e04, -2.65530556e03, 5.87365115e01, -3.15583525e-01)


class ConfigError(ValueError):
    """A setting has an illegal value; the message names it, the value and the nearest legal value."""


@dataclass(frozen=True)
class CacheConfig:
    """Every knob of the method. Distances and thresholds are relative changes, without unit.

    Args:
        granularity: what is decided as one: nothing (``off``), the whole window (``step``, over vanilla sampling),
            a chunk (``chunk``), or tokens after the chunk phase (``token``).
        warmup_steps: steps of a chunk that are computed fully before it may reuse anything.
        chunk_phase_updates: computed steps that a chunk, as a whole, makes after warm-up before its tokens part.
        chunk_threshold: accumulated distance at which a whole chunk (or window) is recomputed. <= 0: every step.
        token_threshold: accumulated weighted distance at which a token is recomputed. <= 0: every step.
        motion_floor: weight of a still token, between 0 and 1; 1 makes all tokens alike (``min-max`` only).
        motion_power: exponent of the normalised motion; above 1 only strong motion counts (``min-max`` only).
        distance: what measures a step's change: polynomial of the time embedding's relative change, a table over
            timesteps, or the relative change of the chunk's patch embedding (any weights).
        distance_coefficients: polynomial for ``time embedding``, highest power first; ``None``: the one of the
            loaded model's size, where there is one.
        distance_table: for ``table``: (timestep, accumulated distance) pairs; a step's distance is the difference
            of the interpolated values.
        motion_source: what is compared between frames: as published (SkyReels-V2: the hidden state after the blocks,
            MAGI-1: the latents, both with their noise), or a branch's prediction of the clean latents.
        weight_norm: how inter-frame differences become weights, per frame.
        vote: a position is recomputed in all frames of a chunk if more than this share of them needs it (0 to 0.99);
            ``None`` decides every frame by itself.
        min_update_ratio: if less than this share of tokens needs work, all wait (their distance is kept).
        max_reuse_ratio: at most this share of tokens is reused in one step of the token phase.
    """

    granularity: Granularity = "token"
    warmup_steps: int = 4
    chunk_phase_updates: int = 6
    chunk_threshold: float = 0.1
    token_threshold: float = 0.1
    motion_floor: float = 0.6
    motion_power: float = 1.0
    distance: Distance = "time embedding"
    distance_coefficients: tuple[float, ...] | None = None
    distance_table: tuple[tuple[float, float], ...] | None = None
    motion_source: MotionSource = "published"
    weight_norm: WeightNorm = "min-max"
    vote: float | None = 0.5
    min_update_ratio: float = 0.4
    max_reuse_ratio: float = 1.0

    def __post_init__(self) -> None:
        _one_of("granularity", self.granularity, get_args(Granularity))
        _one_of("distance", self.distance, get_args(Distance))
        _one_of("motion_source", self.motion_source, get_args(MotionSource))
        _one_of("weight_norm", self.weight_norm, get_args(WeightNorm))
        _whole("warmup_steps", self.warmup_steps, 0)
        _whole("chunk_phase_updates", self.chunk_phase_updates, 0)
        _within("chunk_threshold", self.chunk_threshold, -math.inf, math.inf)
        _within("token_threshold", self.token_threshold, -math.inf, math.inf)
        _within("motion_floor", self.motion_floor, 0.0, 1.0)
        _within("motion_power", self.motion_power, 0.05, 20.0)
        _within("min_update_ratio", self.min_update_ratio, 0.0, 1.0)
        _within("max_reuse_ratio", self.max_reuse_ratio, 0.0, 1.0)
        if self.vote is not None:
            # A share of 1 can never be exceeded: no token would be recomputed again.
            _within("vote", self.vote, 0.0, 0.99)
        if self.distance_coefficients is not None and not self.distance_coefficients:
            raise ConfigError("distance_coefficients is empty; give at least one number, highest power first")
        if self.distance == "table":
            _check_table(self.distance_table)

    def with_changes(self, **changes: Any) -> CacheConfig:
        """A validated copy with other values. Raises ConfigError for a name that does not exist."""
        known = {f.name for f in fields(self)}
        for name in changes:
            if name not in known:
                raise ConfigError(f"unknown setting {name!r}; the settings are {', '.join(sorted(known))}")
        return replace(self, **changes)


def _one_of(name: str, value: object, legal: tuple[str, ...]) -> None:
    if value not in legal:
        raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, legal))}")


def _whole(name: str, value: object, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ConfigError(f"{name} is {value!r}; it must be a whole number of at least {low} (nearest: {low})")


def _within(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise ConfigError(f"{name} is {value!r}; it must be a number")
    if not low <= value <= high:
        nearest = min(max(value, low), high)
        raise ConfigError(f"{name} is {value}; it must lie between {low} and {high} (nearest: {nearest})")


def _check_table(table: tuple[tuple[float, float], ...] | None) -> None:
    if table is None or len(table) < 2:
        raise ConfigError("distance is 'table', but distance_table has fewer than 2 (timestep, distance) pairs")
    if len({timestep for timestep, _ in table}) != len(table):
        raise ConfigError("distance_table names a timestep twice; every timestep must occur once")


@dataclass(frozen=True)
class Magi1CacheConfig(CacheConfig):
    """Knobs for MAGI-1, where a chunk decides once a step, above guidance, and all its steps count for the phases.

    The distance is always that of the patch embedding; weights are always made as published, from the latents, and
    normalised by ``min-max``. Of ``vote``, a
    share of frames above which a position is recomputed in all of them; other frames keep their own decision.

    Args:
        chunk_phase_updates: steps, reused ones too, in which a chunk decides as one after warm-up.
        warmup_start: step of a chunk at which its warm-up begins.
        distance_per_token: measure the distance of every token by itself.
        weights_once: keep the motion weights made after a chunk's first step.
        reuse_ramp: share of tokens that may be reused at the beginning and at the end of a chunk's token phase, in
            place of ``max_reuse_ratio``.
        recompute_on_entry: compute everything in the step in which a new chunk enters the window.
        rescale_residual: stretch what is reused to the length of the present step. MAGI-1's steps grow; repeated as it
            was, what is reused lags behind, and the chunk's distances stay small.
        made_for_steps: step count that counts and thresholds are meant for; they are scaled to the run's. ``None``:
            they hold as they are.
    """

    warmup_steps: int = 5
    chunk_phase_updates: int = 20
    chunk_threshold: float = 0.0065
    token_threshold: float = 0.0065
    distance: Distance = "patch embedding"
    vote: float | None = None
    min_update_ratio: float = 0.0
    warmup_start: int = 0
    distance_per_token: bool = False
    weights_once: bool = False
    reuse_ramp: tuple[float, float] | None = None
    recompute_on_entry: bool = False
    rescale_residual: bool = False
    made_for_steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of("granularity", self.granularity, ("off", "chunk", "token"))
        _one_of("distance", self.distance, ("patch embedding",))
        _one_of("motion_source", self.motion_source, ("published",))
        _one_of("weight_norm", self.weight_norm, ("min-max",))
        _whole("warmup_start", self.warmup_start, 0)
        for share in self.reuse_ramp or ():
            _within("reuse_ramp", share, 0.0, 1.0)
        if self.made_for_steps is not None:
            _whole("made_for_steps", self.made_for_steps, 1)

    def for_steps(self, steps: int) -> Magi1CacheConfig:
        """The settings for runs of ``steps`` steps, with counts and thresholds scaled if they are meant for others.

        Fewer steps are longer ones: counts shrink and thresholds grow by the same factor, so that a chunk passes its
        phases at the same times and waits for about the same number of steps. At least one step stays in each phase.
        """
        if self.made_for_steps is None or self.made_for_steps == steps:
            return replace(self, made_for_steps=None)
        factor = steps / self.made_for_steps

        def scaled(count: int) -> int:
            return max(1, round(count * factor)) if count else 0

        return replace(
            self,
            warmup_start=scaled(self.warmup_start),
            warmup_steps=scaled(self.warmup_steps),
            chunk_phase_updates=scaled(self.chunk_phase_updates),
            chunk_threshold=self.chunk_threshold / factor,
            token_threshold=self.token_threshold / factor,
            made_for_steps=None,
        )
