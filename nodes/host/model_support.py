"""Which MODEL this pack can serve, and the cache settings that travel on it."""

from __future__ import annotations

import logging
from typing import Any

import comfy.patcher_extension

from ...motioncache_core.config import CacheConfig
from .magi1_model import SAMPLER_NAME, Magi1Model
from .roles import UnsupportedError
from .sampler import OwnSampler

CONFIG_OPTION = "motioncache_config"
"""Key in ``model_options["transformer_options"]``."""

logger = logging.getLogger(__name__)


FAMILY_NAMES = {"skyreels_v2": "SkyReels-V2 (diffusion forcing)", "magi1": "MAGI-1"}
SAMPLER_NAMES = {"skyreels_v2": "Autoregressive sampler", "magi1": SAMPLER_NAME}


def family_of(model: Any) -> str | None:
    """The family that a MODEL belongs to, ``None``: none that we serve."""
    if isinstance(model.model, Magi1Model):
        return "magi1"
    network = model.model.diffusion_model
    if type(network).__name__ != "WanModel" or not type(network).__module__.startswith("comfy.ldm.wan"):
        return None
    return "skyreels_v2" if network.model_type == "t2v" and network.in_dim == network.out_dim else None


def why_not_served(model: Any, family: str | None = None) -> str | None:
    """``None`` for a MODEL of the family (of any, if none is named), else a sentence."""
    found = family_of(model)
    if found is not None and family in (None, found):
        return None
    if found is not None:
        return f"This MODEL is {FAMILY_NAMES[found]}; use the node '{SAMPLER_NAMES[found]}' for it."
    served = FAMILY_NAMES[family] if family else " and ".join(FAMILY_NAMES.values())
    if type(model.model.diffusion_model).__name__ == "WanModel":
        return (
            f"MotionCache serves {served} models; this MODEL is a Wan or SkyReels image-to-video model. Start images "
            "work with the DF models, through the sampler's start_image."
        )
    return f"MotionCache serves {served} models; this MODEL is a {type(model.model).__name__}."


def refuse_foreign_model(model: Any, family: str) -> None:
    """Raise UnsupportedError for a MODEL that is not of the family."""
    refusal = why_not_served(model, family)
    if refusal is not None:
        raise UnsupportedError(refusal)


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
        logger.warning("MotionCache is not active: this sampler computes every step; use the pack's own sampler")
    return executor(noise, latent_image, sampler, *args, **kwargs)
