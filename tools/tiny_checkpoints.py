"""Tiny random SkyReels-V2 checkpoints in every supported layout, for tests (``python -m tools.tiny_checkpoints DIR``).

All layouts of one call hold exactly the same numbers (they lie on a grid that fp8 represents), so outputs of models
loaded from them must agree. File names are those that users have. The stock text encoder has no tiny form (ComfyUI
builds umt5-xxl with 24 layers of width 4096 whatever the file holds): use saved prompts in its place.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from motioncache_core.models.skyreels_v2.architecture import (
    FPS_KEYS,
    ArchitectureConfig,
    expected_keys,
    linear_layers,
    official_to_diffusers,
)
from tools.wan_companions import VAEConfig, vae_keys

TINY = ArchitectureConfig(dim=128, ffn_dim=256, num_heads=1, num_layers=2, has_fps=True)
FP8 = {"e4m3fn": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
LAYOUTS = (
    "official fp32",
    "official bf16",
    "official fp16",
    "fp8 e4m3fn",
    "fp8 e5m2",
    "fp8 scaled e4m3fn",
    "fp8 scaled e5m2",
    "fp8 scaled input",
    "fp8 scaled partly",
    "fp8 scaled e5m2 partly",
    "comfy_quant",
    "prefixed",
    "prefixed model",
    "prefixed fp8 scaled",
    "full checkpoint",
    "diffusers file",
    "diffusers fp8 scaled",
    "no fps",
    "official folder",
    "official shards, no index",
    "official shards",
    "diffusers folder",
    "diffusers shards",
)
"""What ``write_all`` writes."""
StateDict = dict[str, torch.Tensor]


def on_grid(tensor: torch.Tensor) -> torch.Tensor:
    """The nearest values that float8 e5m2 and e4m3fn both represent (hence every wider type too), float32."""
    coarse = tensor.clamp(-240, 240).to(torch.float8_e5m2).float()
    return coarse.to(torch.float8_e4m3fn).float()


def transformer(config: ArchitectureConfig = TINY, seed: int = 0) -> StateDict:
    """Random weights under official names, float32, on the grid, non-zero in every layer."""
    generator = torch.Generator().manual_seed(seed)
    weights: StateDict = {}
    for key, shape in expected_keys(config).items():
        values = torch.randn(shape, generator=generator)
        if key.endswith(".bias"):
            values *= 0.05
        elif len(shape) == 1:  # scales of norms
            values = 1 + 0.1 * values
        elif "modulation" in key:
            values *= 0.2
        elif key != "fps_embedding.weight":
            values /= math.sqrt(math.prod(shape[1:]))
        weights[key] = on_grid(values)
    return weights


def vae(dim: int = 8, seed: int = 0) -> StateDict:
    """Random weights of a Wan 2.1 VAE of width ``dim``, which the stock VAE loader reads."""
    generator = torch.Generator().manual_seed(seed)
    weights: StateDict = {}
    for key, shape in vae_keys(VAEConfig(dim=dim)).items():
        if key.endswith("gamma"):
            weights[key] = torch.ones(shape)
        elif key.endswith("bias"):
            weights[key] = torch.zeros(shape)
        else:
            weights[key] = torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]))
    return weights


def without_fps(weights: Mapping[str, torch.Tensor]) -> StateDict:
    return {key: tensor for key, tensor in weights.items() if key not in FPS_KEYS}


def cast(weights: Mapping[str, torch.Tensor], dtype: torch.dtype) -> StateDict:
    return {key: tensor.to(dtype) for key, tensor in weights.items()}


def prefixed(weights: Mapping[str, torch.Tensor], prefix: str) -> StateDict:
    return {prefix + key: tensor for key, tensor in weights.items()}


def to_diffusers(weights: Mapping[str, torch.Tensor]) -> StateDict:
    return {official_to_diffusers(key): tensor for key, tensor in weights.items()}


def fp8(weights: Mapping[str, torch.Tensor], dtype: torch.dtype) -> StateDict:
    """Matrices in fp8 as they are, the rest in bfloat16, the patch embedding in float32 (as kijai's files)."""
    cast_to = {key: dtype if t.ndim == 2 else torch.bfloat16 for key, t in weights.items()}
    cast_to["patch_embedding.weight"] = cast_to["patch_embedding.bias"] = torch.float32
    return {key: tensor.to(cast_to[key]) for key, tensor in weights.items()}


def _scale(tensor: torch.Tensor) -> float:
    """A power of two, so that dividing by it is exact; brings the largest value to 4..8."""
    return 2.0 ** (math.floor(math.log2(float(tensor.abs().max()))) - 2)


def fp8_scaled(
    config: ArchitectureConfig,
    weights: Mapping[str, torch.Tensor],
    dtype: torch.dtype,
    *,
    style: str = "scaled_fp8",
    layers: tuple[str, ...] | None = None,
    input_scale: bool = False,
) -> StateDict:
    """Linear layers in fp8 with one scale each.

    Args:
        config: sizes.
        weights: float32 on the grid.
        dtype: fp8 type.
        style: ``scaled_fp8`` (marker tensor, ``.scale_weight``) or ``comfy_quant`` (a mark a layer, ``.weight_scale``).
        layers: which; None: all.
        input_scale: write scales of the inputs too.
    """
    names = {"scaled_fp8": ("scale_weight", "scale_input"), "comfy_quant": ("weight_scale", "input_scale")}
    weight_name, input_name = names[style]
    out = cast(weights, torch.bfloat16)
    for layer in linear_layers(config) if layers is None else layers:
        weight = weights[f"{layer}.weight"]
        scale = _scale(weight)
        out[f"{layer}.weight"] = (weight / scale).to(dtype)
        out[f"{layer}.{weight_name}"] = torch.tensor(scale)
        if input_scale:
            out[f"{layer}.{input_name}"] = torch.tensor(1.0)
        if style == "comfy_quant":
            entry = json.dumps({"format": str(dtype).removeprefix("torch.")}).encode()
            out[f"{layer}.comfy_quant"] = torch.tensor(list(entry), dtype=torch.uint8)
    if style == "scaled_fp8":
        out["scaled_fp8"] = torch.zeros(2).to(dtype)
    return out


def official_config(config: ArchitectureConfig) -> dict[str, object]:
    """``config.json`` as the official repositories have it."""
    sizes = ("dim", "ffn_dim", "freq_dim", "in_dim", "num_heads", "num_layers", "out_dim")
    return {
        "_class_name": "WanModel",
        **{name: getattr(config, name) for name in sizes},
        "eps": 1e-6,
        "inject_sample_info": config.has_fps,
        "model_type": "i2v" if config.image_conditioned else "t2v",
        "text_len": 512,
    }


def diffusers_config(config: ArchitectureConfig) -> dict[str, object]:
    """``transformer/config.json`` as diffusers writes it."""
    return {
        "_class_name": "SkyReelsV2Transformer3DModel",
        "attention_head_dim": config.head_dim,
        "ffn_dim": config.ffn_dim,
        "in_channels": config.in_dim,
        "inject_sample_info": config.has_fps,
        "num_attention_heads": config.num_heads,
        "num_layers": config.num_layers,
        "out_channels": config.out_dim,
        "patch_size": [1, 2, 2],
        "text_dim": config.text_dim,
    }


def _save(path: Path, weights: Mapping[str, torch.Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in weights.items()}, path)
    return path


def _save_json(path: Path, content: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def save_shards(folder: Path, weights: Mapping[str, torch.Tensor], stem: str, count: int, *, index: bool) -> None:
    """Write ``stem-0000i-of-0000n.safetensors``, with or without an index."""
    keys = list(weights)
    weight_map: dict[str, str] = {}
    for i in range(count):
        name = f"{stem}-{i + 1:05d}-of-{count:05d}.safetensors"
        part = keys[i * len(keys) // count : (i + 1) * len(keys) // count]
        _save(folder / name, {key: weights[key] for key in part})
        weight_map |= dict.fromkeys(part, name)
    if index:
        size = sum(tensor.nbytes for tensor in weights.values())
        _save_json(
            folder / f"{stem}.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map}
        )


def write_all(folder: Path | str, config: ArchitectureConfig = TINY, seed: int = 0) -> dict[str, Path]:
    """Write every supported layout beneath ``folder``.

    Returns:
        Name of the layout -> file or folder.
    """
    folder = Path(folder)
    weights = transformer(config, seed)
    plain = without_fps(weights)
    plain_config = ArchitectureConfig(**{**vars(config), "has_fps": False})
    attention = tuple(layer for layer in linear_layers(config) if "attn" in layer)
    stem = "Wan2_1-SkyReels-V2-DF-1_3B-540P"
    files: dict[str, tuple[str, StateDict]] = {
        "official fp32": (f"{stem}_fp32", dict(weights)),
        "official bf16": (f"{stem}_bf16", cast(weights, torch.bfloat16)),
        "official fp16": (f"{stem}_fp16", cast(weights, torch.float16)),
        "fp8 e4m3fn": (f"{stem}_fp8_e4m3fn", fp8(weights, FP8["e4m3fn"])),
        "fp8 e5m2": (f"{stem}_fp8_e5m2", fp8(weights, FP8["e5m2"])),
        "fp8 scaled e4m3fn": (f"{stem}_fp8_e4m3fn_scaled", fp8_scaled(config, weights, FP8["e4m3fn"])),
        "fp8 scaled e5m2": (f"{stem}_fp8_e5m2_scaled", fp8_scaled(config, weights, FP8["e5m2"])),
        "fp8 scaled input": (
            "skyreels_v2_df_1.3B_540P_fp8_scaled",
            fp8_scaled(config, weights, FP8["e4m3fn"], input_scale=True),
        ),
        "fp8 scaled partly": (
            f"{stem}_fp8_e4m3fn_scaled_KJ",
            fp8_scaled(config, weights, FP8["e4m3fn"], layers=(*attention, "fps_projection.0")),
        ),
        "fp8 scaled e5m2 partly": (
            f"{stem}_fp8_e5m2_scaled_KJ",
            fp8_scaled(config, weights, FP8["e5m2"], layers=attention),
        ),
        "comfy_quant": (
            "skyreels_v2_df_1.3B_540P_fp8_mixed",
            fp8_scaled(config, weights, FP8["e4m3fn"], style="comfy_quant", layers=attention),
        ),
        "prefixed": ("skyreels_v2_df_1.3B_540P", prefixed(weights, "model.diffusion_model.")),
        "prefixed model": ("skyreels_v2_df_1.3B_540P_model", prefixed(weights, "model.")),
        "prefixed fp8 scaled": (
            "skyreels_v2_df_1.3B_540P_aio_fp8_scaled",
            prefixed(fp8_scaled(config, weights, FP8["e4m3fn"]), "model.diffusion_model."),
        ),
        "full checkpoint": (
            "skyreels_v2_df_1.3B_540P_aio",
            prefixed(weights, "model.diffusion_model.") | {"vae.conv1.bias": torch.zeros(32)},
        ),
        "diffusers file": (f"{stem}_diffusers", to_diffusers(weights)),
        "diffusers fp8 scaled": (
            f"{stem}_diffusers_fp8_scaled",
            {_diffusers_mark(key): t for key, t in fp8_scaled(config, weights, FP8["e4m3fn"]).items()},
        ),
        "no fps": ("wan2.1_t2v_1.3B_fp16", cast(plain, torch.float16)),
    }
    paths = {layout: _save(folder / f"{name}.safetensors", content) for layout, (name, content) in files.items()}

    paths["official folder"] = folder / "SkyReels-V2-DF-1.3B-540P"
    _save(paths["official folder"] / "model.safetensors", weights)
    _save_json(paths["official folder"] / "config.json", official_config(config))
    paths["official shards, no index"] = folder / "SkyReels-V2-DF-14B-540P"
    save_shards(paths["official shards, no index"], plain, "model", 3, index=False)
    _save_json(paths["official shards, no index"] / "config.json", official_config(plain_config))
    paths["official shards"] = folder / "Skywork" / "SkyReels-V2-DF-14B-720P"
    save_shards(paths["official shards"], weights, "diffusion_pytorch_model", 2, index=True)
    _save_json(paths["official shards"] / "config.json", official_config(config))
    paths["diffusers folder"] = folder / "SkyReels-V2-DF-1.3B-540P-Diffusers"
    _save(paths["diffusers folder"] / "transformer" / "diffusion_pytorch_model.safetensors", to_diffusers(weights))
    _save_diffusers_json(paths["diffusers folder"], config)
    paths["diffusers shards"] = folder / "SkyReels-V2-DF-14B-540P-Diffusers"
    half = to_diffusers(cast(weights, torch.bfloat16))
    save_shards(paths["diffusers shards"] / "transformer", half, "diffusion_pytorch_model", 2, index=True)
    _save_diffusers_json(paths["diffusers shards"], config)
    return paths


def _diffusers_mark(key: str) -> str:
    """Diffusers name of a key of ``fp8_scaled``, quantisation marks included."""
    for suffix in (".scale_weight", ".scale_input"):
        if key.endswith(suffix):
            return official_to_diffusers(key.removesuffix(suffix) + ".weight").removesuffix(".weight") + suffix
    return official_to_diffusers(key) or key


def _save_diffusers_json(folder: Path, config: ArchitectureConfig) -> None:
    _save_json(folder / "transformer" / "config.json", diffusers_config(config))
    _save_json(folder / "model_index.json", {"_class_name": "SkyReelsV2DiffusionForcingPipeline"})
    _save(folder / "vae" / "diffusion_pytorch_model.safetensors", {"decoder.conv_in.bias": torch.zeros(8)})
    _save_json(folder / "vae" / "config.json", {"_class_name": "AutoencoderKLWan"})


def write_vae(folder: Path | str, dim: int = 8, seed: int = 0) -> Path:
    """Write a tiny ``wan_2.1_vae.safetensors`` for the stock VAE loader."""
    return _save(Path(folder) / "wan_2.1_vae.safetensors", vae(dim, seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="gets the subfolders diffusion_models and vae")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    paths = write_all(arguments.folder / "diffusion_models", seed=arguments.seed)
    paths["vae"] = write_vae(arguments.folder / "vae", seed=arguments.seed)
    for layout, path in paths.items():
        print(f"{layout}: {path}")


if __name__ == "__main__":
    main()
