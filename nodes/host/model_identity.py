"""What tells one MODEL from another across processes, for files that must go on with the same one."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from .model_support import family_of

SMALL = 2**16
"""Most numbers of a checkpoint's tensors that are looked at whole: biases, norms, modulation."""
PROBES = 64
"""Numbers that are looked at of a larger tensor, and of a patch's."""


def identity(model: Any) -> tuple[int, Any]:
    """What MODELs of this process have in common that are one checkpoint with the same patches."""
    return id(model.model), model.patches_uuid


def model_facts(model: Any) -> dict[str, Any]:
    """``family``, ``weights`` (a digest of all tensors), ``patches`` (of LoRA; empty without)."""
    return {"family": family_of(model), "weights": _weights_digest(model), "patches": _patches_digest(model)}


def _weights_digest(model: Any) -> str:
    weights = sorted(model.model.diffusion_model.state_dict().items())
    digest = hashlib.blake2b(digest_size=8)
    for key, tensor in weights:
        digest.update(f"{key} {list(tensor.shape)}".encode())
    for key, tensor in weights:
        if tensor.is_floating_point():
            unpatched = model.backup.get(f"diffusion_model.{key}")  # there while patched weights are loaded
            flat = (tensor if unpatched is None else unpatched.weight).detach().reshape(-1)
            values = (flat if len(flat) <= SMALL else _probes(flat)).float().cpu().to(torch.bfloat16)
            digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _patches_digest(model: Any) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for key, patches in sorted(model.patches.items()):
        for strength, value, *_ in patches:
            digest.update(f"{key} {strength} {_probed(value)}".encode())
    return digest.hexdigest() if model.patches else ""


def _probes(flat: Tensor) -> Tensor:
    """Numbers from all over a tensor. ``flat``: ``[n]``."""
    return flat[:: -(-len(flat) // PROBES) or 1]


def _probed(patch: Any) -> Any:
    """A patch's kind and shapes, and numbers from all over its tensors."""
    if isinstance(patch, Tensor):
        return list(patch.shape), _probes(patch.detach().reshape(-1)).float().cpu().tolist()
    if isinstance(patch, (tuple, list)):
        return [_probed(one) for one in patch]
    if hasattr(patch, "weights"):
        return type(patch).__name__, _probed(patch.weights)
    return patch if isinstance(patch, (str, int, float)) else type(patch).__name__
