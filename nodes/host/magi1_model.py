"""MAGI-1 as a ComfyUI MODEL: the network from ComfyUI's layers, its latent format, what is known about the checkpoint.

ComfyUI's flow runs from sigma 1 (noise) to 0 and its velocity points towards the noise; MAGI-1's time is 1 - sigma and
its velocity points the other way. The network is given float32 latents: it rounds them itself where the original does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.patcher_extension
import comfy.supported_models_base
import torch
from torch import Tensor

from ...motioncache_core.models.magi1.architecture import PREFIX, ArchitectureConfig, Variant, matching_variants
from ...motioncache_core.models.magi1.checkpoint import Layout
from ...motioncache_core.models.magi1.transformer import Magi1Transformer
from .magi1_latent_format import Magi1LatentFormat
from .roles import UnsupportedError
from .versions import cast_bias_weight

SAMPLER_NAME = "MAGI-1 sampler"
WIDTH_PER_MEMORY_UNIT = 1536
"""A chunk's activations: about 150 kB a token of width 3072, that is 2 of ComfyUI's units a latent."""

WEIGHT_DTYPES: dict[str, torch.dtype | None] = {
    "default": None,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
}
"""Name in the node -> what the blocks' matrices are kept in; ``None``: as they are in the file."""


@dataclass(frozen=True)
class Magi1Info:
    """What is known about a loaded checkpoint.

    Args:
        name: what to call it.
        architecture: its sizes.
        distilled: ``None``: nothing tells.
    """

    name: str
    architecture: ArchitectureConfig
    distilled: bool | None

    def variant(self, distilled: bool) -> Variant | None:
        """The published checkpoint of these sizes and this kind, if there is one."""
        return next((v for v in matching_variants(self.architecture) if v.distilled == distilled), None)


class Magi1ModelConfig(comfy.supported_models_base.BASE):
    """What BaseModel asks for. None of ComfyUI's global lists of models is touched."""

    unet_extra_config: dict[str, Any] = {}  # noqa: RUF012 - BASE's own form
    sampling_settings: dict[str, Any] = {"shift": 3.0}  # noqa: RUF012
    latent_format = Magi1LatentFormat
    supported_inference_dtypes = [torch.bfloat16, torch.float32]  # noqa: RUF012
    # Weights are cast to the input's dtype at use: float32 inputs make float32 layers out of bfloat16 weights.
    custom_operations = comfy.ops.manual_cast

    def __init__(self, architecture: ArchitectureConfig, dtype: torch.dtype, weight_dtype: torch.dtype):
        super().__init__(
            {"config": architecture, "dtype": dtype, "weight_dtype": weight_dtype, "cast": cast_bias_weight}
        )
        self.memory_usage_factor = architecture.dim / WIDTH_PER_MEMORY_UNIT


class Magi1Model(comfy.model_base.BaseModel):
    """MAGI-1 under ComfyUI's sampling. Only our sampler knows what a chunk sees; others are refused.

    Args:
        info: about the checkpoint.
    """

    def __init__(self, config: Magi1ModelConfig, info: Magi1Info, device: torch.device | None = None):
        super().__init__(config, comfy.model_base.ModelType.FLOW, device=device, unet_model=Magi1Transformer)
        self.info = info

    def _apply_model(
        self,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Prediction of the clean latents, ``[R, 16, F, h, w]`` float32."""
        options = transformer_options or {}
        wrappers = comfy.patcher_extension.get_all_wrappers(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, options)
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(
            _needs_our_sampler, self.diffusion_model, wrappers
        )
        velocity = executor.execute(x.float(), t, c_crossattn, transformer_options=options)
        return self.model_sampling.calculate_denoised(t, velocity.float(), x)


def _needs_our_sampler(*args: Any, **kwargs: Any) -> Tensor:
    raise UnsupportedError(
        f"MAGI-1 makes a video chunk by chunk, with a noise level for each; use the node '{SAMPLER_NAME}' to sample it"
    )


def load_magi1(layout: Layout, tensors: dict[str, Tensor], weight_dtype: str = "default") -> Any:
    """ComfyUI's MODEL (a ModelPatcher) for the tensors of a checkpoint.

    The blocks compute in bfloat16 where the device does it well, else in float32; float8 layers of the quantised
    variants stay as they are.

    Args:
        tensors: official key -> tensor, all of the layout.
        weight_dtype: a key of :data:`WEIGHT_DTYPES`.

    Raises:
        ValueError: unknown weight_dtype.
        UnsupportedError: float8 weights on a device that cannot hold them.
    """
    if weight_dtype not in WEIGHT_DTYPES:
        raise ValueError(f"weight_dtype {weight_dtype!r} is unknown; legal are {', '.join(WEIGHT_DTYPES)}")
    load_device = comfy.model_management.get_torch_device()
    offload_device = comfy.model_management.unet_offload_device()
    float8 = comfy.model_management.supports_cast(load_device, torch.float8_e4m3fn)
    if not float8:
        _refuse_float8(layout, weight_dtype, load_device)
    fast = comfy.model_management.should_use_bf16(load_device) and weight_dtype != "fp32"
    compute = torch.bfloat16 if fast else torch.float32
    stored = WEIGHT_DTYPES[weight_dtype] or _kept(tensors, compute)
    if stored.itemsize == 1 and not float8:
        stored = compute
    model = Magi1Model(
        Magi1ModelConfig(layout.config, compute, stored), Magi1Info(layout.name, layout.config, layout.distilled)
    )
    model.diffusion_model.load_state_dict(tensors)
    model.diffusion_model.requires_grad_(False)
    model.to(offload_device)
    return comfy.model_patcher.ModelPatcher(model, load_device=load_device, offload_device=offload_device)


def _refuse_float8(layout: Layout, weight_dtype: str, device: torch.device) -> None:
    """For devices without float8 numbers (Apple's, DirectML)."""
    if weight_dtype.startswith("fp8"):
        raise UnsupportedError(f"weight_dtype is {weight_dtype}, which {device.type} cannot hold (nearest: bf16)")
    if layout.config.fp8:
        raise UnsupportedError(
            f"model_name is {layout.name}, whose weights are float8, which {device.type} cannot hold; take the one "
            "that is not quantised"
        )


def _kept(tensors: dict[str, Tensor], compute: torch.dtype) -> torch.dtype:
    """What matrices are kept in by default: small types as they are, others as they are computed with."""
    own = tensors[f"{PREFIX}0.self_attention.linear_qkv.q.weight"].dtype
    return own if own.itemsize < compute.itemsize or own == torch.float16 else compute
