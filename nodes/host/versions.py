"""What differs between versions of ComfyUI, in one place."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import comfy.ops
import torch
from comfy_api.latest import io

AnyInput = TypeVar("AnyInput", bound=io.Input)


def advanced(widget: AnyInput) -> AnyInput:
    """The same input, shown under 'advanced' by front ends that know it.

    Newer cores take ``advanced=True`` as an argument, older ones raise TypeError for it; both pass this on.
    """
    widget.extra_dict["advanced"] = True
    return widget


def search_aliases(*words: str) -> dict[str, list[str]]:
    """Argument of a schema: other words under which the node is found, where the core knows them."""
    known = "search_aliases" in {f.name for f in dataclasses.fields(io.Schema)}
    return {"search_aliases": list(words)} if known else {}


def cast_bias_weight(
    module: torch.nn.Module, *, dtype: torch.dtype, device: torch.device, bias_dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """ComfyUI's cast of a layer's weight and bias, wherever it keeps them, with the patches that act at use.

    In the form that every version has: newer ones can fetch weights beside the computation, and then want to be told
    when a weight was last used, which a layer of ours that returns it cannot.
    """
    weight, bias, *_ = comfy.ops.cast_bias_weight(module, dtype=dtype, device=device, bias_dtype=bias_dtype)
    return weight, bias


def inference_dtype(model: Any) -> torch.dtype:
    """Precision that a BaseModel computes in."""
    if hasattr(model, "get_dtype_inference"):
        return model.get_dtype_inference()
    return model.manual_cast_dtype or model.get_dtype()
