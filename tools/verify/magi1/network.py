"""The network of a case, and a recorder of what goes on inside it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from motioncache_core.kv_cache import KVCache
from motioncache_core.models.magi1.architecture import ArchitectureConfig
from motioncache_core.models.magi1.items import Item
from motioncache_core.models.magi1.transformer import Magi1Transformer

from ..folder import Case, CaseError

_MLP = {"gelu": False, "silu gated": True}
_WEIGHTS = {
    torch.float32: frozenset({"bfloat16 parameters widened to float32"}),
    torch.bfloat16: frozenset(
        {
            "as stored",
            "as stored: blocks bfloat16, embedders, final layer, rope bands, q/k norms and post norms in float32",
        }
    ),
}
_HEAD = "final_linear.linear.weight"


def dtype_of(case: Case) -> torch.dtype:
    """The blocks' dtype; float32 cases widen the stored bfloat16 parameters."""
    return getattr(torch, case.record["dtype"])


def config_of(case: Case) -> ArchitectureConfig:
    """Sizes from a case's ``config``."""
    given = case.config
    fixed = {"norm_weight_plus_one": True, "patch": 2, "t_patch": 1, "condition_ratio": 0.25}
    for name, value in fixed.items():
        if given[name] != value:
            raise CaseError(f"config {name} is {given[name]!r}; only {value!r} can be checked")
    config = ArchitectureConfig(
        dim=given["hidden"],
        ffn_dim=given["ffn"],
        num_heads=given["heads"],
        num_groups=given["groups"],
        num_layers=given["layers"],
        head_dim=given["head_dim"],
        gated=_MLP[given["mlp"]],
        doubled_channels=given["doubled_channels"],
        x_rescale=given["x_rescale"],
        text_dim=given["caption_channels"],
        text_tokens=given["caption_max_length"],
        eps=given["eps"],
        fp8=case.settings["fp8"],
    )
    if {given["in_channels"], given["out_channels"]} != {config.in_channels}:
        raise CaseError(f"config in_channels and out_channels must be {config.in_channels}")
    return config


def build(case: Case) -> Magi1Transformer:
    """The case's model, weights loaded strictly. ComfyUI must be importable.

    Setting ``velocity_scale`` multiplies the last layer.
    """
    import comfy.ops

    case.expect(weights_rule=_WEIGHTS[dtype_of(case)])
    network = Magi1Transformer(config_of(case), comfy.ops.manual_cast, dtype_of(case))
    weights = case.weights()
    network.load_state_dict(weights | {_HEAD: weights[_HEAD] * case.settings.get("velocity_scale", 1.0)})
    return network.eval().requires_grad_(False)


def attention(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Softmax attention without a mask in float32, rounded to the queries' dtype."""
    split = (t.float().unflatten(2, (heads, -1)).transpose(1, 2) for t in (queries, keys, values))
    result = nn.functional.scaled_dot_product_attention(*split)
    return result.transpose(1, 2).flatten(2).to(queries.dtype)


class Recorder:
    """Runs a call and keeps inner tensors, whole or of some of its items."""

    def __init__(self, network: Magi1Transformer):
        self.network = network
        layers = network.videodit_blocks.layers
        first, attend = layers[0], layers[0].self_attention
        self._outputs: dict[str, nn.Module] = {
            "layer_first_out": first,
            "layer_last_out": layers[-1],
            "final_norm_out": network.videodit_blocks.final_layernorm,
            "l0_qkv_layer_norm_out": attend.linear_qkv.layer_norm,
            "l0_attn_proj_out": attend.linear_proj,
            "l0_self_attn_post_norm_out": first.self_attn_post_norm,
            "l0_mlp_out": first.mlp,
            "l0_mlp_post_norm_out": first.mlp_post_norm,
            "ada": first.ada_modulate_layer.proj,
        }
        self._kept: dict[str, list[Tensor]] = defaultdict(list)
        self._attended: list[dict[str, Tensor]] = []

    def run(self, items: Sequence[Item], kv: KVCache | None) -> list[Tensor]:
        """Velocities of the items, one network call for all."""
        self._kept.clear()
        self._attended.clear()
        self.items = items
        hooks = [
            module.register_forward_hook(lambda m, a, result, name=name: self._kept[name].append(result))
            for name, module in self._outputs.items()
        ]
        first = self.network.videodit_blocks.layers[0]
        hooks.append(first.register_forward_pre_hook(lambda m, args: self._kept["block_in"].append(args[0])))
        try:
            return self.network(items, self._attention, kv)
        finally:
            for hook in hooks:
                hook.remove()

    def _attention(self, queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
        result = attention(queries, keys, values, heads)
        config = self.network.config
        ratio = config.num_heads // config.num_groups
        if len(self._attended) < 2 * len(self.items):  # the first layer: all items to the video, then to the text
            per_head = [t[0].unflatten(0, (ratio, -1)).unflatten(2, (heads, -1)) for t in (queries, result)]
            q, out = (t.permute(1, 2, 0, 3).flatten(1, 2) for t in per_head)
            k, v = (t[0].unflatten(1, (heads, -1)) for t in (keys, values))
            self._attended.append({"q": q, "k": k, "v": v, "out": out})
        return result

    def tensors(self, chosen: Sequence[int]) -> dict[str, Tensor]:
        """Inner tensors of some items in the form of the golden files."""
        network, device = self.network, torch.device("cpu")
        items = [self.items[i] for i in chosen]
        starts = [sum(item.tokens for item in self.items[:i]) for i in range(len(self.items))]
        rows = torch.cat([torch.arange(starts[i], starts[i] + self.items[i].tokens) for i in chosen])
        every = {name: torch.cat(parts)[rows].unsqueeze(1) for name, parts in self._kept.items() if name != "ada"}
        counts = torch.tensor([item.tokens for item in items])
        embedded = [network.embed(item.latents).t().unflatten(1, item.grid) for item in items]
        video, text = self._attended[: len(self.items)], self._attended[len(self.items) :]
        own = [(video[i]["k"][-self.items[i].tokens :], video[i]["v"][-self.items[i].tokens :]) for i in chosen]
        keys, values = (torch.cat(parts) for parts in zip(*own, strict=True))
        return every | {
            "emb_condition": network.condition(items, device).unsqueeze(0),
            "emb_condition_map": torch.arange(len(items)).repeat_interleave(counts).unsqueeze(1),
            "emb_rope": torch.cat([network.rope(item.start, item.grid, device) for item in items]),
            "emb_x": torch.cat(embedded, dim=1).unsqueeze(0),
            "emb_y_xattn_flat": torch.cat([network.y_embedder(item.text, device) for item in items]),
            "l0_ada_out_before_softcap": self._kept["ada"][0][list(chosen)].unsqueeze(0),
            "l0_q": torch.cat([video[i]["q"] for i in chosen]),
            "l0_kv": torch.cat([keys, values], dim=2),
            "l0_core_attn_out": torch.cat([video[i]["out"] for i in chosen]),
            "l0_xq_xk_xv_0": torch.cat([text[i]["q"] for i in chosen]),
            "l0_xq_xk_xv_1": torch.cat([text[i]["k"] for i in chosen]),
            "l0_xq_xk_xv_2": torch.cat([text[i]["v"] for i in chosen]),
            "l0_cross_attn_out": torch.cat([text[i]["out"].flatten(1).unsqueeze(1) for i in chosen]),
        }


def ranges(items: Sequence[Item], key_ranges: Tensor, window: dict[str, int]) -> dict[str, Tensor]:
    """What the original hands its attention: packed query and text offsets, key ranges, sizes.

    ``window``: first chunk, one past the last, chunks in the pass.
    """

    def offsets(counts: list[int]) -> list[int]:
        return [sum(counts[:i]) for i in range(len(counts) + 1)]

    tokens = offsets([item.tokens for item in items])
    text = offsets([item.text.shape[0] for item in items])
    _, height, width = items[0].grid
    spread = int(key_ranges.max() - key_ranges.min())
    ints = [height, width, items[0].tokens, window["first"], window["end"], window["count"], spread]
    values: dict[str, Any] = {
        "cu_seqlens_q": tokens,
        "cu_seqlens_kv": text,
        "q_range": list(zip(tokens[:-1], tokens[1:], strict=True)),
    }
    return {name: torch.tensor(value, dtype=torch.int32) for name, value in values.items()} | {
        "k_range": key_ranges,
        "ints": torch.tensor(ints),
    }
