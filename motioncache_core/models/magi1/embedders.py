"""What the blocks are conditioned on: time, step length and text. All of it in float32, as the original computes it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .architecture import TIME_CHANNELS, ArchitectureConfig
from .casting import Build


class TimeEmbedding(nn.Module):
    """Time in [0, 1] -> ``[U, dim / 4]``; also used for the step length of the distilled models."""

    def __init__(self, config: ArchitectureConfig, build: Build):
        super().__init__()
        c = config.condition_dim
        self.mlp = nn.Sequential(build.precise_linear(TIME_CHANNELS, c), nn.SiLU(), build.precise_linear(c, c))

    def forward(self, times: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
        """float32 embedding of several times; the sinusoid passes through ``dtype``, the network's own."""
        return self.mlp(sinusoid(times, device).to(dtype).float())


def sinusoid(times: Sequence[float], device: torch.device) -> Tensor:
    """``[U, 256]`` cosines, then sines, of 1000 * t * 10000^(-k / 128), float32.

    The factor 1000 comes last: in float32 the order shows, and the weights were trained with this one.
    """
    half = TIME_CHANNELS // 2
    steps = torch.arange(half, dtype=torch.float32, device=device)
    frequencies = torch.exp(-math.log(10000) * steps / half)
    angles = torch.tensor(times, dtype=torch.float32, device=device).unsqueeze(1) * frequencies * 1000.0
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class NullCaption(nn.Module):
    """The learned text of "no text", in a module of its own so that ComfyUI's partial loading can move it."""

    def __init__(self, config: ArchitectureConfig, build: Build):
        super().__init__()
        self.weight = build.precise_parameter(config.text_tokens, config.text_dim)


class TextEmbedding(nn.Module):
    """Text tokens for the cross-attention, and two learned vectors that say whether there is text at all.

    State dicts with the official key ``null_caption_embedding`` load; the module's own key has ``.weight`` behind it,
    because ComfyUI finds a parameter by the path that its key spells.
    """

    def __init__(self, config: ArchitectureConfig, build: Build):
        super().__init__()
        self.null_tokens = config.null_tokens
        self.null_caption_embedding = NullCaption(config, build)
        self.y_proj_xattn = nn.Sequential(build.precise_linear(config.text_dim, config.dim), nn.SiLU())
        self.y_proj_adaln = nn.Sequential(build.precise_linear(config.text_dim, config.condition_dim))
        self.register_load_state_dict_pre_hook(_take_official_key)

    def forward(self, text: Tensor | None, device: torch.device) -> Tensor:
        """``[L, text_dim]`` text tokens, or ``None`` for the null text -> ``[L, dim]`` float32."""
        if text is None:
            text = self.null_caption_embedding.weight[: self.null_tokens]
        return self.y_proj_xattn(text.to(device=device, dtype=torch.float32))

    def presence(self, dropped: Sequence[bool], device: torch.device) -> Tensor:
        """``[U, dim / 4]`` float32: learned vectors for "text kept" (second last row) and "dropped" (last row)."""
        rows = self.null_caption_embedding.weight[-2:].to(device=device, dtype=torch.float32)
        return self.y_proj_adaln(rows)[[int(flag) for flag in dropped]]


def _take_official_key(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    official = prefix + "null_caption_embedding"
    if official in state_dict:
        state_dict[official + ".weight"] = state_dict.pop(official)
