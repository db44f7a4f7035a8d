"""Small pictures of latents for the page, in the colours of ComfyUI's own previews."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.cli_args
import latent_preview
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


def latent_colours(latent_format: Any) -> Colours | None:
    """How to colour latents of a format; ``None`` where previews are turned off or the format has no colours.

    Of ComfyUI's previewers always the linear one: a decoder would take time on the device that is sampling.
    """
    turned_off = comfy.cli_args.args.preview_method == comfy.cli_args.LatentPreviewMethod.NoPreviews
    if turned_off or latent_format.latent_rgb_factors is None:
        return None
    previewer = latent_preview.Latent2RGBPreviewer(
        latent_format.latent_rgb_factors,
        latent_format.latent_rgb_factors_bias,
        getattr(latent_format, "latent_rgb_factors_reshape", None),
    )

    def colour(latents: Tensor) -> np.ndarray:
        frames = latents[:1].float()
        return np.stack(
            [np.asarray(previewer.decode_latent_to_preview(frames[:, :, f : f + 1])) for f in range(frames.shape[2])]
        )

    return colour
