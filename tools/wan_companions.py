"""Key names of what comes beside the transformer: the Wan 2.1 VAE and the umt5-xxl text encoder.

Both are loaded by ComfyUI's own nodes; the rules serve the verifier, tiny checkpoints and tests.
Checked against the key lists of the real files (Wan-Video/Wan2.1, diffusers ``AutoencoderKLWan``, transformers
``UMT5EncoderModel``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of a Wan 2.1 VAE. Width of level i is ``dim * multipliers[i]``."""

    dim: int = 96
    z_dim: int = 16
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks_per_level: int = 2
    temporal: tuple[bool, ...] = (False, True, True)
    """Whether the step down from level i halves time too; the way up mirrors it."""


def _conv(name: str, out: int, into: int, *kernel: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (out, into, *kernel)
    yield f"{name}.bias", (out,)


def _residual(name: str, into: int, out: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.residual.0.gamma", (into, 1, 1, 1)
    yield from _conv(f"{name}.residual.2", out, into, 3, 3, 3)
    yield f"{name}.residual.3.gamma", (out, 1, 1, 1)
    yield from _conv(f"{name}.residual.6", out, out, 3, 3, 3)
    if into != out:
        yield from _conv(f"{name}.shortcut", out, into, 1, 1, 1)


def _middle(name: str, dim: int) -> Iterator[tuple[str, Shape]]:
    yield from _residual(f"{name}.0", dim, dim)
    yield f"{name}.1.norm.gamma", (dim, 1, 1)
    yield from _conv(f"{name}.1.to_qkv", 3 * dim, dim, 1, 1)
    yield from _conv(f"{name}.1.proj", dim, dim, 1, 1)
    yield from _residual(f"{name}.2", dim, dim)


def _encoder(config: VAEConfig) -> Iterator[tuple[str, Shape]]:
    widths = [config.dim * m for m in (1, *config.multipliers)]
    yield from _conv("encoder.conv1", widths[0], 3, 3, 3, 3)
    index = 0
    for level, (into, out) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        for block in range(config.blocks_per_level):
            yield from _residual(f"encoder.downsamples.{index}", into if block == 0 else out, out)
            index += 1
        if level < len(config.temporal):
            yield from _conv(f"encoder.downsamples.{index}.resample.1", out, out, 3, 3)
            if config.temporal[level]:
                yield from _conv(f"encoder.downsamples.{index}.time_conv", out, out, 3, 1, 1)
            index += 1
    yield from _middle("encoder.middle", widths[-1])
    yield "encoder.head.0.gamma", (widths[-1], 1, 1, 1)
    yield from _conv("encoder.head.2", 2 * config.z_dim, widths[-1], 3, 3, 3)


def _decoder(config: VAEConfig) -> Iterator[tuple[str, Shape]]:
    widths = [config.dim * m for m in (config.multipliers[-1], *reversed(config.multipliers))]
    temporal = config.temporal[::-1]
    yield from _conv("decoder.conv1", widths[0], config.z_dim, 3, 3, 3)
    yield from _middle("decoder.middle", widths[0])
    index = 0
    for level, (into, out) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        if level > 0:
            into //= 2  # the upsampling step before this level has halved the channels
        for block in range(config.blocks_per_level + 1):
            yield from _residual(f"decoder.upsamples.{index}", into if block == 0 else out, out)
            index += 1
        if level < len(temporal):
            yield from _conv(f"decoder.upsamples.{index}.resample.1", out // 2, out, 3, 3)
            if temporal[level]:
                yield from _conv(f"decoder.upsamples.{index}.time_conv", 2 * out, out, 3, 1, 1)
            index += 1
    yield "decoder.head.0.gamma", (widths[-1], 1, 1, 1)
    yield from _conv("decoder.head.2", 3, widths[-1], 3, 3, 3)


def vae_keys(config: VAEConfig | None = None) -> dict[str, Shape]:
    """Official key -> shape of a Wan 2.1 VAE."""
    config = config or VAEConfig()
    keys = dict(_encoder(config))
    keys.update(_conv("conv1", 2 * config.z_dim, 2 * config.z_dim, 1, 1, 1))
    keys.update(_conv("conv2", config.z_dim, config.z_dim, 1, 1, 1))
    keys.update(_decoder(config))
    return keys


_RESIDUAL_TO_DIFFUSERS = {
    "residual.0": "norm1",
    "residual.2": "conv1",
    "residual.3": "norm2",
    "residual.6": "conv2",
    "shortcut": "conv_shortcut",
}
_MIDDLE_TO_DIFFUSERS = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
_END_TO_DIFFUSERS = {"conv1": "conv_in", "head.0": "norm_out", "head.2": "conv_out"}


def vae_official_to_diffusers(key: str, blocks_per_level: int = 2) -> str:
    """Diffusers ``AutoencoderKLWan`` name of an official VAE key.

    The encoder's blocks are one flat list in both; the decoder's flat list becomes ``up_blocks`` of
    ``blocks_per_level + 1`` resnets and one upsampler.

    Raises:
        ValueError: not a key of the Wan 2.1 VAE.
    """
    layer, _, kind = key.rpartition(".")
    if layer in ("conv1", "conv2"):
        return f"{'quant_conv' if layer == 'conv1' else 'post_quant_conv'}.{kind}"
    side, _, rest = layer.partition(".")
    if side in ("encoder", "decoder"):
        if rest in _END_TO_DIFFUSERS:
            return f"{side}.{_END_TO_DIFFUSERS[rest]}.{kind}"
        group, _, place = rest.partition(".")
        number, _, part = place.partition(".")
        part = _RESIDUAL_TO_DIFFUSERS.get(part, part)
        if group == "middle" and number in _MIDDLE_TO_DIFFUSERS:
            return f"{side}.mid_block.{_MIDDLE_TO_DIFFUSERS[number]}.{part}.{kind}"
        if group == "downsamples" and side == "encoder" and number.isdecimal():
            return f"encoder.down_blocks.{number}.{part}.{kind}"
        if group == "upsamples" and side == "decoder" and number.isdecimal():
            level, place_in_level = divmod(int(number), blocks_per_level + 2)
            last = place_in_level == blocks_per_level + 1
            unit = "upsamplers.0" if last else f"resnets.{place_in_level}"
            return f"decoder.up_blocks.{level}.{unit}.{part}.{kind}"
    raise ValueError(f"{key!r} is not a key of the Wan 2.1 VAE")


def vae_diffusers_map(config: VAEConfig | None = None) -> dict[str, str]:
    """Diffusers key -> official key of a Wan 2.1 VAE; shapes are equal."""
    config = config or VAEConfig()
    return {vae_official_to_diffusers(key, config.blocks_per_level): key for key in vae_keys(config)}


@dataclass(frozen=True)
class TextEncoderConfig:
    """Sizes of a umt5 encoder (defaults: umt5-xxl)."""

    vocabulary: int = 256384
    dim: int = 4096
    attention_dim: int = 4096
    ffn_dim: int = 10240
    num_heads: int = 64
    num_layers: int = 24
    buckets: int = 32


_UMT5_BLOCK = {
    "norm1": "layer.0.layer_norm",
    "attn.q": "layer.0.SelfAttention.q",
    "attn.k": "layer.0.SelfAttention.k",
    "attn.v": "layer.0.SelfAttention.v",
    "attn.o": "layer.0.SelfAttention.o",
    "norm2": "layer.1.layer_norm",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
}


def umt5_keys(config: TextEncoderConfig | None = None) -> dict[str, Shape]:
    """Official key -> shape of the text encoder."""
    c = config or TextEncoderConfig()
    shapes: dict[str, Shape] = {
        "norm1": (c.dim,),
        "attn.q": (c.attention_dim, c.dim),
        "attn.k": (c.attention_dim, c.dim),
        "attn.v": (c.attention_dim, c.dim),
        "attn.o": (c.dim, c.attention_dim),
        "norm2": (c.dim,),
        "ffn.gate.0": (c.ffn_dim, c.dim),
        "ffn.fc1": (c.ffn_dim, c.dim),
        "ffn.fc2": (c.dim, c.ffn_dim),
        "pos_embedding.embedding": (c.buckets, c.num_heads),
    }
    keys: dict[str, Shape] = {"token_embedding.weight": (c.vocabulary, c.dim)}
    for i in range(c.num_layers):
        keys.update({f"blocks.{i}.{name}.weight": shape for name, shape in shapes.items()})
    keys["norm.weight"] = (c.dim,)
    return keys


def umt5_transformers_map(num_layers: int = 24) -> dict[str, str]:
    """Key of transformers' ``UMT5EncoderModel`` (and of ComfyUI's text encoder files) -> official key."""
    names = {"shared.weight": "token_embedding.weight"}
    for i in range(num_layers):
        for here, there in _UMT5_BLOCK.items():
            names[f"encoder.block.{i}.{there}.weight"] = f"blocks.{i}.{here}.weight"
    names["encoder.final_layer_norm.weight"] = "norm.weight"
    return names
