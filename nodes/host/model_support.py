"""Which MODEL this pack can serve, and the cache settings that travel on it."""

from __future__ import annotations

import logging
from typing import Any

import comfy.patcher_extension

from ...motioncache_core.config import CacheConfig
from .sampler import OwnSampler

CONFIG_OPTION = "motioncache_config"
"""Key in ``model_options["transformer_options"]``."""

logger = logging.getLogger(__name__)


def why_not_served(model: Any) -> str | None:
    """``None`` for a SkyReels-V2 (Wan text-to-video) MODEL, else a sentence."""
    network = model.model.diffusion_model
    kind = type(network).__name__
    if kind != "WanModel" or not type(network).__module__.startswith("comfy.ldm.wan"):
        return f"MotionCache serves SkyReels-V2 diffusion-forcing models; this MODEL is a {type(model.model).__name__}."
    if network.model_type != "t2v" or network.in_dim != network.out_dim:
        return (
            "MotionCache serves SkyReels-V2 diffusion-forcing models; this MODEL is a Wan or SkyReels image-to-video "
            "model. Start images work with the DF models, through the sampler's start_image."
        )
    return None


def attach_config(model: Any, config: CacheConfig) -> None:
    """Let the settings travel on a MODEL (a private clone), and warn where a foreign sampler ignores them."""
    model.model_options.setdefault("transformer_options", {})[CONFIG_OPTION] = config
    model.remove_wrappers_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, CONFIG_OPTION)
    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, CONFIG_OPTION, _warn_foreign_sampler)


def attached_config(model_options: dict[str, Any]) -> CacheConfig | None:
    """The settings on a MODEL, or ``None``."""
    return model_options.get("transformer_options", {}).get(CONFIG_OPTION)


def _warn_foreign_sampler(executor: Any, noise: Any, latent_image: Any, sampler: Any, *args: Any, **kwargs: Any) -> Any:
    if not isinstance(sampler, OwnSampler):
        logger.warning("MotionCache is not active: this sampler computes every step; use the Autoregressive sampler")
    return executor(noise, latent_image, sampler, *args, **kwargs)
