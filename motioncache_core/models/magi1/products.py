"""Matrix products that the original computes in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .stretches import by_rows

_VALUES_AT_ONCE = 1 << 27
"""Of a float32 copy: half a GiB."""


def precise_product(linear: nn.Module, x: Tensor) -> Tensor:
    """``[N, in]`` -> ``[N, out]`` float32 of a linear layer without bias that casts its weight to its input's dtype.

    Products of bfloat16 numbers are exact in float32, so that a GPU's bfloat16 units with float32 sums give what
    float32 matrices give, but for the order of the sums, many times as fast and without float32 copies.
    """
    weight = linear.weight
    changed = getattr(linear, "weight_function", ()) or "forward" in vars(linear)
    if sums_on_tensor_cores(x.dtype, x.device, weight.dtype, weight.device, changed):
        return torch.mm(x, weight.t(), out_dtype=torch.float32)
    return by_rows(lambda rows: linear(rows.float()), x, at_once=_VALUES_AT_ONCE)


def sums_on_tensor_cores(
    dtype: torch.dtype, device: torch.device, weight_dtype: torch.dtype, weight_device: torch.device, changed: Any = ()
) -> bool:
    """Whether a product goes through PyTorch's bfloat16 product with a float32 result, which CUDA alone has.

    Not where the weight lies elsewhere, or what it does is changed (patches at use): the layer knows how.
    """
    return (
        device.type == "cuda"
        and torch.version.cuda is not None
        and weight_device == device
        and dtype == weight_dtype == torch.bfloat16
        and not changed
        and "dtype" in torch.ops.aten.mm.overloads()
    )
