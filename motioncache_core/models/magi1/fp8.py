"""Linear layers of the quantised MAGI-1 variants: float8 weights, activations rounded to float8 with stored scales.

With a divisor per input channel d, an input scale s and a weight scale w:

    y = (e4m3(clamp(x / d, -448, 448)) @ weight^T) * s * w, rounded to bfloat16.

Layers fed by a norm ("per tensor") divide by their ``input_scale`` [in]; the output projection and the second
feed-forward layer ("per channel") by a ``smooth_scale`` [1, in]. Only the first entry of ``input_scale`` is s.
Layout: SandAI-org/MAGI-1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .casting import Build, CastAtUse
from .stretches import by_rows

FP8 = torch.float8_e4m3fn
LIMIT = torch.finfo(FP8).max
_MANTISSA, _LOWEST_EXPONENT = 3, -6
_ROUNDED_AT_ONCE = 1 << 24
"""Numbers, so that the float32 copies that rounding needs stay below half a gigabyte."""
_VALUES_AT_ONCE = 1 << 27
"""Of a float32 result: half a GiB."""

Tensors = tuple[Tensor, Tensor]


def has_scaled_matmul(device: torch.device) -> bool:
    """Whether a device multiplies float8 matrices itself (NVIDIA from compute capability 8.9 on)."""
    if device.type != "cuda" or torch.version.cuda is None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 9)


def round_to_fp8(values: Tensor, seed: int | None = None) -> Tensor:
    """Float32 ``[rows, columns]`` as float8, clipped to its range.

    With a ``seed`` each number goes to one of its two neighbours by chance, to the nearer one more often, so that the
    mean is kept: changes much smaller than the steps between float8 numbers, as those of a LoRA, are not lost.
    """
    values = values.clamp(-LIMIT, LIMIT)
    if seed is None:
        return values.to(FP8)
    generator = torch.Generator(values.device).manual_seed(seed)
    rounded = []
    for part in values.split(max(_ROUNDED_AT_ONCE // values.shape[1], 1)):
        _, exponent = torch.frexp(part)
        step = torch.exp2((exponent - 1).clamp_min(_LOWEST_EXPONENT).float() - _MANTISSA)
        chance = torch.rand(part.shape, generator=generator, device=part.device)
        rounded.append(((part / step + chance).floor() * step).clamp(-LIMIT, LIMIT).to(FP8))
    return torch.cat(rounded)


class QuantisedLinear(CastAtUse):
    """A float8 linear layer without bias.

    ComfyUI's weight patching calls :meth:`convert_weight` and :meth:`set_weight`, so that LoRAs see real weights.

    Args:
        in_features, out_features: sizes.
        smooth: divides its input per channel.
        build: with ``native_float8`` it multiplies in float8 where the device can, else always in plain PyTorch,
            rounding its input alike.
    """

    def __init__(self, in_features: int, out_features: int, smooth: bool, build: Build):
        super().__init__(build)
        self.native = build.native_float8
        weight = torch.empty(1, out_features, in_features, dtype=FP8, device=build.device)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_parameter("bias", None)
        self.weight_scale = build.precise_parameter(1)
        self.input_scale = build.precise_parameter(1 if smooth else in_features)
        if smooth:
            self.smooth_scale = build.precise_parameter(1, in_features)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in]`` -> ``[N, out]`` rounded to bfloat16, in the input's dtype."""
        divisor, scale = (part.to(x.device) for part in self._scales())
        rounded = by_rows(lambda rows: (rows.float() / divisor).clamp(-LIMIT, LIMIT).bfloat16().to(FP8), x)
        weight = self.cast(x, FP8)[0][0]
        if self.native and has_scaled_matmul(x.device) and not (weight.shape[0] % 16 or weight.shape[1] % 16):
            scales = {"scale_a": scale.reshape(()), "scale_b": torch.ones((), device=x.device)}
            return torch._scaled_mm(rounded, weight.t(), **scales, out_dtype=torch.bfloat16).to(x.dtype)
        # float8 values are exact in both; a GPU multiplies bfloat16 much faster and sums in float32 as well
        exact = torch.float32 if x.device.type == "cpu" else torch.bfloat16
        weight = weight.to(exact)

        def product(rows: Tensor) -> Tensor:
            return (nn.functional.linear(rows.to(exact), weight).float() * scale).bfloat16().to(x.dtype)

        return by_rows(product, rounded, width=weight.shape[0], at_once=_VALUES_AT_ONCE)

    def convert_weight(self, weight: Tensor, inplace: bool = False, **_: object) -> Tensor:
        """Stored weight (any dtype, ``[1, out, in]``) -> the weight that the layer stands for, ``[out, in]`` float32.

        Without the leading axis, because patches for a linear layer have two and ComfyUI drops those of other shapes.
        """
        divisor, scale = (part.to(weight.device) for part in self._scales())
        return weight.view(weight.shape[-2:]).float() * (scale / divisor)

    def set_weight(
        self, weight: Tensor, inplace_update: bool = False, seed: int | None = None, return_weight: bool = False
    ) -> Tensor | None:
        """Take a weight of :meth:`convert_weight`'s kind; what the stored scales cannot hold is clipped.

        Args:
            seed: of the rounding, see :func:`round_to_fp8`.
        """
        divisor, scale = (part.to(weight.device) for part in self._scales())
        stored = round_to_fp8(weight.float() * (divisor / scale), seed).unsqueeze(0)
        if return_weight:
            return stored
        if inplace_update:
            self.weight.data.copy_(stored)
        else:
            self.weight = nn.Parameter(stored, requires_grad=False)
        return None

    def _scales(self) -> Tensors:
        """``[in]`` (or ``[1, in]``) divisor of the input, and the factor of the output."""
        divisor = self.smooth_scale if hasattr(self, "smooth_scale") else self.input_scale
        return divisor, self.input_scale[:1].to(self.weight_scale.device) * self.weight_scale
