"""MAGI-1's VAE: a vision transformer to encode, one to decode, 4 x 8 x 8 pixels to one latent of 16 channels.

Both see a whole tile at once: patches, one class token, learned positions (resized to the tile), blocks without a norm
before attention, but with queries, keys and values normalised by head. Sources: the public code of SandAI-org/MAGI-1
(Apache-2.0) for names, formulas and layouts.

The network is built from `operations` (ComfyUI's, or ``torch.nn``) and an attention function, both handed in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .vae_config import VaeConfig

AttentionFunction = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""(queries [B, N, C], keys [B, N, C], values [B, N, C], heads) -> [B, N, C]."""

HEAD_EPS = 1e-5


class Magi1Vae(nn.Module):
    """Encoder and decoder for one tile.

    Args:
        config: sizes.
        operations: namespace with Linear, LayerNorm and Conv3d that take ``dtype`` and ``device``; where weights are
            not float32 they must cast the weights to their input (ComfyUI's ``manual_cast``).
        attention: attention function.
        dtype: of the weights; matrix products run in it.
    """

    def __init__(
        self,
        config: VaeConfig,
        *,
        operations: Any,
        attention: AttentionFunction,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        self.config = config
        self.encoder = _Encoder(config, operations, attention, dtype, device)
        self.decoder = _Decoder(config, operations, attention, dtype, device)

    def moments(self, video: Tensor) -> Tensor:
        """``[B, 3, T, H, W]`` in -1..1 -> ``[B, 32, t, h, w]``: mean, then log variance.

        A single frame stands for an image: it is repeated to fill one latent frame. Of other lengths, frames that fill
        no latent frame at the end are left out.

        Raises:
            ValueError: T is neither 1 nor at least a patch long.
        """
        length = self.config.patch_length
        if video.shape[2] == 1:
            video = video.expand(-1, -1, length, -1, -1)
        elif video.shape[2] < length:
            raise ValueError(f"{video.shape[2]} frames fill no latent frame; give 1 (an image) or at least {length}")
        return self.encoder(video)

    def encode(self, video: Tensor) -> Tensor:
        """``[B, 3, T, H, W]`` in -1..1 -> ``[B, 16, t, h, w]``: the mean, unscaled."""
        return self.moments(video).chunk(2, dim=1)[0]

    def decode(self, latent: Tensor, *, single_image: bool = False) -> Tensor:
        """``[B, 16, t, h, w]`` unscaled -> ``[B, 3, 4t, 8h, 8w]`` about -1..1, in the weights' dtype.

        Args:
            latent: float32, or the weights' dtype.
            single_image: the latent frame stands for an image; one frame comes back.
        """
        video = self.decoder(latent)
        return video[:, :, :1] if single_image else video


def sample(moments: Tensor, noise: Tensor) -> Tensor:
    """A draw from the encoder's distribution: ``[B, 32, t, h, w]``, ``[B, 16, t, h, w]`` -> ``[B, 16, t, h, w]``.

    MAGI-1 itself always takes the mean.
    """
    mean, log_variance = moments.chunk(2, dim=1)
    return (mean + torch.exp(0.5 * log_variance.clamp(-30.0, 20.0)) * noise).to(mean.dtype)


class _Transformer(nn.Module):
    """What encoder and decoder share: class token, positions, blocks, last norm.

    ``cls_token`` and ``pos_embed`` are cast where they are used: ComfyUI leaves such parameters where they are when it
    loads a model in part.
    """

    def __init__(
        self,
        config: VaeConfig,
        operations: Any,
        attention: AttentionFunction,
        dtype: torch.dtype,
        device: torch.device | str | None,
    ):
        super().__init__()
        width, where = config.embed_dim, {"dtype": dtype, "device": device}
        self.grid, self.dtype = config.grid, dtype
        self.cls_token = nn.Parameter(torch.empty(1, 1, width, **where), requires_grad=False)
        self.pos_embed = nn.Parameter(torch.empty(1, config.positions, width, **where), requires_grad=False)
        self.blocks = nn.ModuleList(_Block(config, operations, attention, **where) for _ in range(config.depth))
        self.norm = operations.LayerNorm(width, eps=1e-5, **where)

    def transform(self, tokens: Tensor, grid: tuple[int, int, int], stream: torch.dtype | None) -> Tensor:
        """``[B, t*h*w, C]`` patches in (t, h, w) order -> the same after all blocks and the norm.

        Args:
            stream: where positions are resized, precision of them and of the residual stream; ``None``: as the tokens.
        """
        cls, table = (p.to(tokens.device) for p in (self.cls_token, self.pos_embed))
        x = torch.cat((cls.to(tokens.dtype).expand(len(tokens), -1, -1), tokens), dim=1)
        if grid == self.grid:
            x = x + table.to(x.dtype)
        else:
            table = table.to(stream or x.dtype)
            x = x.to(table.dtype) + torch.cat((table[:, :1], self._resized(table[:, 1:], grid)), dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 1:]

    def _resized(self, table: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """``[1, N, C]`` positions of the learned grid -> those of another grid, trilinear, corners not aligned."""
        volume = table.unflatten(1, self.grid).movedim(-1, 1)
        resized = nn.functional.interpolate(volume, size=grid, mode="trilinear", align_corners=False)
        return resized.movedim(1, -1).flatten(1, 3)


class _Encoder(_Transformer):
    def __init__(self, config: VaeConfig, operations: Any, attention: AttentionFunction, dtype: Any, device: Any):
        super().__init__(config, operations, attention, dtype, device)
        self.patch_embed = _PatchEmbed(config, operations, dtype=dtype, device=device)
        self.last_layer = operations.Linear(config.embed_dim, 2 * config.z_chans, dtype=dtype, device=device)

    def forward(self, video: Tensor) -> Tensor:
        patches = self.patch_embed.proj(video.to(self.dtype))
        grid = tuple(patches.shape[2:])
        x = self.transform(patches.flatten(2).transpose(1, 2), grid, None)
        return self.last_layer(x.to(self.dtype)).transpose(1, 2).unflatten(2, grid)


class _PatchEmbed(nn.Module):
    def __init__(self, config: VaeConfig, operations: Any, **where: Any):
        super().__init__()
        patch = (config.patch_length, config.patch_size, config.patch_size)
        self.proj = operations.Conv3d(config.in_chans, config.embed_dim, kernel_size=patch, stride=patch, **where)


class _Decoder(_Transformer):
    def __init__(self, config: VaeConfig, operations: Any, attention: AttentionFunction, dtype: Any, device: Any):
        super().__init__(config, operations, attention, dtype, device)
        self.patch = (config.patch_length, config.patch_size, config.patch_size)
        where = {"dtype": dtype, "device": device}
        self.proj_in = operations.Linear(config.z_chans, config.embed_dim, **where)
        self.last_layer = operations.Conv3d(config.pixel_channels, config.in_chans, kernel_size=3, padding=1, **where)

    def forward(self, latent: Tensor) -> Tensor:
        grid = tuple(latent.shape[2:])
        x = self.proj_in(latent.movedim(1, -1).flatten(1, 3).to(self.dtype))
        # the original decodes under autocast, where resized positions are float32 and make the whole stream so
        x = self.transform(x, grid, torch.float32).to(self.dtype)
        return self.last_layer(self._pixels(x, grid))

    def _pixels(self, x: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """``[B, t*h*w, pt*ph*pw*c]`` -> ``[B, c, t*pt, h*ph, w*pw]``."""
        x = x.unflatten(2, (*self.patch, -1)).unflatten(1, grid)  # b t h w pt ph pw c
        return x.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)


class _Block(nn.Module):
    """x + attention(x), then x + MLP(norm(x))."""

    def __init__(self, config: VaeConfig, operations: Any, attention: AttentionFunction, dtype: Any, device: Any):
        super().__init__()
        width, where = config.embed_dim, {"dtype": dtype, "device": device}
        self.dtype = dtype
        self.attn = _Attention(config, operations, attention, **where)
        self.norm2 = operations.LayerNorm(width, eps=1e-5, **where)
        self.mlp = _Mlp(width, int(width * config.mlp_ratio), operations, **where)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x.to(self.dtype))
        return x + self.mlp(self.norm2(x).to(self.dtype))


class _Attention(nn.Module):
    def __init__(self, config: VaeConfig, operations: Any, attention: AttentionFunction, dtype: Any, device: Any):
        super().__init__()
        width, where = config.embed_dim, {"dtype": dtype, "device": device}
        self.heads, self.attention = config.num_heads, attention
        self.qkv = operations.Linear(width, 3 * width, bias=config.qkv_bias, **where)
        self.proj = operations.Linear(width, width, **where)

    def forward(self, x: Tensor) -> Tensor:
        split = self.qkv(x).unflatten(2, (3, self.heads, -1))
        deviation, mean = torch.std_mean(split, dim=-1, correction=0, keepdim=True)
        queries, keys, values = ((split - mean) / (deviation + HEAD_EPS)).flatten(3).unbind(2)
        return self.proj(self.attention(queries, keys, values, self.heads))


class _Mlp(nn.Module):
    def __init__(self, width: int, hidden: int, operations: Any, dtype: Any, device: Any):
        super().__init__()
        self.fc1 = operations.Linear(width, hidden, dtype=dtype, device=device)
        self.fc2 = operations.Linear(hidden, width, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))
