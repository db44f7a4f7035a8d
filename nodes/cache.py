"""The MotionCache node: hangs settings on a MODEL."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args

from comfy_api.latest import io

from ..motioncache_core.config import CacheConfig, ConfigError, Magi1CacheConfig, MotionSource
from ..motioncache_core.models.skyreels_v2.policy import COEFFICIENTS_BY_WIDTH
from ..motioncache_core.presets import PRESETS_OF_FAMILY, TINY_WORLD_DISTANCES, TINY_WORLD_WIDTH
from .host.checked_inputs import wrong_value
from .host.model_support import FAMILY_NAMES, attach_config, family_of, why_not_served
from .host.notify import notify
from .host.versions import advanced, search_aliases

CUSTOM = "custom"
AUTO = "auto (by model)"
DISTANCES = [AUTO, "time embedding", "patch embedding", "table"]
MOTION_SOURCES = list(get_args(MotionSource))
GRANULARITIES = ["token", "chunk", "step", "off"]
PUBLISHED = CacheConfig()
PRESET_NAMES = list(dict.fromkeys(name for presets in PRESETS_OF_FAMILY.values() for name in presets))


class MotionCacheApply(io.ComfyNode):
    """MODEL -> MODEL with cache settings for the Autoregressive sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheApply",
            display_name="MotionCache",
            category="MotionCache",
            **search_aliases("TeaCache", "FlowCache", "token cache", "feature cache", "skip steps", "accelerate"),
            description=(
                "Reuses what did not change: each chunk is recomputed or reused as a whole at first, then token by "
                "token, moving parts more often than still ones. Acts in the Autoregressive and the MAGI-1 sampler."
            ),
            inputs=[
                io.Model.Input("model", tooltip="A SkyReels-V2 diffusion-forcing or a MAGI-1 model."),
                _with_values(
                    io.Combo.Input(
                        "preset",
                        options=[*PRESET_NAMES, CUSTOM],
                        tooltip="Named settings. They set the knobs below; touching a knob makes this 'custom'.",
                    )
                ),
                _count(
                    "warmup_steps",
                    "Steps of every chunk that are always computed, as is the next one. More = safer, slower.",
                ),
                _threshold(
                    "chunk_threshold",
                    "Change a whole chunk may pile up before it is recomputed. Higher = faster, less exact, if "
                    "chunk_phase_updates goes down with it; alone it only makes tokens part later.",
                ),
                _threshold(
                    "token_threshold",
                    "Change a token may pile up before it is recomputed. Higher = faster, softer motion.",
                ),
                _share("motion_floor", "Weight of the stillest token, 0 to 1. Lower = still parts are reused longer."),
                _share(
                    "min_update_ratio",
                    "If less than this share of a chunk needs work, all waits. Higher = fewer small passes.",
                ),
                *map(advanced, _advanced_knobs()),
            ],
            outputs=[io.Model.Output(display_name="MODEL")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls,
        preset: str | None,
        distance: str | None,
        distance_table: str | None,
        granularity: str | None = None,
        weight_norm: str | None = None,
        motion_source: str | None = None,
    ) -> bool | str:
        """Refuse unknown names and a table that cannot be read when the graph is queued."""
        choices = {"granularity": granularity, "weight_norm": weight_norm, "motion_source": motion_source}
        problem = wrong_value(cls, preset=preset, distance=distance, **choices)
        if problem is not None:
            return problem
        if preset == CUSTOM and distance == "table" and distance_table is not None:
            try:
                read_table(distance_table)
            except ConfigError as error:
                return str(error)
        return True

    @classmethod
    def execute(cls, model: io.Model.Type, preset: str, **knobs: object) -> io.NodeOutput:
        node_id = cls.hidden.unique_id if cls.hidden is not None else None
        reason = why_not_served(model)
        if reason is not None:
            notify(node_id, f"{reason} It passes unchanged.")
            return io.NodeOutput(model)
        family = family_of(model)
        width = model.model.diffusion_model.config.dim if family == "magi1" else model.model.diffusion_model.dim
        config, notice = settings_for(family, width, preset, knobs)
        if notice is not None:
            notify(node_id, notice)
        patched = model.clone()
        attach_config(patched, config)
        return io.NodeOutput(patched)


def _advanced_knobs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "granularity",
            options=GRANULARITIES,
            tooltip="What is decided as one: tokens, whole chunks, or (vanilla sampling) whole steps.",
        ),
        _count(
            "chunk_phase_updates",
            "Recomputed steps a chunk makes before its tokens part. More = steadier, slower.",
        ),
        io.Combo.Input(
            "distance",
            options=DISTANCES,
            tooltip="What measures a step's change: the timestep (published, 1.3B and 14B), the picture (any weights), "
            "or your own table. Thresholds mean something else for each.",
        ),
        io.String.Input(
            "distance_table",
            default="",
            tooltip="For distance 'table': timestep:accumulated distance pairs, e.g. 999:0, 500:0.8, 0:2.1",
        ),
        io.Combo.Input(
            "weight_norm",
            options=["min-max", "mean", "max"],
            tooltip="How differences between frames become weights; only min-max uses the motion floor.",
        ),
        _knob(
            "motion_power",
            "Above 1 only strong motion counts, below 1 weak motion counts more.",
            low=0.05,
            high=20.0,
            step=0.05,
        ),
        _share(
            "vote",
            "A place is recomputed in all frames of a chunk if more than this share needs it. "
            "1 turns the vote off: every frame by itself.",
        ),
        _share(
            "max_reuse_ratio",
            "At most this share of a chunk's tokens is reused in one step. Lower = safer, slower.",
        ),
        io.Combo.Input(
            "motion_source",
            options=MOTION_SOURCES,
            optional=True,
            tooltip="Where motion is looked for: as published (still noisy), or in the picture as the model foresees "
            "it, which finds what moves from the first steps on.",
        ),
        io.Boolean.Input(
            "stretch_reuse",
            default=False,
            optional=True,
            tooltip="MAGI-1 only: what is reused takes the length of the present step, as its steps grow. Closer to "
            "the full run; thresholds can be about ten times higher.",
        ),
    ]


def _count(name: str, tooltip: str) -> io.Input:
    return io.Int.Input(name, default=getattr(PUBLISHED, name), min=0, max=1000, tooltip=tooltip)


def _threshold(name: str, tooltip: str) -> io.Input:
    return _knob(name, tooltip, low=0.0, high=10.0, step=0.0001, round=False)


def _share(name: str, tooltip: str) -> io.Input:
    return _knob(name, tooltip, low=0.0, high=1.0, step=0.01)


def _knob(name: str, tooltip: str, low: float, high: float, step: float, **more: Any) -> io.Input:
    """A number of the settings, as published unless it is touched."""
    default = getattr(PUBLISHED, name)
    return io.Float.Input(name, default=default, min=low, max=high, step=step, tooltip=tooltip, **more)


def _with_values(preset: io.Combo.Input) -> io.Combo.Input:
    """Send the presets' values along with the definition, so that the page can show them on the knobs."""
    presets = {name: config for presets in reversed(PRESETS_OF_FAMILY.values()) for name, config in presets.items()}
    preset.extra_dict["motioncache_presets"] = {name: knobs_of(presets[name]) for name in PRESET_NAMES}
    return preset


def settings_for(
    family: str, width: int | None, preset: str, knobs: dict[str, object]
) -> tuple[CacheConfig, str | None]:
    """(settings of the node for a model, a notice if they are not quite what was asked for).

    Args:
        width: of the model, ``None`` if it is not known: the published one is assumed.

    Raises:
        ConfigError: a knob has an illegal value, or the family has nothing of the preset's kind.
    """
    if preset == CUSTOM:
        config, notice = custom_config(Magi1CacheConfig if family == "magi1" else CacheConfig, **knobs), None
    else:
        config, notice = preset_for(preset, family)
    automatic = config.distance == "time embedding" and (preset != CUSTOM or knobs["distance"] == AUTO)
    known = width is None or width in COEFFICIENTS_BY_WIDTH
    if automatic and config.granularity != "off" and not known:
        config = config.with_changes(distance="patch embedding")
        notice = (
            f"No published distance is known for a model of width {width}: the change of the picture itself is "
            "measured instead, for which the published thresholds were not made."
        )
    if config.distance_table == TINY_WORLD_DISTANCES and width not in (None, TINY_WORLD_WIDTH):
        notice = (
            "This preset was measured on the tiny world that ships with the pack; on another model its distances and "
            "thresholds are a guess. The summary of a run tells how to set the threshold."
        )
    return config, notice


def preset_for(preset: str, family: str) -> tuple[CacheConfig, str | None]:
    """(settings, a notice if those of another preset are taken, because this one was made for another family).

    Raises:
        ConfigError: the family has nothing of that kind.
    """
    own = PRESETS_OF_FAMILY[family]
    if preset in own:
        return own[preset], None
    other, foreign = next((name, p[preset]) for name, p in PRESETS_OF_FAMILY.items() if preset in p)
    alike = next((name for name, config in own.items() if config.granularity == foreign.granularity), None)
    sentence = f"preset {preset!r} is for {FAMILY_NAMES[other]}, and this MODEL is {FAMILY_NAMES[family]}"
    if alike is None:
        raise ConfigError(f"{sentence}; choose one of {', '.join(map(repr, own))}")
    return own[alike], f"{sentence}: {alike!r} is used."


def knobs_of(config: CacheConfig) -> dict[str, object]:
    """Values of the node's knobs for settings; the inverse of :func:`custom_config`."""
    names = [f.name for f in fields(CacheConfig) if not f.name.startswith("distance")]
    values = {name: getattr(config, name) for name in names}
    table = ", ".join(f"{timestep:g}:{distance:g}" for timestep, distance in config.distance_table or ())
    distance = AUTO if config.distance == type(config).distance else config.distance
    vote = 1.0 if config.vote is None else config.vote
    stretch = isinstance(config, Magi1CacheConfig) and config.rescale_residual
    return {**values, "vote": vote, "distance": distance, "distance_table": table, "stretch_reuse": stretch}


def custom_config(
    kind: type[CacheConfig],
    *,
    distance: str,
    distance_table: str,
    vote: float,
    stretch_reuse: bool = False,
    **knobs: object,
) -> CacheConfig:
    """The settings of the knobs, for the family that ``kind`` is of. Raises ConfigError for illegal ones."""
    if kind is Magi1CacheConfig:
        knobs["rescale_residual"] = stretch_reuse
    return kind(
        distance=kind.distance if distance == AUTO else distance,
        distance_table=read_table(distance_table) if distance == "table" else None,
        vote=None if vote >= 1.0 else vote,
        **knobs,
    )


def read_table(text: str) -> tuple[tuple[float, float], ...]:
    """``timestep:distance`` pairs, separated by commas. Raises ConfigError for anything else."""
    pairs = []
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        try:
            timestep, distance = piece.split(":")
            pairs.append((float(timestep), float(distance)))
        except ValueError:
            raise ConfigError(f"distance_table has {piece!r}; write pairs like 999:0, 500:0.8, 0:2.1") from None
    if len(pairs) < 2:
        raise ConfigError("distance_table has fewer than 2 pairs; write e.g. 999:0, 500:0.8, 0:2.1")
    return tuple(pairs)


NODES = [MotionCacheApply]
