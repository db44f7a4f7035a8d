"""What differs between versions of ComfyUI, in one place."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

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


def inference_dtype(model: Any) -> torch.dtype:
    """Precision that a BaseModel computes in."""
    if hasattr(model, "get_dtype_inference"):
        return model.get_dtype_inference()
    return model.manual_cast_dtype or model.get_dtype()
