"""Reading SkyReels-V2 checkpoints: every layout in, official names out.

``read_layout`` (``layout.py``) judges by headers alone and refuses what is not the model; ``read_tensors`` then reads.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from ...safetensors_file import CheckpointError
from ...stored_layout import FP8
from .architecture import FPS_KEYS
from .layout import Layout, read_layout

__all__ = ["CheckpointError", "Layout", "Weights", "dequantise", "fps_delta", "read_layout", "read_tensors"]


@dataclass
class Weights:
    """Tensors of one checkpoint under official names; fp8 weights stay as stored, their scales beside them.

    Args:
        tensors: official key -> tensor, without the frame-rate layers.
        fps: the frame-rate layers in float32, scales applied; empty if the model has none.
        weight_scales, input_scales: layer -> scalar float32.
        full_precision_matmul: the file asks not to multiply in fp8.
    """

    tensors: dict[str, torch.Tensor]
    fps: dict[str, torch.Tensor]
    weight_scales: dict[str, torch.Tensor]
    input_scales: dict[str, torch.Tensor]
    full_precision_matmul: bool


def read_tensors(layout: Layout, *, copy: bool = False) -> Weights:
    """Read all tensors, one file after the other.

    Args:
        layout: what ``read_layout`` gave.
        copy: take them into memory; else they are views of the memory-mapped files.

    Raises:
        CheckpointError: a ``comfy_quant`` entry names a format that is not read.
    """
    wanted: dict[Path, list[tuple[str, str, str]]] = defaultdict(list)
    groups = {
        "tensors": layout.tensors,
        "weight_scales": layout.weight_scales,
        "input_scales": layout.input_scales,
        "quant_marks": layout.quant_marks,
    }
    for group, entries in groups.items():
        for key, tensor in entries.items():
            wanted[tensor.file].append((group, key, tensor.key))
    read: dict[str, dict[str, torch.Tensor]] = {group: {} for group in groups}
    for file, entries in wanted.items():
        with safe_open(file, framework="pt", device="cpu") as handle:
            for group, key, stored in entries:
                tensor = handle.get_tensor(stored)
                read[group][key] = tensor.clone() if copy else tensor
    scales = {name: _scalars(read[name]) for name in ("weight_scales", "input_scales")}
    full_precision = _full_precision(layout, read["quant_marks"]) or layout.full_precision_matmul
    tensors = read["tensors"]
    fps = {key: dequantise(key, tensors.pop(key), scales["weight_scales"]) for key in FPS_KEYS if key in tensors}
    for layer in [layer for layer in scales["weight_scales"] if layer.startswith("fps_")]:
        del scales["weight_scales"][layer]
    inputs = {layer: scale for layer, scale in scales["input_scales"].items() if not layer.startswith("fps_")}
    return Weights(tensors, fps, scales["weight_scales"], inputs, full_precision)


def _scalars(scales: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {layer: scale.reshape(()).to(torch.float32) for layer, scale in scales.items()}


def _full_precision(layout: Layout, marks: Mapping[str, torch.Tensor]) -> bool:
    asked = False
    for layer, mark in marks.items():
        try:
            entry = json.loads(bytes(mark.to(torch.uint8).flatten().tolist()))
            quant_format = entry["format"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise CheckpointError(f"{layout.path.name}: {layer}.comfy_quant is not readable.") from None
        stored = FP8[layout.tensors[f"{layer}.weight"].dtype]
        if quant_format != stored:
            raise CheckpointError(
                f"{layout.path.name}: {layer} is quantised as {quant_format!r} and stored as {stored}; read are "
                f"{' and '.join(FP8.values())} with one scale a layer."
            )
        asked = asked or bool(entry.get("full_precision_matrix_mult", False))
    return asked


def dequantise(
    key: str, tensor: torch.Tensor, scales: Mapping[str, torch.Tensor], dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """A tensor in ``dtype``, its layer's scale applied in float32."""
    scale = scales.get(key.removesuffix(".weight")) if key.endswith(".weight") else None
    return tensor.to(dtype) if scale is None else (tensor.to(torch.float32) * scale).to(dtype)


def fps_delta(fps: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    """What the frame-rate layers add to the time projection of every frame, float32 ``[2, 6*dim]``.

    Row 0 is for 16 frames a second, row 1 for every other rate. The term does not depend on anything else, so it is
    computed once: Linear(SiLU(Linear(embedding))). None for a model without these layers.
    """
    if not fps:
        return None
    hidden = torch.nn.functional.linear(
        fps["fps_embedding.weight"], fps["fps_projection.0.weight"], fps["fps_projection.0.bias"]
    )
    return torch.nn.functional.linear(
        torch.nn.functional.silu(hidden), fps["fps_projection.2.weight"], fps["fps_projection.2.bias"]
    )
