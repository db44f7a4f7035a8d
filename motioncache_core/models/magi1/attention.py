"""Attention of MAGI-1: to the video and to the text from one normalised input, both with shared key heads.

Several query heads share a key head. The query heads of a group are laid one behind the other along the sequence, so
that any attention function without masks serves, with as many heads as there are groups and no copy of the keys.
Measured on one CPU thread (float32, 256 queries, 1024 keys, 24 heads in 8 groups, PyTorch's attention): 125 ms; keys
repeated for every head 170 ms; a loop over the groups 148 ms. The results are the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...kv_cache import KVCache
from .architecture import INTERLEAVE, ArchitectureConfig
from .casting import Build, NormPlusOne
from .fp8 import QuantisedLinear
from .items import Fresh, Item
from .products import precise_product
from .rotary import rotate
from .stretches import by_rows

AttentionFunction = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""(queries [1, n, C], keys [1, m, C], values [1, m, C], heads) -> [1, n, C]."""


@dataclass
class Packed:
    """One call's way through the blocks.

    Args:
        items: those with tokens to compute.
        spans: their (start, stop) in the packed sequence.
        places: their places in the call's list, which :class:`Fresh` counts in.
        rotary: ``[N, 2 a]`` table.
        condition: ``[U, dim / 4]`` in the network's dtype, one row an item.
        texts: ``[L, dim]`` of the distinct texts.
        text_of: which of them each item reads.
        attention: attention function.
        kv: the store, ``None`` where no item reads or writes it.
    """

    items: Sequence[Item]
    spans: Sequence[tuple[int, int]]
    places: Sequence[int]
    rotary: Tensor
    condition: Tensor
    texts: Sequence[Tensor]
    text_of: Sequence[int]
    attention: AttentionFunction
    kv: KVCache | None


def grouped(attention: AttentionFunction, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``[n, heads, d]`` queries to ``[m, groups, d]`` keys and values -> ``[n, heads * d]``."""
    n, heads, width = q.shape
    groups = k.shape[1]
    laid = q.unflatten(1, (groups, -1)).permute(2, 0, 1, 3).reshape(1, -1, groups * width)
    out = attention(laid, k.flatten(1).unsqueeze(0), v.flatten(1).unsqueeze(0), groups)
    return out.view(heads // groups, n, groups, width).permute(1, 2, 0, 3).reshape(n, heads * width)


def block_linear(columns: int, rows: int, quantised: bool, smooth: bool, build: Build) -> nn.Module:
    """A bias-free linear layer of a block, float8 if so stored."""
    return QuantisedLinear(columns, rows, smooth, build) if quantised else build.linear(columns, rows)


class InputProjections(nn.Module):
    """Norm, then queries (for the video and for the text), keys and values."""

    def __init__(self, config: ArchitectureConfig, quantised: bool, build: Build):
        super().__init__()
        self.layer_norm = build.layer_norm(config.dim, config.eps)
        rows = {"q": config.attention_dim, "qx": config.attention_dim, "k": config.kv_dim, "v": config.kv_dim}
        for name, count in rows.items():
            setattr(self, name, block_linear(config.dim, count, quantised, False, build))


class JointAttention(nn.Module):
    """Self-attention and text attention side by side, with one projection for both."""

    def __init__(self, config: ArchitectureConfig, quantised: bool, build: Build):
        super().__init__()
        self.config = config
        self.linear_qkv = InputProjections(config, quantised, build)
        self.linear_kv_xattn = build.linear(config.dim, 2 * config.kv_dim)
        self.linear_proj = block_linear(2 * config.attention_dim, config.dim, quantised, True, build)
        self.q_layernorm = NormPlusOne(config.head_dim, config.eps, build)
        self.q_layernorm_xattn = NormPlusOne(config.head_dim, config.eps, build, precise=False)
        self.k_layernorm = NormPlusOne(config.head_dim, config.eps, build)
        self.k_layernorm_xattn = NormPlusOne(config.head_dim, config.eps, build, precise=False)

    def forward(self, layer: int, x: Tensor, packed: Packed) -> Tensor:
        """``[N, dim]`` -> ``[N, dim]``, float32 unless the projection is float8."""
        both = self._both(layer, x, packed)
        if isinstance(self.linear_proj, QuantisedLinear):
            return self.linear_proj(both)
        return precise_product(self.linear_proj, both)

    def _both(self, layer: int, x: Tensor, packed: Packed) -> Tensor:
        """``[N, 2 * attention_dim]`` what was seen of the video and of the text, in turns."""
        z = self.linear_qkv.layer_norm(x)
        seen = self._to_video(layer, z, packed), self._to_text(z, packed)
        return torch.stack([part.unflatten(1, (INTERLEAVE, -1)) for part in seen], dim=2).flatten(1)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, self.config.head_dim))

    def _placed(self, projected: Tensor, norm: NormPlusOne, packed: Packed) -> Tensor:
        """Normalised and turned, ``[N, heads, d]`` in the projection's dtype."""

        def place(rows: Tensor, table: Tensor) -> Tensor:
            return rotate(norm(self._heads(rows)), table).to(rows.dtype)

        return by_rows(place, projected, packed.rotary)

    def _to_video(self, layer: int, z: Tensor, packed: Packed) -> Tensor:
        queries = self._placed(self.linear_qkv.q(z), self.q_layernorm, packed)
        keys = self._placed(self.linear_qkv.k(z), self.k_layernorm, packed)
        values = self._heads(self.linear_qkv.v(z))
        for item, (start, stop) in zip(packed.items, packed.spans, strict=True):
            if item.writes is not None:
                own = (part[start:stop].flatten(1) for part in (keys, values))
                packed.kv.write(item.writes.role, layer, item.target_rows(), *own)
        outputs = []
        for item, (start, stop) in zip(packed.items, packed.spans, strict=True):
            k, v = self._read(layer, item, keys, values, packed)
            outputs.append(grouped(packed.attention, queries[start:stop], k, v))
        return torch.cat(outputs)

    def _read(self, layer: int, item: Item, keys: Tensor, values: Tensor, packed: Packed) -> tuple[Tensor, Tensor]:
        """``[m, groups, d]`` keys and values of everything that an item attends to."""
        parts = []
        for source in item.reads:
            if isinstance(source, Fresh):
                if source.item not in packed.places:
                    continue  # an item without a token to compute makes no keys
                start, stop = packed.spans[packed.places.index(source.item)]
                parts.append((keys[start:stop], values[start:stop]))
            else:
                stored = packed.kv.read(source.role, layer, slice(source.start, source.stop), keys)
                parts.append(tuple(self._heads(part[0]) for part in stored))
        if len(parts) == 1:
            return parts[0]
        return torch.cat([k for k, _ in parts]), torch.cat([v for _, v in parts])

    def _to_text(self, z: Tensor, packed: Packed) -> Tensor:
        queries = self._heads(self.linear_qkv.qx(z))
        queries = by_rows(self.q_layernorm_xattn, queries)
        texts = []
        for text in packed.texts:
            k, v = self.linear_kv_xattn(text).unflatten(1, (-1, 2 * self.config.head_dim)).chunk(2, dim=2)
            texts.append((self.k_layernorm_xattn(k), v))
        outputs = [
            grouped(packed.attention, queries[start:stop], *texts[text])
            for (start, stop), text in zip(packed.spans, packed.text_of, strict=True)
        ]
        return torch.cat(outputs)
