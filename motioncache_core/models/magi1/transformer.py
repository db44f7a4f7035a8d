"""The MAGI-1 video transformer, built from the layers handed in, called with items.

    network = Magi1Transformer(config, operations)          # operations: ComfyUI's comfy.ops.manual_cast, or alike
    network.load_state_dict(official_state_dict)
    velocities = network(items, attention, kv)

One call takes any number of :class:`~.items.Item` (a chunk in a role) and gives each its velocity. What a guidance or a
schedule is, the network does not know. The schemes in use:

- *window* (the original): one item a chunk; ``reads_of_range`` gives each the stored rows before the window and the
  window's own rows from this call. A finished chunk is put in front with t = 0.9999, ``text=None`` and ``writes``.
- *chunk by chunk*: one item a call, ``writes`` its rows and ``reads`` them back with those before:
  ``reads=(Stored(role, a, b),)`` with b the end of its own rows. With ``chosen`` only those tokens run; their rows of
  the store are replaced, the others stay.
- *alone* (no history): ``reads=(Fresh(own place),)``, ``start=0``, no ``writes``.
- *nearly clean* (distilled): the cleanest chunk again, alone, ``start`` right behind the window.
- three-way guidance: the items of all passes in one call, every pass with its own ``reads``; one of them writes.

Precision as in the original: blocks in the network's dtype (bfloat16); in float32 the embedders, q/k norm and rotary
turn, the attention's output projection (but where it is float8), gates, post norms, residual sums and the head.

Facts of the architecture: SandAI-org/MAGI-1 (arXiv 2505.13211) and its public code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ...kv_cache import KVCache
from .architecture import LATENT_CHANNELS, PATCH_SIZE, ArchitectureConfig
from .attention import AttentionFunction, JointAttention, Packed, block_linear
from .casting import Build, CastFunction, NormPlusOne, cast_bias_weight
from .embedders import TextEmbedding, TimeEmbedding
from .items import Item, Stored
from .rotary import LearnedBands
from .stretches import MATRIX_VALUES_AT_ONCE, by_rows


class Gates(nn.Module):
    """Condition -> the gates of attention and feed-forward, each in (-1, 1)."""

    def __init__(self, config: ArchitectureConfig, build: Build):
        super().__init__()
        self.proj = nn.Sequential(build.linear(config.condition_dim, 2 * config.dim, bias=True))

    def forward(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """``[U, dim / 4]`` -> two of ``[U, dim]``."""
        return self.proj(nn.functional.silu(condition)).float().tanh().to(condition.dtype).chunk(2, dim=1)


class FeedForward(nn.Module):
    """Norm, then GELU (4.5B) or gated SiLU (24B) between two linear layers."""

    def __init__(self, config: ArchitectureConfig, quantised: bool, build: Build):
        super().__init__()
        self.gated = config.gated
        self.layer_norm = build.layer_norm(config.dim, config.eps)
        self.inner = config.ffn_dim * (2 if config.gated else 1)
        self.linear_fc1 = block_linear(config.dim, self.inner, quantised, False, build)
        self.linear_fc2 = block_linear(config.ffn_dim, config.dim, quantised, True, build)

    def forward(self, x: Tensor) -> Tensor:
        return by_rows(self._rows, x, width=self.inner, at_once=MATRIX_VALUES_AT_ONCE)

    def _rows(self, x: Tensor) -> Tensor:
        inner = self.linear_fc1(self.layer_norm(x))
        inner = by_rows(_gated, inner) if self.gated else nn.functional.gelu(inner)
        return self.linear_fc2(inner)


def _gated(inner: Tensor) -> Tensor:
    """``[N, 2 * ffn_dim]`` gates and values -> ``[N, ffn_dim]``, computed in float32."""
    gate, value = inner.float().chunk(2, dim=1)
    return (nn.functional.silu(gate) * value).to(inner.dtype)


class Block(nn.Module):
    """One layer. Attribute names are those of the checkpoint's keys."""

    def __init__(self, config: ArchitectureConfig, layer: int, build: Build):
        super().__init__()
        self.layer = layer
        self.ada_modulate_layer = Gates(config, build)
        self.self_attention = JointAttention(config, config.quantised(layer), build)
        self.self_attn_post_norm = NormPlusOne(config.dim, config.eps, build)
        self.mlp = FeedForward(config, config.quantised(layer), build)
        self.mlp_post_norm = NormPlusOne(config.dim, config.eps, build)

    def forward(self, x: Tensor, packed: Packed) -> Tensor:
        """``[N, dim]`` -> ``[N, dim]``."""
        attention_gate, ffn_gate = self.ada_modulate_layer(packed.condition)
        x = _add_gated(x, self.self_attention(self.layer, x, packed), attention_gate, self.self_attn_post_norm, packed)
        return _add_gated(x, self.mlp(x), ffn_gate, self.mlp_post_norm, packed)


def _add_gated(x: Tensor, new: Tensor, gate: Tensor, norm: nn.Module, packed: Packed) -> Tensor:
    """x + norm(new * gate), in float32, rounded to the dtype of ``x`` at the end."""

    def of_item(row: int, start: int, stop: int) -> Tensor:
        def add(old: Tensor, more: Tensor) -> Tensor:
            return (norm(more.float() * gate[row].float()) + old.float()).to(old.dtype)

        return by_rows(add, x[start:stop], new[start:stop])

    return torch.cat([of_item(row, *span) for row, span in enumerate(packed.spans)])


class Blocks(nn.Module):
    """All layers and the norm behind them."""

    def __init__(self, config: ArchitectureConfig, build: Build):
        super().__init__()
        self.layers = nn.ModuleList([Block(config, i, build) for i in range(config.num_layers)])
        self.final_layernorm = NormPlusOne(config.dim, config.eps, build)

    def forward(self, x: Tensor, packed: Packed) -> Tensor:
        for block in self.layers:
            x = block(x, packed)
        return by_rows(self.final_layernorm, x)


class Head(nn.Module):
    """Tokens -> the values of their patches."""

    def __init__(self, config: ArchitectureConfig, build: Build):
        super().__init__()
        columns = config.in_channels * PATCH_SIZE[1] * PATCH_SIZE[2]
        self.linear = build.precise_linear(config.dim, columns, bias=False)


class Magi1Transformer(nn.Module):
    """The network. Attribute names are those of the checkpoint's keys.

    Args:
        config: sizes.
        operations: classes that its layers are made of, see :class:`~.casting.Build`.
        dtype: in which the blocks compute; with float32 everything is float32.
        device: where the parameters are made.
        weight_dtype: in which the blocks' linear weights are stored, if not in ``dtype`` (e.g. plain float8).
        native_float8: let the device multiply the float8 matrices of the quantised variants where it can.
        cast: how layers that are not of ``operations`` cast their weights, see :class:`~.casting.Build`.
    """

    def __init__(
        self,
        config: ArchitectureConfig,
        operations: Any,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | None = None,
        weight_dtype: torch.dtype | None = None,
        native_float8: bool = True,
        cast: CastFunction = cast_bias_weight,
    ):
        super().__init__()
        self.config, self.dtype = config, dtype
        build = Build(operations, weight_dtype or dtype, dtype, device, native_float8, cast)
        patches = {"kernel_size": PATCH_SIZE, "stride": PATCH_SIZE, "bias": False}
        self.x_embedder = operations.Conv3d(
            config.in_channels, config.dim, **patches, dtype=torch.float32, device=device
        )
        self.t_embedder = TimeEmbedding(config, build)
        self.y_embedder = TextEmbedding(config, build)
        self.rope = LearnedBands(config.head_dim, build)
        self.videodit_blocks = Blocks(config, build)
        self.final_linear = Head(config, build)

    def forward(self, items: Sequence[Item], attention: AttentionFunction, kv: KVCache | None = None) -> list[Tensor]:
        """Velocities.

        Args:
            items: what to compute; Items without a token to compute cost nothing.
            attention: attention function.
            kv: store of width ``config.kv_dim``, needed if an item reads or writes it.

        Returns:
            For every item ``[16, F, h, w]`` float32, zero at tokens that were not chosen.

        Raises:
            ValueError: an item uses a store and none is given.
        """
        if kv is None and any(i.writes or any(isinstance(s, Stored) for s in i.reads) for i in items):
            raise ValueError("an item reads or writes stored keys and values, but no store is given")
        places = [place for place, item in enumerate(items) if item.computed]
        active = [items[place] for place in places]
        hidden: Tensor | None = None
        if active:
            packed = self._pack(active, places, attention, kv)
            tokens = [self._tokens(item) for item in active]
            hidden = self.videodit_blocks(torch.cat(tokens), packed)
        outputs = []
        for place, item in enumerate(items):
            if place in places:
                start, stop = packed.spans[places.index(place)]
                outputs.append(self._velocity(item, hidden[start:stop]))
            else:
                outputs.append(torch.zeros_like(item.latents, dtype=torch.float32))
        return outputs

    def embed(self, latents: Tensor) -> Tensor:
        """``[16, F, h, w]`` latents -> ``[F * H * W, dim]`` float32 tokens; what MotionCache measures distances on."""
        x = latents.unsqueeze(0).float() * self.config.x_rescale
        if self.config.doubled_channels:
            x = torch.cat([x, x], dim=1)
        return self.x_embedder(x)[0].flatten(1).t()

    def condition(self, items: Sequence[Item], device: torch.device) -> Tensor:
        """``[U, dim / 4]`` float32: time, step length and the presence of text, one row an item."""
        condition = self.t_embedder([item.timestep for item in items], self.dtype, device)
        stepped = [(row, item.step_length) for row, item in enumerate(items) if item.step_length is not None]
        if stepped:
            rows, lengths = zip(*stepped, strict=True)
            condition = condition.index_add(
                0, torch.tensor(rows, device=device), self.t_embedder(lengths, self.dtype, device)
            )
        return condition + self.y_embedder.presence([item.text_dropped for item in items], device)

    def _tokens(self, item: Item) -> Tensor:
        tokens = self.embed(item.latents)
        return (tokens if item.chosen is None else tokens[item.chosen]).to(self.dtype)

    def _pack(
        self, items: Sequence[Item], places: Sequence[int], attention: AttentionFunction, kv: KVCache | None
    ) -> Packed:
        device = items[0].latents.device
        spans, at = [], 0
        for item in items:
            spans.append((at, at + item.computed))
            at += item.computed
        texts = {id(item.text): item.text for item in items}
        order = list(texts)
        return Packed(
            items=items,
            spans=spans,
            places=places,
            rotary=torch.cat([self._rotary(item, device) for item in items]),
            condition=self.condition(items, device).to(self.dtype),
            texts=[self.y_embedder(text, device).to(self.dtype) for text in texts.values()],
            text_of=[order.index(id(item.text)) for item in items],
            attention=attention,
            kv=kv,
        )

    def _rotary(self, item: Item, device: torch.device) -> Tensor:
        table = self.rope(item.start, item.grid, device)
        return table if item.chosen is None else table[item.chosen]

    def _velocity(self, item: Item, hidden: Tensor) -> Tensor:
        values = self.final_linear.linear(hidden)
        if item.chosen is not None:
            values = values.new_zeros(item.tokens, values.shape[1]).index_copy(0, item.chosen, values)
        frames, height, width = item.grid
        latents = rearrange(values, "(f h w) (p q c) -> c f (h p) (w q)", f=frames, h=height, w=width, p=2, q=2)
        return latents[:LATENT_CHANNELS] / self.config.x_rescale
