"""The layouts that SkyReels-V2 checkpoints come in, as the reference states them.

The sentences are prose and stand here as they are; every name and size in them comes from what our loader reads, so
that neither side can change alone.
"""

from __future__ import annotations

from typing import Any

from motioncache_core.models.skyreels_v2 import layout
from motioncache_core.models.skyreels_v2.architecture import FPS_KEYS, VARIANTS, Variant, expected_keys
from motioncache_core.stored_layout import FP8, PREFIXES
from motioncache_core.weight_files import shard_stem


def layouts() -> dict[str, Any]:
    """Layout -> how it is recognised."""
    by_name = {variant.name.removeprefix("SkyReels-V2-"): variant for variant in VARIANTS}
    small, large, plain = (_stem(by_name[n]) for n in ("DF-1.3B-540P", "DF-14B-540P", "DF-14B-720P"))
    _, comfyui, _, bare, *_ = PREFIXES
    text_encoders, vae, *_ = layout._COMPANIONS
    old_scale, new_scale = layout._WEIGHT_SCALES
    e4m3fn, e5m2 = FP8.values()
    mark, quant, old_input = layout._FP8_MARK, layout._QUANT_MARK, layout._INPUT_SCALES[0]
    patches, norm = "patch_embedding.weight", _used("blocks.0.norm3.weight").split(".")[2]
    return {
        "official (Skywork hub)": (
            f"no prefix; 1.3B one file {small}.safetensors; 14B-540P shards {large}-*.safetensors; 14B-720P shards "
            f"{plain}-*.safetensors (names from diffusers scripts/convert_skyreelsv2_to_diffusers.py); config.json "
            "beside them"
        ),
        "ComfyUI checkpoint": (
            f"prefix '{comfyui}' (comfy/model_detection.py unet_prefix_from_state_dict needs >5 keys with it); text "
            f"encoder under '{text_encoders}umt5xxl.transformer.' with HF names; VAE under '{vae}'"
        ),
        "ComfyUI diffusion_models file / kijai single file": (
            f"official key names, no prefix; kijai's loader also strips '{comfyui}' and '{bare}' when the FIRST key "
            "has it (nodes_model_loading.py). Names seen: Kijai/WanVideo_comfy "
            "Skyreels/Wan2_1-SkyReels-V2-DF-1_3B-540P_fp32.safetensors, "
            "Wan2_1-SkyReels-V2-DF-14B-720P_fp16.safetensors and fp8_e4m3fn variants"
        ),
        "fp8 unscaled": (
            f"same keys; .weight of linear layers {e4m3fn} or {e5m2}, everything else 16/32 bit; kijai keeps "
            "patch_embedding float32 and modulation/norms/time_*/text_embedding in base dtype"
        ),
        "fp8 scaled (ComfyUI <= 0.3.6x, kijai *_scaled_KJ)": (
            f"marker tensor '{mark}' (empty or 2 elements; dtype tells e4m3fn/e5m2; float32 is read as e4m3fn; 2 "
            f"elements disables fp8 matmul) plus '<layer>{old_scale}' (float32 scalar; weight = fp8 * "
            f"{old_scale.removeprefix('.')}), optional '<layer>{old_input}'"
        ),
        "newer ComfyUI quantised": (
            f"'<layer>{quant}' (json bytes in a uint8 tensor) + '<layer>{new_scale}' (kijai's loader knows both "
            f"'{old_scale}' and '{new_scale}')"
        ),
        "GGUF (city96, wsbagnsv1, QuantStack, calcuis)": (
            f"official key names, no prefix; tensors of more than 4 dims ({_used(patches)}) carry their shape in "
            "metadata comfy.gguf.orig_shape.<key>"
        ),
        "diffusers": (
            "folder transformer/ with diffusion_pytorch_model*.safetensors, config _class_name "
            "SkyReelsV2Transformer3DModel; names via diffusers_to_official_*.json; norm2 and norm3 are SWAPPED "
            f"relative to the official names (diffusers norm2 = official {norm}, the affine cross-attention norm; "
            "official norm1/norm2 have no parameters)"
        ),
        "detection": _detection(by_name),
    }


def _detection(by_name: dict[str, Variant]) -> dict[str, str]:
    small, large = by_name["DF-1.3B-540P"].config, by_name["DF-14B-540P"].config
    image = by_name["I2V-14B-540P"]
    sizes = ", ".join(f"{c.dim} -> {c.num_heads} heads {c.num_layers} layers" for c in (small, large))
    first_fps, *_ = FPS_KEYS
    return {
        "is SkyReels/Wan": f"'{_used('head.modulation')}' and '{_used('blocks.0.self_attn.q.weight')}'",
        "inject_sample_info (fps)": f"'{first_fps}' present (only DF-1.3B-540P)",
        "i2v": (
            f"'{_used('img_emb.proj.0.bias', image)}' / '{_used('blocks.0.cross_attn.k_img.weight', image)}', "
            f"in_dim {image.config.in_dim}"
        ),
        "size": f"{_used('patch_embedding.weight')}.shape[0]: {sizes}",
        "note": (
            "DF-14B and T2V-14B and Wan2.1-T2V-14B have IDENTICAL keys and shapes: diffusion forcing cannot be told "
            "from the file except by name; DF-1.3B differs from Wan2.1-T2V-1.3B only by the "
            f"{len(FPS_KEYS)} fps_* keys ({first_fps}, fps_projection.{{0,2}}.{{weight,bias}})"
        ),
    }


def _stem(variant: Variant) -> str:
    """What the names of a variant's files begin with."""
    return shard_stem(variant.files[0]) or variant.files[0].removesuffix(".safetensors")


def _used(key: str, variant: Variant = VARIANTS[0]) -> str:
    """A key, if the variant has it. Raises KeyError otherwise."""
    shapes = expected_keys(variant.config)
    if key not in shapes:
        raise KeyError(f"{variant.name} has no key {key}")
    return key
