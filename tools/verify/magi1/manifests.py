"""Cases about real checkpoints: key lists, templates, facts. All of it is generated from the package's rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from motioncache_core.models.magi1 import text, vae_config
from motioncache_core.models.magi1.architecture import (
    PREFIX,
    VARIANTS,
    ArchitectureConfig,
    Entry,
    Variant,
    block_entries,
    expected_entries,
    global_entries,
    parameter_count,
)
from motioncache_core.models.magi1.guidance import OnePass, ThreePass

from ..folder import Case, CaseError
from .layouts import on_disk

_PROMOTED = ("q_layernorm", "k_layernorm", "self_attn_post_norm", "mlp_post_norm", "final_layernorm")
"""Norms that the original widens to float32 after loading; ours compute in float32 from what is stored."""


def manifest(case: Case) -> dict[str, Any]:
    """What the case's file holds, made by rule."""
    (role, name), *more = case.record["files"].items()
    stem = Path(name).name.split(".")[0]
    if more or stem not in _MANIFESTS:
        raise CaseError(f"no rule for {name}; there are rules for {', '.join(_MANIFESTS)}")
    made = _MANIFESTS[stem](case)
    case.expect(
        compression="gzip" if name.endswith(".gz") else None,
        top_level=sorted(made) if name.endswith((".json", ".json.gz")) else None,
    )
    return {role: made}


def _entry(entry: Entry) -> list[Any]:
    return [list(entry.shape), entry.dtype]


def _listed(entries: Mapping[str, Entry]) -> dict[str, Any]:
    return {key: _entry(entry) for key, entry in entries.items()}


def _same_keys(variant: Variant) -> str | None:
    """An earlier variant with the same keys."""
    return next((v.name for v in VARIANTS[: VARIANTS.index(variant)] if v.config == variant.config), None)


def _full(case: Case) -> dict[str, Any]:
    return {v.name: _listed(expected_entries(v.config)) for v in VARIANTS if _same_keys(v) is None}


def _templates(case: Case) -> dict[str, Any]:
    return {variant.name: _template(variant) for variant in VARIANTS}


def _template(variant: Variant) -> dict[str, Any]:
    config, entries = variant.config, expected_entries(variant.config)
    promoted = {key for key in entries if key.rsplit(".", 2)[-2] in _PROMOTED}
    facts = {
        "state_dict_same_as": _same_keys(variant),
        "num_keys": len(entries),
        "parameters": parameter_count(config),
        "bytes_as_constructed": _bytes(entries),
        "bytes_after_precision_promotion": _bytes(
            {key: Entry(e.shape, "float32") if key in promoted else e for key, e in entries.items()}
        ),
        "promoted_to_float32_after_load": sorted({f"{_numberless(key)} -> float32" for key in promoted}),
        "folder_appended_to_load": variant.folder,
        "config": _official_config(variant),
    }
    if facts["state_dict_same_as"] is None:
        facts |= {
            "num_layers": config.num_layers,
            "global_keys": _listed(global_entries(config)),
            "layer_groups": _layer_groups(config),
        }
    return facts


def _bytes(entries: Mapping[str, Entry]) -> int:
    return sum(math.prod(entry.shape) * getattr(torch, entry.dtype).itemsize for entry in entries.values())


def _numberless(key: str) -> str:
    if not key.startswith(PREFIX):
        return key
    return f"{PREFIX}{{i}}.{key.removeprefix(PREFIX).split('.', 1)[1]}"


def _layer_groups(config: ArchitectureConfig) -> list[dict[str, Any]]:
    last = config.num_layers - 1
    groups: list[tuple[Any, int]] = [([0, last], 0), (f"1..{last - 1}", 1)] if config.fp8 else [(f"0..{last}", 0)]
    return [
        {
            "layers": layers,
            "keys": {f"{PREFIX}{{i}}.{key}": _entry(e) for key, e in block_entries(config, example).items()},
        }
        for layers, example in groups
    ]


def _official_config(variant: Variant) -> dict[str, Any]:
    """The official configuration file of a variant. What our code does not use is stated here."""
    c, three, one = variant.config, ThreePass(), OnePass()
    large = variant.name.startswith("24B")
    return {
        "model_config": {
            "model_name": "videodit_ardf",
            "num_layers": c.num_layers,
            "hidden_size": c.dim,
            "ffn_hidden_size": c.ffn_dim,
            "num_attention_heads": c.num_heads,
            "num_query_groups": c.num_groups,
            "kv_channels": c.head_dim,
            "layernorm_epsilon": c.eps,
            "apply_layernorm_1p": True,
            "x_rescale_factor": int(c.x_rescale) if c.x_rescale == 1 else c.x_rescale,
            "half_channel_vae": c.doubled_channels,
            "params_dtype": "torch.bfloat16",
            "patch_size": 2,
            "t_patch_size": 1,
            "in_channels": c.in_channels,
            "out_channels": c.in_channels,
            "cond_hidden_ratio": c.condition_dim / c.dim,
            "caption_channels": c.text_dim,
            "caption_max_length": c.text_tokens,
            "xattn_cond_hidden_ratio": 1.0,
            "cond_gating_ratio": 1.0,
            "gated_linear_unit": c.gated,
        },
        "runtime_config": {
            "cfg_number": 1 if variant.distilled else 3,
            "cfg_t_range": list(three.times),
            "prev_chunk_scales": list(three.history),
            "text_scales": list(three.text),
            "noise2clean_kvrange": [5, 4, 3, 2],
            "clean_chunk_kvrange": 1,
            "clean_t": 0.9999,
            "seed": 1234,
            "num_frames": 96,
            "video_size_h": variant.height,
            "video_size_w": variant.width,
            "num_steps": variant.steps,
            "window_size": 4,
            "fps": 24,
            "chunk_width": 6,
            "load": f"./downloads/{variant.name}",
            "t5_pretrained": "./downloads/t5_pretrained",
            "t5_device": "cuda" if large else "cpu",
            "vae_pretrained": "./downloads/vae",
            "scale_factor": 0.18215,
            "temporal_downsample_factor": vae_config.VaeConfig().patch_length,
        },
        "engine_config": {
            "distributed_backend": "nccl",
            "distributed_timeout_minutes": 15,
            "pp_size": 1,
            "cp_size": 8 if large else 1,
            "cp_strategy": "cp_ulysses",
            "ulysses_overlap_degree": 1,
            "fp8_quant": c.fp8,
            "distill_nearly_clean_chunk_threshold": one.threshold,
            "shortcut_mode": "8,16,16",
            "distill": variant.distilled,
            "kv_offload": True,
            "enable_cuda_graph": False,
        },
    }


def _vae(case: Case) -> dict[str, Any]:
    config = vae_config.VaeConfig()
    shapes = vae_config.expected_keys(config)
    fixed = ("double_z", "with_cls_token", "norm_code", "ln_in_attn", "conv_last_layer", "use_rope", "use_final_proj")
    return {
        "parameters": sum(map(math.prod, shapes.values())),
        "num_keys": len(shapes),
        "key_templates": {_block_template(key): [list(shape), "float32"] for key, shape in shapes.items()},
        "blocks": f"i in 0..{config.depth - 1} for encoder and decoder",
        "files": {
            "config": "ckpt/vae/config.json",
            "weights": "ckpt/vae/diffusion_pytorch_model.safetensors",
            "dtype_on_disk": "float32 (repo folder about 2.4 GB, matches 614M x 4 B)",
        },
        "config_json_format": {
            "_class_name": "ViTVAE",
            "_diffusers_version": "...",
            "ddconfig": vars(config) | {name: vae_config._FIXED[name] for name in fixed},
            "model_type": "vit",
        },
        "provenance": (
            "Class and key names: reference code. Numbers of ddconfig: NOT in either repo (config.json lives only on "
            f"the hub); embed_dim {config.embed_dim}, depth {config.depth}, heads {config.num_heads} (head_dim "
            f"{config.embed_dim // config.num_heads}), z {config.z_chans}, video_size {config.video_size}, "
            f"video_length {config.video_length}, patch {config.patch_size}x{config.patch_size}x{config.patch_length}, "
            "qkv bias, cls token, ln_in_attn (no norm1 keys), no final_proj come from two public diffusers ports that "
            "load the official file strictly; the resulting 614M parameters agree with the 2.4 GB file. Flags that do "
            "not change keys (norm_code, drop rates) are assumptions."
        ),
    }


def _block_template(key: str) -> str:
    parts = key.split(".")
    return ".".join("{i}" if before == "blocks" else part for before, part in zip(["", *parts], parts, strict=False))


def _t5(case: Case) -> dict[str, Any]:
    """The encoder of t5-v1_1-xxl, which ComfyUI's own loader reads."""
    width, inner, vocabulary, blocks, heads, buckets = 4096, 10240, 32128, 24, 64, 32
    block = "encoder.block.{i}.layer"
    shapes = {
        "shared.weight": (vocabulary, width),
        "encoder.embed_tokens.weight": (vocabulary, width),
        **{f"{block}.0.SelfAttention.{name}.weight": (width, width) for name in "qkvo"},
        f"{block}.0.SelfAttention.relative_attention_bias.weight": (buckets, heads),
        f"{block}.0.layer_norm.weight": (width,),
        f"{block}.1.DenseReluDense.wi_0.weight": (inner, width),
        f"{block}.1.DenseReluDense.wi_1.weight": (inner, width),
        f"{block}.1.DenseReluDense.wo.weight": (width, inner),
        f"{block}.1.layer_norm.weight": (width,),
        "encoder.final_layer_norm.weight": (width,),
    }
    counts = {key: blocks if "{i}" in key and "bias" not in key else 1 for key in shapes}
    numbers = sum(count * math.prod(shapes[key]) for key, count in counts.items())
    return {
        "parameters": numbers - vocabulary * width,  # the two embeddings are one tensor
        "num_keys": sum(counts.values()),
        "key_templates": {key: [list(shape), "float32"] for key, shape in shapes.items()},
        "blocks": (
            f"i in 0..{blocks - 1}; relative_attention_bias only in block 0; encoder.embed_tokens.weight and "
            "shared.weight are the same tensor"
        ),
        "folder": "<t5_pretrained>/t5-v1_1-xxl (the code appends t5-v1_1-xxl to runtime_config.t5_pretrained)",
        "files": [
            "config.json",
            "special_tokens_map.json",
            "spiece.model",
            "tokenizer_config.json",
            "pytorch_model.bin.index.json",
            "pytorch_model-00001-of-00002.bin",
            "pytorch_model-00002-of-00002.bin",
        ],
        "files_provenance": (
            "file list from t5_model.py (DeepFloyd/t5-v1_1-xxl layout); hub folder ckpt/t5/t5-v1_1-xxl is about 19 GB "
            "= encoder only in float32. The MotionCache configs point at a private safetensors re-save."
        ),
        "loaded_dtype": (
            f"float32 (torch_dtype=torch.float); embeddings handed on as float32 [1, 1, {text.MAX_TOKENS}, {width}] "
            f"and mask int64 [1, {text.MAX_TOKENS}]"
        ),
        "transformers_version_pinned": "4.42.3",
    }


_TOKEN_NAMES = {
    "HQ": "HQ_TOKEN",
    "STATIC": "STATIC_FIRST_FRAMES_TOKEN",
    "DYNAMIC": "DYNAMIC_FIRST_FRAMES_TOKEN",
    "BORDERNESS": "BORDERNESS_TOKEN",
    "3D": "THREE_D_MODEL_TOKEN",
    "2D": "TWO_D_ANIME_TOKEN",
}
"""Our names -> the reference's."""


def _special_tokens(case: Case) -> dict[str, Any]:
    """Facts about the official file; the numbers that need its values are stated."""
    width, first = 4096, text._FIRST_DURATION
    durations = f"other_tokens[{first}..{first + text.DURATIONS - 1}]"
    uses = {f"{name}_token": f"{name.upper()}_TOKEN (negative prompt only)" for name in ("caption", "logo")}
    uses[f"other_tokens[{text._ROWS['TRANS']}]"] = "TRANS_TOKEN (negative prompt only)"
    uses |= {f"other_tokens[{text._ROWS[ours]}]": theirs for ours, theirs in _TOKEN_NAMES.items()}
    uses[durations] = (
        f"DURATION_TOKEN_1..{text.DURATIONS} (index = chunks that still follow, capped at {text.DURATIONS - 1})"
    )
    return {
        "file": f"example/assets/{text.FILE_NAMES[0]}",
        "bytes": 3343124,
        "sha256": "b54bc664d5f4a722dfd8bb22201c025df61f22acddc07c0a2529d7b5cd6be5a7",
        "same_file_in_both_repos": True,
        "arrays": {
            name: [[rows, width], "float64"]
            for name, rows in (("caption_token", 1), ("logo_token", 1), ("other_tokens", 100))
        },
        "loaded_as": "float16 (values outside float16 precision are rounded)",
        "uses": uses | {"rest": "unused"},
        "note": (
            "3.34 MB, above the 2 MB limit, so the npz itself is not copied; special_tokens_used_f16.safetensors holds "
            "only the 19 vectors the code can use, cast to float16 exactly as the code does (Apache-2.0 data of "
            "SandAI-org/MAGI-1)"
        ),
        "max_abs": 0.5979721357499198,
        "norm_hq": 7.894952297126738,
        "norms_duration": [
            *(8.004687846762224, 8.078550886524633, 8.080272886085343, 8.059646634495373),
            *(7.966843639204735, 8.044991354877665, 7.880150999091162, 8.054095268424957),
        ],
    }


def _special_vectors(case: Case) -> dict[str, torch.Tensor]:
    """The arrays put together again from what our reader makes of the file.

    The reader is checked by the rows where it looks: a vector in another row would come out in the wrong place. Rows
    that no token uses (5 and 6) are not read by it and are taken from the file.
    """
    ((_, name),) = case.record["files"].items()
    tokens = text.read_special_tokens(case.folder.existing(name))
    arrays = case.folder.arrays(name)
    others = arrays.load("other_tokens_0_16")
    used = {text._FIRST_DURATION: tokens.vectors[text.DURATION]}
    used |= {row: tokens.vectors[token] for token, row in text._ROWS.items()}
    for row, vectors in used.items():
        others[row : row + len(vectors)] = vectors
    return {
        "caption_token": tokens.vectors["CAPTION"],
        "logo_token": tokens.vectors["LOGO"],
        "other_tokens_0_16": others,
    }


_MANIFESTS: dict[str, Callable[[Case], Any]] = {
    "dit_full_state_dicts": _full,
    "dit_templates": _templates,
    "on_disk": lambda case: on_disk(),
    "special_tokens": _special_tokens,
    "special_tokens_used_f16": _special_vectors,
    "t5": _t5,
    "vae": _vae,
}
