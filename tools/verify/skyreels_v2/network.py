"""The network of a case: ComfyUI's Wan model with the case's weights, and our adapter over it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from motioncache_core.models.skyreels_v2.adapter import SkyReelsV2Adapter
from motioncache_core.models.skyreels_v2.checkpoint import fps_delta

from ..folder import Case

_ARGUMENTS = ("dim", "ffn_dim", "freq_dim", "text_dim", "num_heads", "num_layers", "in_dim", "out_dim")
_WIDENED = "bfloat16 values used as float32"
FRAME_RATES = (16, 24)
"""Frames a second by the index that a model is given."""
_OPTIONAL = ("text_len", "eps", "qk_norm", "cross_attn_norm")


def dtype_of(case: Case) -> torch.dtype:
    """The computation's dtype; stored weights and embeddings of another one are cast to it."""
    return getattr(torch, case.record["dtype"])


def build(case: Case) -> SkyReelsV2Adapter:
    """The case's model. ComfyUI must be importable."""
    import comfy.ops
    from comfy.ldm.wan.model import WanModel

    config, dtype = case.config, dtype_of(case)
    case.expect(weights_rule=_WIDENED, context_rule=_WIDENED)
    arguments = {name: config[name] for name in _ARGUMENTS}
    arguments |= {name: config[name] for name in _OPTIONAL if name in config}
    arguments["patch_size"] = tuple(config.get("patch_size", (1, 2, 2)))
    network = WanModel(**arguments, operations=comfy.ops.disable_weight_init, dtype=dtype, device="cpu")
    weights = {name: weight.to(dtype) for name, weight in case.weights().items()}
    fps = {name: weights.pop(name).float() for name in list(weights) if name.startswith("fps_")}
    network.load_state_dict(weights)
    terms = fps_delta(fps) if config.get("inject_sample_info") else None
    return SkyReelsV2Adapter(network.eval(), attention, terms)


def attention(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Scaled dot-product attention without a mask, in the tensors' own precision."""
    split = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (queries, keys, values))
    return nn.functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


class Tap:
    """Keeps the last output (or first argument) of sub-modules while it is open; changes nothing.

    Args:
        outputs: name -> module whose output is kept.
        arguments: name -> module whose first argument is kept.
    """

    def __init__(self, outputs: dict[str, nn.Module] | None = None, arguments: dict[str, nn.Module] | None = None):
        self.kept: dict[str, Tensor] = {}
        self._outputs, self._arguments = outputs or {}, arguments or {}
        self._hooks: list = []

    def __enter__(self) -> Tap:
        for name, module in self._outputs.items():
            self._hooks.append(module.register_forward_hook(lambda m, a, result, name=name: self._keep(name, result)))
        for name, module in self._arguments.items():
            self._hooks.append(module.register_forward_pre_hook(lambda m, args, name=name: self._keep(name, args[0])))
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _keep(self, name: str, tensor: Tensor) -> None:
        self.kept[name] = tensor
