"""From what hangs on a MODEL to the settings of one run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...motioncache_core.config import CacheConfig
from ...motioncache_core.flops import TransformerSize
from ...motioncache_core.models.skyreels_v2.policy import resolve_coefficients
from ...motioncache_core.plan import Plan
from ...motioncache_core.report import Report
from .model_info import DEFAULT_FPS, FPS_PATCH_KEY, model_info

KV_PRECISIONS: dict[str, torch.dtype | None] = {
    "model": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "fp8_e4m3fn": torch.float8_e4m3fn,
}
DEFAULT_TEXT_TOKENS = 512


def active_cache(config: CacheConfig | None, plan: Plan, model: Any) -> tuple[CacheConfig | None, str | None]:
    """(settings to run with or ``None``, why they do not act here or ``None``)."""
    if config is None or config.granularity == "off":
        return None, None
    reason = why_inactive(config, plan)
    return (None, reason) if reason else (resolve_coefficients(config, model.model.diffusion_model.dim), None)


def why_inactive(config: CacheConfig, plan: Plan) -> str | None:
    """Why settings do not act on a plan, ``None`` if they do."""
    if config.granularity == "step" and plan.chunk_wise:
        return (
            "step-level caching works on whole windows: in a sampler, with attention 'vanilla full' or "
            "'vanilla block-causal'"
        )
    if config.granularity != "step" and not plan.chunk_wise:
        return "it works chunk by chunk; set attention to 'chunk-wise'"
    return None


def term_beside_patch(model: Any, fps: float) -> Tensor | None:
    """Frame-rate term for a MODEL whose weights already carry the one of the usual frame rate as a patch."""
    info = model_info(model)
    if info is None:
        return None
    term = info.fps_term(fps)
    patched = any(info.owns(patch) for patch in model.patches.get(FPS_PATCH_KEY, []))
    return term - info.fps_term(DEFAULT_FPS) if patched else term


def new_report(plan: Plan, config: CacheConfig | None, model: Any, positive: Any, inactive: str | None) -> Report:
    """An empty report that knows the network's sizes. ``positive``: conditioning, for the prompt's length."""
    network = model.model.diffusion_model
    text_tokens = positive[0][0].shape[1] if positive else DEFAULT_TEXT_TOKENS
    size = TransformerSize(
        width=network.dim,
        ffn_width=network.ffn_dim,
        layers=len(network.blocks),
        patch_values=network.in_dim * network.patch_size[1] * network.patch_size[2],
        text_tokens=text_tokens,
        text_width=network.text_dim,
    )
    notes = []
    if model_info(model) is None:
        notes.append("the MODEL comes from a stock loader, which drops the frame-rate layers of SkyReels-V2 1.3B")
    return Report(plan, config, size, inactive, notes)
