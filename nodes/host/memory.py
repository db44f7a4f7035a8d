"""Asks ComfyUI for the memory of stored keys and values together with the activations of one chunk."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import torch

from ...motioncache_core.kv_cache import KVCache
from ...motioncache_core.plan import Plan
from .chunk_session import RunSettings, kv_placement, token_grid
from .latents import InputError
from .versions import inference_dtype


def kv_bytes(model: Any, plan: Plan, settings: RunSettings, latent: tuple[int, ...], branches: int) -> int:
    """Bytes of the store. ``latent``: ``[B, C, F, H, W]``; ``branches``: conditions in use."""
    if not plan.chunk_wise:
        return 0
    network = model.model.diffusion_model
    dtype, _ = kv_placement(settings, inference_dtype(model.model), model.load_device)
    rows, columns = token_grid(latent[-2], latent[-1], network.patch_size)
    tokens = plan.stored_frames * rows * columns
    return KVCache.bytes_needed(len(network.blocks), tokens, network.dim, branches * latent[0], dtype)


def count_kv_in(
    model_options: dict[str, Any], plan: Plan, settings: RunSettings, lists: set[str], branches: int | None = None
) -> None:
    """Let ComfyUI's estimate before sampling see the store of a SkyReels-V2 run.

    Args:
        lists: names of the guider's lists of conditions that reach the network.
        branches: how many branches are stored, ``None``: one for each of those conditions.
    """

    def stored(patcher: Any, noise_shape: tuple[int, ...], conds: dict[str, Any]) -> int:
        count = sum(len(conds[name]) for name in lists) if branches is None else branches
        return kv_bytes(patcher, plan, settings, noise_shape, count)

    count_in(model_options, plan, settings.kv_on_cpu, stored)


def count_in(
    model_options: dict[str, Any],
    plan: Plan,
    on_cpu: bool,
    stored: Callable[[Any, tuple[int, ...], dict[str, Any]], int],
) -> None:
    """Let ComfyUI's estimate before sampling see one call's activations plus a store, as a longer latent; a store that
    its device cannot hold at all is refused then, before anything is loaded.

    Args:
        model_options: of a MODEL.
        on_cpu: the store lies in main memory, of which ComfyUI makes no estimate.
        stored: (the MODEL, shape of the noise ``[B, C, F, H, W]``, conditions) -> bytes of the store. It must not hold
            the MODEL, whose options hold it: ComfyUI takes such a circle for a memory leak.
    """

    def prepare(executor: Any, patcher: Any, noise_shape: Any, conds: Any, *args: Any, **kwargs: Any) -> Any:
        batch, channels, _, height, width = noise_shape
        one_frame = max(float(patcher.model.memory_required([batch, channels, 1, height, width])), 1.0)
        needed = stored(patcher, tuple(noise_shape), conds)
        _refuse_too_large(needed, patcher.load_device, on_cpu)
        store_frames = 0 if on_cpu else math.ceil(needed / one_frame)
        frames = max(call.frames for call in plan.calls) + store_frames
        return executor(patcher, [batch, channels, frames, height, width], conds, *args, **kwargs)

    comfy.patcher_extension.add_wrapper_with_key(
        comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING,
        "motioncache",
        prepare,
        model_options,
        is_model_options=True,
    )


def _refuse_too_large(needed: int, device: Any, on_cpu: bool) -> None:
    """Raise InputError for a store that is larger than the memory that it is to lie in."""
    main = torch.device("cpu")
    there, in_main = (comfy.model_management.get_total_memory(place) for place in (main if on_cpu else device, main))
    if needed > there:
        place = "main memory" if on_cpu else str(device)
        move = " or kv_place to CPU" if not on_cpu and needed <= in_main else ""
        raise InputError(
            f"keys and values of earlier chunks need {needed / 2**30:.1f} GB, and {place} has {there / 2**30:.1f} GB "
            f"in all; set kv_precision to fp8_e4m3fn{move}, take a shorter window (SkyReels-V2: or a higher ar_step), "
            "or a smaller picture"
        )
