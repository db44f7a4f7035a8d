"""Sizes of MAGI-1's VAE: from a `config.json`, or the official ones; and the tensors that a checkpoint must hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

Shape = tuple[int, ...]

_FIXED = {
    "double_z": True,
    "with_cls_token": True,
    "norm_code": False,
    "ln_in_attn": True,
    "conv_last_layer": True,
    "use_rope": False,
    "use_final_proj": False,
}
"""Switches of the original that no published checkpoint sets otherwise."""


class VaeConfigError(ValueError):
    """A description that is not of a MAGI-1 VAE; the message names the entry."""


@dataclass(frozen=True)
class VaeConfig:
    """Sizes, under the names of the official `config.json` (entry ``ddconfig``); the defaults are the official ones.

    Args:
        video_size: pixels along each side of the learned positions.
        video_length: frames of the learned positions.
        patch_size: pixels of a latent, along each side.
        patch_length: frames of a latent frame.
        in_chans: colour channels.
        z_chans: latent channels.
        embed_dim: width of the transformers.
        depth: blocks of each.
        num_heads: heads of each.
        mlp_ratio: width of the MLP over ``embed_dim``.
        qkv_bias: whether queries, keys and values have a bias.

    Raises:
        VaeConfigError: sizes that do not fit together.
    """

    video_size: int = 256
    video_length: int = 16
    patch_size: int = 8
    patch_length: int = 4
    in_chans: int = 3
    z_chans: int = 16
    embed_dim: int = 1024
    depth: int = 24
    num_heads: int = 16
    mlp_ratio: float = 4
    qkv_bias: bool = True

    def __post_init__(self) -> None:
        sizes = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, size in sizes.items():
            kinds = (int, float) if name == "mlp_ratio" else (bool,) if name == "qkv_bias" else (int,)
            if not isinstance(size, kinds) or (name != "qkv_bias" and (isinstance(size, bool) or size <= 0)):
                raise VaeConfigError(f"{name} is {size!r}; expected a positive number")
        for whole, part in (
            ("video_size", "patch_size"),
            ("video_length", "patch_length"),
            ("embed_dim", "num_heads"),
        ):
            if sizes[whole] % sizes[part]:
                raise VaeConfigError(f"{whole} {sizes[whole]} is not a multiple of {part} {sizes[part]}")
        if self.embed_dim % self.patch_volume:
            raise VaeConfigError(
                f"embed_dim {self.embed_dim} is not a multiple of a patch's {self.patch_volume} pixels"
            )

    @property
    def grid(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns of the learned positions."""
        side = self.video_size // self.patch_size
        return self.video_length // self.patch_length, side, side

    @property
    def positions(self) -> int:
        """Rows of the table of positions: the grid's, and the class token's in front."""
        return math.prod(self.grid) + 1

    @property
    def patch_volume(self) -> int:
        """Pixels of a patch over its frames."""
        return self.patch_length * self.patch_size**2

    @property
    def pixel_channels(self) -> int:
        """Channels of a pixel before the last convolution."""
        return self.embed_dim // self.patch_volume


OFFICIAL = VaeConfig()


def config_from(content: Mapping[str, Any]) -> VaeConfig:
    """Sizes from the content of an official `config.json`, or from its ``ddconfig`` alone.

    Raises:
        VaeConfigError: it describes something else.
    """
    described = content.get("ddconfig", content)
    if not isinstance(described, Mapping) or "patch_length" not in described:
        raise VaeConfigError("there is no entry 'ddconfig' with the sizes of a MAGI-1 VAE")
    if content.get("model_type", "vit") != "vit":
        raise VaeConfigError(f"model_type is {content['model_type']!r}; only 'vit' is known")
    for name, value in _FIXED.items():
        if described.get(name, value) != value:
            raise VaeConfigError(f"{name} is {described[name]!r}; only {value!r} is known")
    known = {field.name for field in fields(VaeConfig)}
    return VaeConfig(**{name: value for name, value in described.items() if name in known})


def expected_keys(config: VaeConfig) -> dict[str, Shape]:
    """Official key -> shape of every tensor of a checkpoint."""
    width, hidden = config.embed_dim, int(config.embed_dim * config.mlp_ratio)
    patch = (config.patch_length, config.patch_size, config.patch_size)
    block = {
        "attn.qkv.weight": (3 * width, width),
        **({"attn.qkv.bias": (3 * width,)} if config.qkv_bias else {}),
        "attn.proj.weight": (width, width),
        "attn.proj.bias": (width,),
        "norm2.weight": (width,),
        "norm2.bias": (width,),
        "mlp.fc1.weight": (hidden, width),
        "mlp.fc1.bias": (hidden,),
        "mlp.fc2.weight": (width, hidden),
        "mlp.fc2.bias": (width,),
    }
    shared = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, config.positions, width),
        "norm.weight": (width,),
        "norm.bias": (width,),
        **{f"blocks.{i}.{name}": shape for i in range(config.depth) for name, shape in block.items()},
    }
    encoder = {
        "patch_embed.proj.weight": (width, config.in_chans, *patch),
        "patch_embed.proj.bias": (width,),
        "last_layer.weight": (2 * config.z_chans, width),
        "last_layer.bias": (2 * config.z_chans,),
    }
    decoder = {
        "proj_in.weight": (width, config.z_chans),
        "proj_in.bias": (width,),
        "last_layer.weight": (config.in_chans, config.pixel_channels, 3, 3, 3),
        "last_layer.bias": (config.in_chans,),
    }
    return {f"encoder.{name}": shape for name, shape in (shared | encoder).items()} | {
        f"decoder.{name}": shape for name, shape in (shared | decoder).items()
    }
