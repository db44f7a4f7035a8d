"""Parameters that are cast when they are used, in the way that ComfyUI's layers do it.

ComfyUI moves and patches what has ``comfy_cast_weights``: in a partly loaded model it leaves such a module's parameters
where they are and hands over functions (LoRA) that the module applies when it casts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class CastAtUse(nn.Module):
    """A leaf module with ``weight`` and ``bias`` (a parameter or ``None``) that casts for itself.

    Args:
        operations: where it has ``cast_bias_weight`` (with the signature of ComfyUI's), that does the work.
    """

    comfy_cast_weights = True
    bias: Tensor | None

    def __init__(self, operations: Any):
        super().__init__()
        self.weight_function: list = []
        self.bias_function: list = []
        self._cast = getattr(operations, "cast_bias_weight", cast_bias_weight)

    def cast(self, like: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Weight and bias in ``dtype`` on the device of ``like``."""
        return self._cast(self, dtype=dtype, device=like.device, bias_dtype=dtype)


def cast_bias_weight(
    module: nn.Module, *, dtype: torch.dtype, device: torch.device, bias_dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """Weight and bias, cast, with the functions that ComfyUI has put on the module."""
    weight = module.weight.to(device=device, dtype=dtype, non_blocking=True)
    for function in module.weight_function:
        weight = function(weight)
    if module.bias is None:
        return weight, None
    bias = module.bias.to(device=device, dtype=bias_dtype, non_blocking=True)
    for function in module.bias_function:
        bias = function(bias)
    return weight, bias


class NormPlusOne(CastAtUse):
    """LayerNorm whose stored weight is one too small.

    Args:
        width: channels of the last axis.
        eps: added to the variance.
        dtype: of the stored parameters.
        precise: compute in float32 and return that; else in the input's dtype, the weight's sum rounded to it too.
    """

    def __init__(
        self,
        width: int,
        eps: float,
        operations: Any,
        dtype: torch.dtype,
        device: torch.device | None,
        precise: bool = True,
    ):
        super().__init__(operations)
        self.eps, self.precise = eps, precise
        self.weight = nn.Parameter(torch.empty(width, dtype=dtype, device=device))
        self.bias = nn.Parameter(torch.empty(width, dtype=dtype, device=device))

    def forward(self, x: Tensor) -> Tensor:
        x = x.float() if self.precise else x
        weight, bias = self.cast(x, x.dtype)
        return nn.functional.layer_norm(x, weight.shape, weight + 1, bias, self.eps)
