"""Tiny random MAGI-1 checkpoints under official names, for tests (``python -m tools.tiny_magi1 DIR``).

The text is as wide as the real one, so that prompts encoded with t5-v1_1-xxl fit.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from motioncache_core.models.magi1.architecture import ArchitectureConfig, expected_entries
from motioncache_core.models.magi1.vae_config import VaeConfig, expected_keys
from tools.tiny_checkpoints import StateDict, save_shards

TINY = ArchitectureConfig(
    dim=64, ffn_dim=96, num_heads=4, num_groups=2, num_layers=3, head_dim=16, text_dim=4096, text_tokens=64
)
QUANTISED = ArchitectureConfig(**{**vars(TINY), "fp8": True})
GATED = ArchitectureConfig(**{**vars(TINY), "gated": True, "doubled_channels": True, "x_rescale": 0.1})

MERGED = "MAGI-1_4.5B_distill_bf16.safetensors"
"""Name of one merged file, in which nothing but the name tells that the model is distilled."""


TINY_VAE = VaeConfig(video_size=64, embed_dim=256, depth=1, num_heads=4, mlp_ratio=1)


def vae(config: VaeConfig = TINY_VAE, seed: int = 0) -> StateDict:
    """Random weights of a VAE of MAGI-1's kind, float32."""
    generator = torch.Generator().manual_seed(seed)
    weights: StateDict = {}
    for key, shape in expected_keys(config).items():
        values = torch.randn(shape, generator=generator)
        if key.endswith("norm.weight") or key.endswith("norm2.weight"):
            weights[key] = 1 + 0.1 * values
        else:
            weights[key] = values * (0.05 if len(shape) == 1 else shape[-1] ** -0.5)
    return weights


def write_vae(folder: Path, config: VaeConfig = TINY_VAE) -> Path:
    """The official layout: ``config.json`` beside ``diffusion_pytorch_model.safetensors``. Returns: the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(vae(config), folder / "diffusion_pytorch_model.safetensors")
    content = {"model_type": "vit", "ddconfig": vars(config)}
    (folder / "config.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
    return folder


def transformer(config: ArchitectureConfig = TINY, seed: int = 0) -> StateDict:
    """Random weights in the stored dtypes, sized so that every part of the network is at work."""
    generator = torch.Generator().manual_seed(seed)
    weights: StateDict = {}
    for key, entry in expected_entries(config).items():
        values = torch.randn(entry.shape, generator=generator)
        if key.endswith("weight_scale"):
            values = 0.001 + 0.0002 * values.clamp(-2, 2)
        elif "scale" in key:
            values = 0.01 + 0.002 * values.clamp(-2, 2)
        elif entry.dtype == "float8_e4m3fn":
            values *= 60
        elif len(entry.shape) > 1:
            values *= entry.shape[-1] ** -0.5 if len(entry.shape) == 2 else 0.15
        else:
            values *= 0.2
        weights[key] = values.to(getattr(torch, entry.dtype))
    return weights


def official_config(config: ArchitectureConfig, distilled: bool) -> dict[str, object]:
    """The configuration file that lies beside the official weights, as far as it is read."""
    model = {
        "hidden_size": config.dim,
        "ffn_hidden_size": config.ffn_dim,
        "num_attention_heads": config.num_heads,
        "num_query_groups": config.num_groups,
        "num_layers": config.num_layers,
        "kv_channels": config.head_dim,
        "gated_linear_unit": config.gated,
        "half_channel_vae": config.doubled_channels,
        "x_rescale_factor": config.x_rescale,
        "caption_channels": config.text_dim,
        "caption_max_length": config.text_tokens,
    }
    engine = {"distill": distilled, "fp8_quant": config.fp8}
    return {"model_config": model, "runtime_config": {"window_size": 4}, "engine_config": engine}


def write_official(folder: Path, weights: Mapping[str, torch.Tensor], distilled: bool, shards: int = 2) -> Path:
    """The layout of the hub: ``FOLDER/inference_weight*/model-0000i-of-0000n.safetensors`` and a configuration.

    Returns:
        The first shard.
    """
    inside = folder / ("inference_weight.distill" if distilled else "inference_weight")
    inside.mkdir(parents=True, exist_ok=True)
    save_shards(inside, weights, "model", shards, index=True)
    return inside / f"model-00001-of-{shards:05d}.safetensors"


def write_all(folder: Path | str, seed: int = 0) -> dict[str, Path]:
    """Write the layouts beneath ``folder``. Returns: name -> what a loader is pointed at."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = transformer(seed=seed)
    paths = {"merged": folder / MERGED}
    save_file(weights, paths["merged"])
    for name, distilled in (("4.5B_base", False), ("4.5B_distill", True)):
        paths[name] = write_official(folder / name, weights, distilled)
        config = json.dumps(official_config(TINY, distilled), indent=2)
        (folder / name / f"{name}_config.json").write_text(config, encoding="utf-8")
    quantised = folder / "4.5B_distill_quant"
    paths["4.5B_distill_quant"] = quantised / "inference_weight.fp8.distill" / "model.safetensors"
    paths["4.5B_distill_quant"].parent.mkdir(parents=True, exist_ok=True)
    save_file(transformer(QUANTISED, seed), paths["4.5B_distill_quant"])
    paths["24B"] = folder / "MAGI-1_24B_base.safetensors"
    save_file(transformer(GATED, seed), paths["24B"])
    paths["unnamed"] = folder / "magi.safetensors"
    save_file(weights, paths["unnamed"])
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="gets the subfolders diffusion_models and vae")
    arguments = parser.parse_args()
    paths = write_all(arguments.folder / "diffusion_models")
    paths["vae"] = write_vae(arguments.folder / "vae" / "magi1_vae")
    for name, path in paths.items():
        print(f"{name}: {path}")


if __name__ == "__main__":
    main()
