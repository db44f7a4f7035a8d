"""The plan that a sampler node would run, for its drawing on the page before the run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from torch import Tensor

from ..motioncache_core.config import CacheConfig
from ..motioncache_core.forecast import plan_preview
from ..motioncache_core.models.magi1 import forecast as magi1_forecast
from ..motioncache_core.models.magi1 import plan as magi1
from ..motioncache_core.models.magi1.guidance import OnePass, ThreePass
from ..motioncache_core.models.skyreels_v2 import forecast as skyreels_forecast
from ..motioncache_core.models.skyreels_v2 import plan as skyreels
from ..motioncache_core.models.skyreels_v2.checkpoint import read_layout
from ..motioncache_core.models.skyreels_v2.policy import COEFFICIENTS_BY_WIDTH, resolve_coefficients
from ..motioncache_core.models.skyreels_v2.schedule import timesteps_of
from ..motioncache_core.models.skyreels_v2.time_layers import TimeLayers
from ..motioncache_core.plan import Plan
from .cache import MotionCacheApply, settings_for
from .host.checked_inputs import checked_inputs
from .host.latents import InputError
from .host.magi1_inputs import DEFAULT_STEPS, ONE_PASS
from .host.model_paths import fingerprint, model_choices, resolve_model
from .host.run_settings import why_inactive
from .magi1_sampling import ATTENTIONS, MotionCacheMagi1Sampler
from .sampling import MotionCacheAutoregressiveSampler, MotionCacheAutoregressiveSamplerObject

MOST_CELLS = 6000
"""Chunks times steps that are drawn."""
OBJECT_STEPS = 30
"""Steps that are drawn for the SAMPLER object, whose steps come from elsewhere."""


def drawn_plan(request: Mapping[str, Any]) -> dict[str, Any]:
    """The drawing of a request's plan.

    Args:
        request: ``node`` (class of a sampler node), ``inputs`` (its widgets' values), ``cache`` (those of the
            MotionCache node before it, or ``None``), ``model`` (name in the loader's list, or ``None``), ``connected``
            (names of connected inputs).

    Raises:
        ValueError: the settings cannot be sampled, or are too many to draw; the message says which and why.
    """
    kind = request.get("node")
    if kind not in _FAMILIES:
        raise InputError(f"node is {str(kind)[:80]!r}; it must be one of {', '.join(_FAMILIES)}")
    inputs, connected = _table(request, "inputs") or {}, request.get("connected") or []
    if not isinstance(connected, list):
        raise InputError("connected must be a list of names")
    return _FAMILIES[kind](inputs, _table(request, "cache"), request.get("model"), set(map(str, connected)))


def _table(request: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    value = request.get(name)
    if value is not None and not isinstance(value, dict):
        raise InputError(f"{name} must be a table of values")
    return value


def _skyreels(inputs: dict, cache: dict | None, model: Any, connected: set[str]) -> dict[str, Any]:
    values, notes = checked_inputs(MotionCacheAutoregressiveSampler, inputs), []
    if "start_latents" in connected:
        notes.append("start_latents are not drawn: their length is not known before the run")
    settings = _skyreels_settings(values, 1 if "start_image" in connected else 0, values["frames"], values["steps"])
    return _draw_skyreels(settings, values["fps"], cache, model, notes)


def _sampler_object(inputs: dict, cache: dict | None, model: Any, connected: set[str]) -> dict[str, Any]:
    values = checked_inputs(MotionCacheAutoregressiveSamplerObject, inputs)
    notes = [f"length and steps come from the latent and SIGMAS: drawn are one window and {OBJECT_STEPS} steps"]
    settings = _skyreels_settings(values | {"shift": 8.0}, 0, values["window"], OBJECT_STEPS)
    return _draw_skyreels(settings, values["fps"], cache, model, notes)


def _skyreels_settings(values: dict[str, Any], start: int, frames: int, steps: int) -> skyreels.SamplingSettings:
    _few_enough(frames / skyreels.TEMPORAL, values["chunk_size"], steps)
    return skyreels.SamplingSettings(
        frames=frames,
        steps=steps,
        shift=values["shift"],
        chunk_frames=values["chunk_size"],
        ar_step=values["ar_step"],
        window_frames=values["window"],
        overlap_frames=values["overlap"],
        history_noise=values["history_noise"],
        attention=values["attention"],
        clean_refresh=values["clean_refresh"],
        start_latents=start,
    )


def _draw_skyreels(
    settings: skyreels.SamplingSettings, fps: float, cache: dict | None, model: Any, notes: list[str]
) -> dict[str, Any]:
    plan = skyreels.build_plan(settings)
    layout = read_layout(resolve_model(model)) if model is not None and _offered(model) else None
    config = _cache_of(cache, "skyreels_v2", layout.config.dim if layout else None, plan, notes)
    modulation = None
    if skyreels_forecast.needs_time_layers(config):
        if layout is None:
            notes.append("the checkpoint is not known here, so only bounds of the chunk phase are drawn")
        elif layout.config.dim in COEFFICIENTS_BY_WIDTH:
            config = resolve_coefficients(config, layout.config.dim)
            modulation = _modulation(model, _stamp(model), timesteps_of(plan.sigmas), fps)
    exact = skyreels_forecast.is_exact(plan, config, modulation)
    return plan_preview(plan, config, skyreels_forecast.forecast_of(plan, config, modulation), exact, notes)


def _magi1(inputs: dict, cache: dict | None, model: Any, connected: set[str]) -> dict[str, Any]:
    values, notes = checked_inputs(MotionCacheMagi1Sampler, inputs), []
    if connected & {"start_video", "start_latents"}:
        notes.append("given frames are not drawn: their length is not known before the run")
    distilled = values["guidance"] == ONE_PASS
    steps = values["steps"] or DEFAULT_STEPS[distilled]
    if not values["steps"]:
        notes.append(f"steps 0 takes those of the model; drawn are {steps}")
    image = "start_image" in connected
    frames = max(values["frames"] - magi1.TEMPORAL * image, magi1.TEMPORAL)
    _few_enough(frames / magi1.TEMPORAL, 6, steps)
    settings = magi1.SamplingSettings(
        frames=frames,
        steps=steps,
        shift=values["shift"],
        window_chunks=values["window"],
        attention=ATTENTIONS[values["attention"]],
        clean_refresh=values["clean_refresh"],
        guidance=OnePass() if distilled else ThreePass(),
        start_latents=int(image),
    )
    plan = magi1.build_plan(settings)
    config = _cache_of(cache, "magi1", None, plan, notes)
    config = None if config is None else config.for_steps(plan.steps)
    return plan_preview(plan, config, magi1_forecast.forecast_of(plan, config), config is None, notes)


def _cache_of(
    values: dict[str, Any] | None, family: str, width: int | None, plan: Plan, notes: list[str]
) -> CacheConfig | None:
    """Settings as they act on the plan, ``None`` for none; why they do not goes to the notes."""
    if values is None:
        return None
    knobs = checked_inputs(MotionCacheApply, values)
    preset = knobs.pop("preset")
    config, notice = settings_for(family, width, preset, knobs)
    inactive = None if config.granularity == "off" else why_inactive(config, plan)
    notes += [sentence for sentence in (notice, inactive and f"MotionCache is not active: {inactive}") if sentence]
    return None if inactive or config.granularity == "off" else config


def _few_enough(latent_frames: float, chunk: int, steps: int) -> None:
    cells = math.ceil(latent_frames / chunk) * steps
    if cells > MOST_CELLS:
        raise InputError(f"frames and steps make {cells} chunk steps; up to {MOST_CELLS} are drawn before the run")


def _offered(model: Any) -> bool:
    """Only what the loader offers is opened."""
    return isinstance(model, str) and model in model_choices()


def _stamp(model: str) -> tuple[Any, ...]:
    return tuple(fingerprint(resolve_model(model)))


@lru_cache(maxsize=4)
def _modulation(model: str, stamp: tuple[Any, ...], timesteps: tuple[int, ...], fps: float) -> Tensor:
    """``[steps, 6, C]`` of a checkpoint's time layers, a few MB; read once for each change of file or steps."""
    return TimeLayers.read(read_layout(resolve_model(model))).projections(timesteps, fps)


_FAMILIES = {
    "MotionCacheAutoregressiveSampler": _skyreels,
    "MotionCacheAutoregressiveSamplerObject": _sampler_object,
    "MotionCacheMagi1Sampler": _magi1,
}
