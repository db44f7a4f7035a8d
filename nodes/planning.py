"""The plan that a sampler node would run, for its drawing on the page before the run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
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
from .begin import MotionCacheBeginMagi1Video, MotionCacheBeginVideo
from .cache import MotionCacheApply, settings_for
from .host.checked_inputs import checked_inputs
from .host.latents import InputError
from .host.magi1_inputs import DEFAULT_STEPS, ONE_PASS
from .host.model_paths import fingerprint, model_choices, resolve_model
from .host.run_settings import why_inactive
from .magi1_sampling import ATTENTIONS, MotionCacheMagi1Sampler
from .sampling import SLIDING, MotionCacheAutoregressiveSampler, MotionCacheAutoregressiveSamplerObject
from .storyboard import with_threshold

UNKNOWN = "unknown"
"""Cache settings that the page could not find."""
MOST_CELLS = 6000
"""Chunks times steps that are drawn."""
MOST_PASSES = 12_000
"""Passes of a plan that is made for its drawing, given frames included; so many take about a second."""
EXAMPLE_STEPS = 30
"""Steps that are drawn for the SAMPLER object where those of its SIGMAS are not known."""
LONGEST_KNOWN = 100_000
"""Video frames and steps above which what the page found is not believed."""
SHAPING = {
    *("frames", "fps", "steps", "shift", "chunk_size", "ar_step", "window", "overlap", "attention", "history"),
    *("history_noise", "clean_refresh", "continue_frames", "guidance"),
}
"""Widgets whose values may change a plan."""


@dataclass(frozen=True)
class Around:
    """What the page knows of the graph around a sampler.

    Args:
        connected: names of its connected inputs.
        length: video frames of the latent that a SAMPLER object gets, ``None``: not known.
        steps: of its SIGMAS, ``None``: not known.
        chunks: of a take, up to and with the node that shows it, ``None``: not known.
    """

    connected: set[str]
    length: int | None = None
    steps: int | None = None
    chunks: int | None = None


def drawn_plan(request: Mapping[str, Any]) -> dict[str, Any]:
    """The drawing of a request's plan.

    Args:
        request: ``node`` (class of a sampler node, or of the one that begins a take), ``inputs`` (its widgets' values),
            ``unknown`` (names of widgets whose values come from nodes that the page cannot read), ``cache`` (values of
            the MotionCache node before it, with the ``threshold`` of a take's part where it has one; ``None`` without
            one, ``"unknown"`` where the graph does not tell), ``several`` (whether a take's parts have settings of
            their own), ``model`` (name in the loader's list, or ``None``), ``connected`` (names of connected inputs),
            ``length``, ``steps`` and ``chunks`` (see :class:`Around`).

    Raises:
        ValueError: the settings cannot be sampled, or are too many to draw; the message says which and why.
    """
    kind = request.get("node")
    if kind in _WITHOUT_BEGINNING:
        raise InputError("the plan is drawn when it runs: the graph does not tell how the video was begun")
    if not isinstance(kind, str) or kind not in _FAMILIES:
        raise InputError(f"node is {str(kind)[:80]!r}; it must be one of {', '.join(_FAMILIES)}")
    inputs = _table(request, "inputs") or {}
    known = (_known(request, name) for name in ("length", "steps", "chunks"))
    around = Around(_names(request, "connected"), *known)
    cache = None if request.get("cache") == UNKNOWN else _table(request, "cache")
    drawing = _FAMILIES[kind](inputs, cache, request.get("model"), around)
    notes = _left_open(request, kind, around)
    if request.get("cache") == UNKNOWN:
        drawing["cache"] = UNKNOWN
    return drawing | {"exact": drawing["exact"] and not notes, "notes": [*notes, *drawing["notes"]]}


def _left_open(request: Mapping[str, Any], kind: str, around: Around) -> list[str]:
    """Sentences on what the page could not read from the graph."""
    notes = []
    if request.get("cache") == UNKNOWN:
        notes.append("the cache settings could not be read from the graph")
    elif request.get("several"):
        notes.append("the parts of this video have cache settings of their own; drawn are the last part's")
    unknown = sorted((_names(request, "unknown") & SHAPING) - _WITHOUT_EFFECT.get(kind, set()))
    if unknown:
        notes.append(f"not known before the run, drawn with defaults: {', '.join(unknown)}")
    if kind in _BEGINS and around.chunks is None:
        notes.append("how many chunks there are could not be read from the graph; drawn is 1")
    return notes


def _names(request: Mapping[str, Any], name: str) -> set[str]:
    value = request.get(name) or []
    if not isinstance(value, list):
        raise InputError(f"{name} must be a list of names")
    return set(map(str, value))


def _known(request: Mapping[str, Any], name: str) -> int | None:
    value = request.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= LONGEST_KNOWN):
        raise InputError(f"{name} is {str(value)[:80]!r}; it must be a whole number from 1 to {LONGEST_KNOWN}")
    return value


def _table(request: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    value = request.get(name)
    if value is not None and not isinstance(value, dict):
        raise InputError(f"{name} must be a table of values")
    return value


def _skyreels(inputs: dict, cache: dict | None, model: Any, around: Around) -> dict[str, Any]:
    values, notes = checked_inputs(MotionCacheAutoregressiveSampler, inputs), []
    if "start_latents" in around.connected:
        notes.append("start_latents are not drawn: their length is not known before the run")
    start = int("start_image" in around.connected)
    settings = _skyreels_settings(values, start, values["frames"], values["steps"])
    return _draw_skyreels(settings, values["fps"], cache, model, notes)


def _take(inputs: dict, cache: dict | None, model: Any, around: Around) -> dict[str, Any]:
    values, notes = checked_inputs(MotionCacheBeginVideo, inputs), []
    if "start_latents" in around.connected:
        notes.append("start_latents are not drawn: their length is not known before the run")
    start = skyreels.latent_length(values["continue_frames"]) if "start_video" in around.connected else 0
    start = start or int("start_image" in around.connected)
    latents = start + (around.chunks or 1) * values["chunk_size"]
    values |= {"overlap": 1, "attention": "chunk-wise", "history": SLIDING}
    settings = _skyreels_settings(values, start, skyreels.pixel_length(latents), values["steps"])
    return _draw_skyreels(settings, values["fps"], cache, model, notes)


def _magi1_take(inputs: dict, cache: dict | None, model: Any, around: Around) -> dict[str, Any]:
    values = checked_inputs(MotionCacheBeginMagi1Video, inputs)
    shown = {name: values[name] for name in ("steps", "shift", "window", "guidance", "clean_refresh")}
    return _magi1(shown | {"frames": 24 * (around.chunks or 1)}, cache, model, around)


def _sampler_object(inputs: dict, cache: dict | None, model: Any, around: Around) -> dict[str, Any]:
    values = checked_inputs(MotionCacheAutoregressiveSamplerObject, inputs)
    missing = [name for name, known in (("latent_image", around.length), ("sigmas", around.steps)) if known is None]
    length = around.length or values["window"]
    frames = skyreels.pixel_length((length - 1) // skyreels.TEMPORAL + 1)
    settings = _skyreels_settings(values | {"shift": 8.0}, 0, frames, around.steps or EXAMPLE_STEPS)
    notes = [f"{' and '.join(missing)} could not be read from the graph"] if missing else []
    drawing = _draw_skyreels(settings, values["fps"], cache, model, notes, sigmas_known=False)
    return drawing | {"example": bool(missing)}


def _skyreels_settings(values: dict[str, Any], start: int, frames: int, steps: int) -> skyreels.SamplingSettings:
    settings = skyreels.SamplingSettings(
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
        sliding=values.get("history") == SLIDING,
    )
    _few_enough(settings.chunk_frames, steps, *_windows_of(settings))
    return settings


def _windows_of(settings: skyreels.SamplingSettings) -> tuple[int, int, int]:
    """(windows, latent frames that each makes, those that each begins with), about; what is wrong is told later."""
    total = skyreels.latent_length(settings.frames)
    length = total if settings.sliding else min(skyreels.latent_length(settings.window_frames), total)
    overlap = skyreels.latent_length(settings.overlap_frames)
    new = max(length - overlap, 1)
    if length >= total:
        return 1, total, 0
    return 1 + math.ceil((total - length) / new), new, overlap


def _draw_skyreels(
    settings: skyreels.SamplingSettings,
    fps: float,
    cache: dict | None,
    model: Any,
    notes: list[str],
    sigmas_known: bool = True,
) -> dict[str, Any]:
    plan = skyreels.build_plan(settings)
    layout = read_layout(resolve_model(model)) if model is not None and _offered(model) else None
    config = _cache_of(cache, "skyreels_v2", layout.config.dim if layout else None, plan, notes)
    modulation = None
    if skyreels_forecast.needs_time_layers(config):
        if not sigmas_known:
            notes.append("the noise levels come from sigmas, so only bounds of the chunk phase are drawn")
        elif layout is None:
            notes.append("the checkpoint is not known here, so only bounds of the chunk phase are drawn")
        elif layout.config.dim in COEFFICIENTS_BY_WIDTH:
            config = resolve_coefficients(config, layout.config.dim)
            modulation = _modulation(model, _stamp(model), timesteps_of(plan.sigmas), fps)
    exact = skyreels_forecast.is_exact(plan, config, modulation)
    return plan_preview(plan, config, skyreels_forecast.forecast_of(plan, config, modulation), exact, notes)


def _magi1(inputs: dict, cache: dict | None, model: Any, around: Around) -> dict[str, Any]:
    values, notes = checked_inputs(MotionCacheMagi1Sampler, inputs), []
    if around.connected & {"start_video", "start_latents"}:
        notes.append("given frames are not drawn: their length is not known before the run")
    distilled = values["guidance"] == ONE_PASS
    steps = values["steps"] or DEFAULT_STEPS[distilled]
    if not values["steps"]:
        notes.append(f"steps 0 takes those of the model; drawn are {steps}")
    image = "start_image" in around.connected
    frames = max(values["frames"] - magi1.TEMPORAL * image, magi1.TEMPORAL)
    _few_enough(6, steps, 1, math.ceil(frames / magi1.TEMPORAL), 0)
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
    if "threshold" in values:
        config = with_threshold(config, _threshold(values["threshold"]))
    inactive = None if config.granularity == "off" else why_inactive(config, plan)
    notes += [sentence for sentence in (notice, inactive and f"MotionCache is not active: {inactive}") if sentence]
    return None if inactive or config.granularity == "off" else config


def _threshold(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise InputError(f"threshold is {str(value)[:80]!r}; it must lie between 0 and 100")
    return float(value)


def _few_enough(chunk: int, steps: int, windows: int, new: int, given: int) -> None:
    """Refuse a plan that is long to make or too large to draw, before it is made.

    Args:
        chunk: latent frames of a chunk.
        windows: of the run.
        new, given: latent frames that each makes and begins with.
    """
    cells = windows * math.ceil(new / chunk) * steps
    if cells > MOST_CELLS:
        raise InputError(f"frames and steps make {cells} chunk steps; up to {MOST_CELLS} are drawn before the run")
    passes = cells + windows * math.ceil(given / chunk)
    if passes > MOST_PASSES:
        raise InputError(
            f"frames, window and overlap make {windows} windows with {passes} passes; up to {MOST_PASSES} are drawn "
            "before the run (a smaller overlap needs fewer)"
        )


def _offered(model: Any) -> bool:
    """Only what the loader offers is opened."""
    return isinstance(model, str) and model in model_choices()


def _stamp(model: str) -> tuple[Any, ...]:
    return tuple(fingerprint(resolve_model(model)))


@lru_cache(maxsize=4)
def _modulation(model: str, stamp: tuple[Any, ...], timesteps: tuple[int, ...], fps: float) -> Tensor:
    """``[steps, 6, C]`` of a checkpoint's time layers, a few MB; read once for each change of file or steps."""
    return TimeLayers.read(read_layout(resolve_model(model))).projections(timesteps, fps)


_WITHOUT_BEGINNING = ("MotionCacheLoadTake", "MotionCacheGenerateChunks", "MotionCacheFinishVideo")
"""Where the page's search for the beginning of a take may end."""
_BEGINS = ("MotionCacheBeginVideo", "MotionCacheBeginMagi1Video")
_WITHOUT_EFFECT = {"MotionCacheAutoregressiveSampler": {"guidance"}}
"""Widgets that shape other nodes' plans only: there *guidance* decides the passes of a step."""
_FAMILIES = {
    "MotionCacheAutoregressiveSampler": _skyreels,
    "MotionCacheAutoregressiveSamplerObject": _sampler_object,
    "MotionCacheMagi1Sampler": _magi1,
    "MotionCacheBeginVideo": _take,
    "MotionCacheBeginMagi1Video": _magi1_take,
}
