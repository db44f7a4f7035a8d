"""What tells one MODEL from another across processes, for files that must go on with the same one."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from .model_support import family_of

SMALL = 2**16
"""Most numbers of the tensors that tell a checkpoint from others of the same sizes: biases, norms, modulation."""
PROBES = 64
"""Numbers of each of a patch's tensors that tell it from others."""


def identity(model: Any) -> tuple[int, Any]:
    """What MODELs of this process have in common that are one checkpoint with the same patches."""
    return id(model.model), model.patches_uuid


def model_facts(model: Any) -> dict[str, Any]:
    """``family``, ``weights`` (a digest of sizes and small tensors), ``patches`` (one of LoRA; empty without)."""
    return {"family": family_of(model), "weights": _weights_digest(model), "patches": _patches_digest(model)}


def _weights_digest(model: Any) -> str:
    weights = sorted(model.model.diffusion_model.state_dict().items())
    digest = hashlib.blake2b(digest_size=8)
    for key, tensor in weights:
        digest.update(f"{key} {list(tensor.shape)}".encode())
    for key, tensor in weights:
        if tensor.numel() <= SMALL and tensor.is_floating_point():
            unpatched = model.backup.get(f"diffusion_model.{key}")  # there while patched weights are loaded
            values = (tensor if unpatched is None else unpatched.weight).detach().float().cpu().to(torch.bfloat16)
            digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _patches_digest(model: Any) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for key, patches in sorted(model.patches.items()):
        for strength, value, *_ in patches:
            digest.update(f"{key} {strength} {_probed(value)}".encode())
    return digest.hexdigest() if model.patches else ""


def _probed(patch: Any) -> Any:
    """A patch's kind and shapes, and numbers from all over its tensors."""
    if isinstance(patch, Tensor):
        flat = patch.detach().reshape(-1)
        probes = flat[:: -(-len(flat) // PROBES) or 1].float().cpu()
        return list(patch.shape), probes.tolist()
    if isinstance(patch, (tuple, list)):
        return [_probed(one) for one in patch]
    if hasattr(patch, "weights"):
        return type(patch).__name__, _probed(patch.weights)
    return patch if isinstance(patch, (str, int, float)) else type(patch).__name__
