"""How MAGI-1 lies on disk, as the reference states it.

The sentences are prose and stand here as they are; names and numbers in them come from what our loader reads, so that
neither side can change alone.
"""

from __future__ import annotations

from typing import Any

from motioncache_core.models.magi1.architecture import VARIANTS, block_entries, parameter_count
from motioncache_core.models.magi1.checkpoint import STACKED_KEY, WEIGHT_FOLDERS
from motioncache_core.stored_layout import PLAIN
from motioncache_core.weight_files import INDEX_SUFFIX

_BY_NAME = {variant.name: variant for variant in VARIANTS}


def on_disk() -> dict[str, Any]:
    """Folders, files, dtypes and the float8 layout."""
    merged = _BY_NAME["4.5B_distill_quant"].files[0]
    index = merged.removesuffix(".safetensors") + INDEX_SUFFIX
    return {
        "hub_repo": "sand-ai/MAGI-1",
        "total_repo_size_GB": 172,
        "layout": {
            f"ckpt/magi/<variant>/{WEIGHT_FOLDERS}[.fp8][.distill]/": f"DiT safetensors + {index}",
            "ckpt/vae/": "config.json, diffusion_pytorch_model.safetensors",
            "ckpt/t5/t5-v1_1-xxl/": "T5 encoder + tokenizer",
        },
        "loader_rules": {
            "folder": (f"<runtime_config.load>/{WEIGHT_FOLDERS} + ('.fp8' if fp8_quant) + ('.distill' if distill)"),
            "index": (f"{index} -> weight_map {{parameter name: shard file}}; without an index a single {merged}"),
            "compressed_shards": (
                "<shard>.zst beside/instead of the shard is piped through `zstd -d -c` (the command line passes '-T', "
                "'n' only if num_threads is given; it never is)"
            ),
            "strict": False,
            "assign": True,
        },
        "shards": _shards(),
        "dtypes_on_disk": (
            f"third-party converters state {PLAIN['F32']} for embedders/final layer and {PLAIN['BF16']} for "
            "attention/MLP weights; the constructed dtypes in dit_templates.json agree with the "
            f"{parameter_count(_BY_NAME['4.5B_base'].config):,} parameters / 8.34 GiB that the reference prints for "
            "4.5B_base"
        ),
        "other_checkpoints": (
            f"hub also carries ckpt/magi1.1/24B_base with stacked keys ({STACKED_KEY} [48, 14336, 6144]) that the "
            "public code cannot load (MAGI-1 issue 123): out of scope, detect and refuse"
        ),
        "fp8_layout": _fp8_layout(),
    }


def _shards() -> dict[str, str]:
    count = {name: variant.shards for name, variant in _BY_NAME.items()}
    first = _BY_NAME["4.5B_base"].files[0]
    numbered = _BY_NAME["24B_distill_quant"].files[0].replace("00001", "0000{1,2,3}", 1)
    return {
        "4.5B_base": (
            f"{count['4.5B_base']} files {first.replace('00001', '0000{1,2}', 1)}, about 9 GB together (observed by "
            "third parties)"
        ),
        "4.5B_distill": f"{count['4.5B_distill']} files (third-party converter)",
        "4.5B_distill_quant": (
            f"{count['4.5B_distill_quant']} file (third-party converter: {_BY_NAME['4.5B_distill_quant'].files[0]}); "
            "computed 5.1 GB"
        ),
        "24B_base / 24B_distill": (
            f"{count['24B_base']} files {_BY_NAME['24B_distill'].files[0][: -len('.safetensors')].replace('1-', 'x-')} "
            "(third-party converter); computed 47.9 GB"
        ),
        "24B_distill_quant": f"{count['24B_distill_quant']} files {numbered} (observed); computed 26.5 GB",
    }


def _fp8_layout() -> dict[str, Any]:
    """From the entries of a quantised block."""
    entries = block_entries(_BY_NAME["24B_distill_quant"].config, 1)
    layers = [name.removesuffix(".weight_scale") for name in entries if name.endswith(".weight_scale")]
    smooth = [name for name in layers if f"{name}.smooth_scale" in entries]
    plain = [name for name in layers if name not in smooth]
    weight = f"[1, out, in] {entries[f'{layers[0]}.weight'].dtype}"
    scale = f"[1] {entries[f'{layers[0]}.weight_scale'].dtype}"
    short = [name.removeprefix("self_attention.") for name in plain]
    inputs = ", ".join([short[0], *(name.removeprefix("linear_qkv") for name in short[1:4]), *short[4:]])
    return {
        "which_layers": "all layers except the first and the last",
        f"per_tensor ({inputs})": {
            "weight": weight,
            "weight_scale": scale,
            "input_scale": (
                "[in] float32 (element-wise divisor of the activation; only element 0 reaches the GEMM scale)"
            ),
        },
        f"per_channel ({', '.join(name.removeprefix('self_attention.') for name in smooth)})": {
            "weight": weight,
            "weight_scale": scale,
            "input_scale": scale,
            "smooth_scale": "[1, in] float32 (element-wise divisor)",
        },
        "not_quantized": "linear_kv_xattn, ada_modulate_layer, all norms, embedders, final layer, layers 0 and N-1",
        "formula": (
            "q = e4m3(bf16(clamp(x.float()/divisor, +-448))); y = bf16((q @ w^T) * input_scale[0] * weight_scale[0])"
        ),
    }
