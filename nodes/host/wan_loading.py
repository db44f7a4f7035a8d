"""Building ComfyUI's own Wan network from checkpoint tensors, scaled fp8 in the form that this core understands."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import comfy.model_detection
import comfy.model_management
import comfy.sd
import comfy.utils
import torch

from ...motioncache_core.models.skyreels_v2.architecture import ArchitectureConfig, linear_layers, parameter_count
from ...motioncache_core.models.skyreels_v2.checkpoint import CheckpointError, Weights, dequantise

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

WEIGHT_DTYPES = {
    "default": {},
    "fp8_e4m3fn": {"dtype": torch.float8_e4m3fn},
    "fp8_e4m3fn_fast": {"dtype": torch.float8_e4m3fn, "fp8_optimizations": True},
    "fp8_e5m2": {"dtype": torch.float8_e5m2},
    "bf16": {"dtype": torch.bfloat16},
    "fp16": {"dtype": torch.float16},
    "fp32": {"dtype": torch.float32},
}
"""Name in the node -> ``model_options`` of ComfyUI's loader; the first four are those of its own node."""

_FP8_NAMES = {torch.float8_e4m3fn: "float8_e4m3fn", torch.float8_e5m2: "float8_e5m2"}


def load_wan(weights: Weights, config: ArchitectureConfig, weight_dtype: str = "default") -> ModelPatcher:
    """ComfyUI's MODEL for these tensors (which are consumed).

    Args:
        weights: what ``read_tensors`` gave.
        config: sizes of the model.
        weight_dtype: a key of ``WEIGHT_DTYPES``. Scaled fp8 stays as it is for the fp8 choices.

    Raises:
        CheckpointError: ComfyUI does not take the tensors for a Wan text-to-video model.
        ValueError: unknown weight_dtype.
    """
    if weight_dtype not in WEIGHT_DTYPES:
        raise ValueError(f"weight_dtype {weight_dtype!r} is unknown; legal are {', '.join(WEIGHT_DTYPES)}")
    options = dict(WEIGHT_DTYPES[weight_dtype])
    metadata: dict[str, str] = {}
    state_dict = weights.tensors
    if weights.weight_scales:
        if options.get("dtype") in (None, *_FP8_NAMES):
            state_dict, metadata, options = _scaled_fp8(weights, config)
        else:
            state_dict = _dequantised(weights, options["dtype"])
    patcher = comfy.sd.load_diffusion_model_state_dict(state_dict, model_options=options, metadata=metadata)
    network = getattr(getattr(patcher, "model", None), "diffusion_model", None)
    if getattr(network, "model_type", None) != "t2v" or len(getattr(network, "blocks", ())) != config.num_layers:
        raise CheckpointError("ComfyUI did not recognise the tensors as a Wan text-to-video model.")
    return patcher


def _scaled_fp8(
    weights: Weights, config: ArchitectureConfig
) -> tuple[dict[str, torch.Tensor], dict[str, str], dict[str, torch.dtype]]:
    """State dict, file metadata and loader options for fp8 weights with scales, as this core reads them.

    Cores after 0.3.75 read ``comfy_quant`` entries; 0.3.75 reads a list of layers in the metadata. 0.3.75's other way,
    the marker ``scaled_fp8``, is not taken: it stores every linear layer's bias, and layers that the file keeps in
    bfloat16, as fp8. Where neither is known the weights are expanded to bfloat16.
    """
    quantised = {
        layer: _FP8_NAMES[weights.tensors[f"{layer}.weight"].dtype]
        for layer in linear_layers(config)
        if weights.tensors[f"{layer}.weight"].dtype in _FP8_NAMES
    }
    sd = dict(weights.tensors)
    for layer, fp8 in quantised.items():
        sd[f"{layer}.weight_scale"] = weights.weight_scales.get(layer, torch.ones(()))
        # e5m2 times e5m2 is no matrix multiplication that a GPU has; without the scale the input stays as it is
        if layer in weights.input_scales and fp8 == "float8_e4m3fn" and not weights.full_precision_matmul:
            sd[f"{layer}.input_scale"] = weights.input_scales[layer]
    if hasattr(comfy.utils, "convert_old_quants"):
        for layer, fp8 in quantised.items():
            entry = {"format": fp8, "full_precision_matrix_mult": weights.full_precision_matmul}
            sd[f"{layer}.comfy_quant"] = torch.tensor(list(json.dumps(entry).encode()), dtype=torch.uint8)
        return sd, {}, {}
    if hasattr(comfy.model_detection, "detect_layer_quantization"):
        # 0.3.75 knows one format name; it stands for one scale a layer and works for e5m2 as well
        layers = {layer: {"format": "float8_e4m3fn"} for layer in quantised}
        metadata = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}
        # Said here because it would take fp8 for the norms and the modulation too.
        dtype = comfy.model_management.unet_dtype(model_params=parameter_count(config), weight_dtype=torch.bfloat16)
        return sd, metadata, {"dtype": dtype}
    return _dequantised(weights, torch.bfloat16), {}, {}


def _dequantised(weights: Weights, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {
        key: dequantise(key, tensor, weights.weight_scales, dtype) if tensor.dtype in _FP8_NAMES else tensor
        for key, tensor in weights.tensors.items()
    }
