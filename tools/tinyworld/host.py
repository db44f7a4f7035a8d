"""ComfyUI's modules for training: its location, importing it on the CPU, and the latent statistics it expects."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch


def import_comfyui(path: str | None = None) -> None:
    """Put ComfyUI first on the module path and switch it to the CPU; call before importing anything of `comfy`.

    Args:
        path: ComfyUI's folder; else the environment variable MOTIONCACHE_COMFYUI is used.

    Raises:
        FileNotFoundError: neither names a folder with a ComfyUI in it.
    """
    root = path or os.environ.get("MOTIONCACHE_COMFYUI", "")
    if not root or not (Path(root) / "comfy" / "sd.py").is_file():
        raise FileNotFoundError(
            f"no ComfyUI at {root!r}: set MOTIONCACHE_COMFYUI to the folder that holds ComfyUI's main.py"
        )
    if root not in sys.path:
        sys.path.insert(0, root)
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    comfy.cli_args.args.use_pytorch_cross_attention = True  # quick on the CPU, and has gradients


def wan_statistics() -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of Wan 2.1's sixteen latent channels, each [16], as ComfyUI has them."""
    import comfy.latent_formats

    form = comfy.latent_formats.Wan21()
    return form.latents_mean.flatten().float(), form.latents_std.flatten().float()
