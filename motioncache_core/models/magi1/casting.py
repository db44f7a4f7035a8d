"""Parameters that are cast when they are used, in the way that ComfyUI's layers do it.

ComfyUI moves and patches what has ``comfy_cast_weights``: in a partly loaded model it leaves such a module's parameters
where they are and hands over functions (LoRA) that the module applies when it casts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

CastFunction = Callable[..., tuple[Tensor, Tensor | None]]
"""(module, dtype=, device=, bias_dtype=) -> its weight and bias, cast, with what ComfyUI has put on the module."""


def cast_bias_weight(
    module: nn.Module, *, dtype: torch.dtype, device: torch.device, bias_dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """Weight and bias, cast, with the functions that ComfyUI has put on the module."""
    weight = _cast(module.weight, dtype, device, module.weight_function)
    if module.bias is None:
        return weight, None
    return weight, _cast(module.bias, bias_dtype, device, module.bias_function)


def _cast(parameter: Tensor, dtype: torch.dtype, device: torch.device, functions: list) -> Tensor:
    # the functions work in place, so they get a copy
    value = parameter.to(device=device, dtype=dtype, copy=bool(functions))
    for function in functions:
        value = function(value)
    return value


@dataclass(frozen=True)
class Build:
    """How a network's layers are made.

    Args:
        operations: classes ``Linear``, ``Conv3d``, ``LayerNorm`` that cast their weights to the input's dtype, as
            ComfyUI's ``manual_cast``.
        weight_dtype: in which linear weights of the blocks are stored.
        norm_dtype: the same for norms.
        device: where parameters are made.
        native_float8: let the device multiply float8 matrices where it can.
        cast: how the network's own layers cast theirs; ComfyUI's knows where it keeps them and how to fetch them.
    """

    operations: Any
    weight_dtype: torch.dtype
    norm_dtype: torch.dtype
    device: torch.device | None = None
    native_float8: bool = True
    cast: CastFunction = field(default=cast_bias_weight)

    def linear(self, columns: int, rows: int, bias: bool = False) -> nn.Module:
        """A linear layer of a block."""
        return self.operations.Linear(columns, rows, bias=bias, dtype=self.weight_dtype, device=self.device)

    def precise_linear(self, columns: int, rows: int, bias: bool = True) -> nn.Module:
        """A float32 linear layer."""
        return self.operations.Linear(columns, rows, bias=bias, dtype=torch.float32, device=self.device)

    def layer_norm(self, width: int, eps: float) -> nn.Module:
        """An ordinary norm."""
        return self.operations.LayerNorm(width, eps=eps, dtype=self.norm_dtype, device=self.device)

    def precise_parameter(self, *shape: int) -> nn.Parameter:
        """A float32 parameter."""
        return nn.Parameter(torch.empty(shape, dtype=torch.float32, device=self.device))


class CastAtUse(nn.Module):
    """A leaf module with ``weight`` and ``bias`` (a parameter or ``None``) that casts for itself."""

    comfy_cast_weights = True
    bias: Tensor | None

    def __init__(self, build: Build):
        super().__init__()
        self.weight_function: list = []
        self.bias_function: list = []
        self._cast = build.cast

    def cast(self, like: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Weight and bias in ``dtype`` on the device of ``like``."""
        return self._cast(self, dtype=dtype, device=like.device, bias_dtype=dtype)


class NormPlusOne(CastAtUse):
    """LayerNorm whose stored weight is one too small.

    Args:
        width: channels of the last axis.
        eps: added to the variance.
        precise: compute in float32 and return that; else in the input's dtype, the weight's sum rounded to it too.
    """

    def __init__(self, width: int, eps: float, build: Build, precise: bool = True):
        super().__init__(build)
        self.eps, self.precise = eps, precise
        self.weight = nn.Parameter(torch.empty(width, dtype=build.norm_dtype, device=build.device))
        self.bias = nn.Parameter(torch.empty(width, dtype=build.norm_dtype, device=build.device))

    def forward(self, x: Tensor) -> Tensor:
        x = x.float() if self.precise else x
        weight, bias = self.cast(x, x.dtype)
        return nn.functional.layer_norm(x, weight.shape, weight + 1, bias, self.eps)
