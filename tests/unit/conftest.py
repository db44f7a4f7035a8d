"""A tiny Wan network of ComfyUI's own classes, for what runs the real forward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture(scope="session")
def wan() -> nn.Module:
    """2 layers of width 32 with 2 heads, random in every layer, float32."""
    import comfy.ops
    from comfy.ldm.wan.model import WanModel

    sizes = {"dim": 32, "ffn_dim": 48, "text_dim": 8, "num_heads": 2, "num_layers": 2, "freq_dim": 16}
    network = WanModel(**sizes, operations=comfy.ops.disable_weight_init, dtype=torch.float32, device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            values = torch.randn(parameter.shape, generator=generator) * 0.25
            parameter.copy_(1 + 0.2 * values if "norm" in name and name.endswith("weight") else values)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def attend():
    """Plain attention of ``[1, n, heads * d]`` queries to m keys and values."""

    def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        q, k, v = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        scores = (q @ k.transpose(2, 3)) / q.shape[-1] ** 0.5
        return (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)

    return attention
