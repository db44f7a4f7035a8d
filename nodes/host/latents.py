"""Latents of given frames: a start image or clip, and history that goes through the VAE."""

from __future__ import annotations

from typing import Any

import comfy.utils
import torch
from torch import Tensor

from ...motioncache_core.models.skyreels_v2.plan import TEMPORAL

SPATIAL = 8
"""Pixels of a latent, along each side."""


class InputError(ValueError):
    """An input that does not fit; the message names it, its value and what is legal."""


def connected_start(
    image: Tensor | None, video: Tensor | None, latents: dict[str, Tensor] | None, vae: Any
) -> str | None:
    """Name of the input that a video begins with, ``None`` if nothing is connected.

    Raises:
        InputError: more than one is connected, the VAE that it needs is missing, or an image is several.
    """
    connected = {"start_image": image, "start_video": video, "start_latents": latents}
    names = [name for name, value in connected.items() if value is not None]
    if not names:
        return None
    if len(names) > 1:
        raise InputError(f"{' and '.join(names)} are connected; connect one of them")
    if latents is None and vae is None:
        raise InputError(f"{names[0]} needs a VAE, but vae is not connected")
    if image is not None and image.shape[0] != 1:
        raise InputError(f"start_image has {image.shape[0]} frames; connect them to start_video")
    return names[0]


def encode_images(vae: Any, images: Tensor, width: int, height: int) -> Tensor:
    """``[N, H, W, 3]`` images, N = 1 + 4k, scaled and cropped to the size -> ``[1, 16, f, h, w]`` VAE latents.

    Raises:
        InputError: N has another remainder.
    """
    count = images.shape[0]
    if (count - 1) % TEMPORAL:
        nearest = (count - 1) // TEMPORAL * TEMPORAL + 1
        raise InputError(f"start_image has {count} frames; it must have 1 + a multiple of 4 (nearest: {nearest})")
    pixels = images[..., :3].movedim(-1, 1)
    pixels = comfy.utils.common_upscale(pixels, width, height, "bilinear", "center").movedim(1, -1)
    return vae.encode(pixels)


def check_latents(latents: Tensor, width: int, height: int) -> Tensor:
    """Start latents ``[B, 16, f, h, w]`` of the video's size. Raises InputError for any other shape."""
    expected = (height // SPATIAL, width // SPATIAL)
    if latents.ndim != 5 or latents.shape[1] != 16:
        raise InputError(
            f"start_latents have shape {tuple(latents.shape)}; they must be video latents [B, 16, F, H, W]"
        )
    if tuple(latents.shape[-2:]) != expected:
        own = f"{latents.shape[-1] * SPATIAL} x {latents.shape[-2] * SPATIAL}"
        raise InputError(f"start_latents are of a {own} video; width and height are {width} x {height} (use {own})")
    return latents


def reencode_history(vae: Any, model: Any, previous: Tensor, context: int) -> Tensor:
    """The history of a window as the original makes it: decoded, and its last pixel frames encoded again.

    Args:
        previous: ``[B, 16, F, h, w]`` clean latents of the window before, its own history included, in model units.
        context: latent frames of history.

    Returns:
        ``[B, 16, context, h, w]`` in model units. Its first latent frame stands for one pixel frame again.
    """
    frames = (context - 1) * TEMPORAL + 1
    encoded = []
    for sample in model.process_latent_out(previous.float()).cpu():
        pixels = vae.decode(sample.unsqueeze(0))
        encoded.append(vae.encode(pixels.reshape(-1, *pixels.shape[-3:])[-frames:]))
    return model.process_latent_in(torch.cat(encoded)).to(previous.device, previous.dtype)
