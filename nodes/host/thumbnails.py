"""Small pictures of latents for the page, in the colours of ComfyUI's own previews."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.cli_args
import numpy as np
from PIL import Image
from torch import Tensor

Colours = Callable[[Tensor], np.ndarray]
"""``[B, C, F, H, W]`` latents in model units -> ``[F, H, W, 3]`` uint8 of the first sample."""


@dataclass(frozen=True)
class Thumbnails:
    """Pictures of a chunk's latent frames.

    Args:
        frames: ``[F, H, W, 3]`` uint8.
        version: rises with every change.
        clean: the chunk is finished.
    """

    frames: np.ndarray
    version: int
    clean: bool

    def to_png(self) -> bytes:
        """All frames below each other in one file."""
        with io.BytesIO() as file:
            Image.fromarray(self.frames.reshape(-1, *self.frames.shape[2:])).save(file, "PNG", compress_level=1)
            return file.getvalue()


def decoder_chosen() -> bool:
    """Whether ComfyUI's own previews come from a decoder (TAESD) and so are finer than these."""
    return comfy.cli_args.args.preview_method == comfy.cli_args.LatentPreviewMethod.TAESD


def latent_colours(latent_format: Any) -> Colours | None:
    """How to colour latents of a format; ``None`` where previews are turned off or the format has no colours.

    The colours are those of ComfyUI's linear previewer: a decoder would take time on the device that is sampling. They
    are mixed with numpy, so that on a CPU no second thread computes with torch (see ``motioncache_core.live``).
    """
    turned_off = comfy.cli_args.args.preview_method == comfy.cli_args.LatentPreviewMethod.NoPreviews
    if turned_off or latent_format.latent_rgb_factors is None:
        return None
    factors = np.asarray(latent_format.latent_rgb_factors, dtype=np.float32)
    bias = np.asarray(latent_format.latent_rgb_factors_bias or 0.0, dtype=np.float32)
    reshape = getattr(latent_format, "latent_rgb_factors_reshape", None)

    def colour(latents: Tensor) -> np.ndarray:
        first = latents[:1] if reshape is None else reshape(latents[:1])
        channels = first[0].float().cpu().numpy()
        mixed = np.einsum("cfhw,ck->fhwk", channels, factors) + bias
        return (((mixed + 1.0) / 2.0).clip(0.0, 1.0) * 255).astype(np.uint8)

    return colour
