"""Previews of MAGI-1: colours that were fitted to the VAE at hand, for one run; nothing is put on the MODEL."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import comfy.cli_args
import latent_preview

from .magi1_latent_format import Magi1LatentFormat
from .previews import Callback


def preview_format(vae: Any) -> Magi1LatentFormat:
    """The latent format with the VAE's colours; without MAGI-1's VAE, or with previews turned off, it has none."""
    wanted = comfy.cli_args.args.preview_method != comfy.cli_args.LatentPreviewMethod.NoPreviews
    return Magi1LatentFormat(vae.preview_colours() if wanted and hasattr(vae, "preview_colours") else None)


def callback_maker(vae: Any) -> Callable[[Any, int], Callback]:
    """``latent_preview.prepare_callback`` with the VAE's colours; without MAGI-1's VAE, progress only."""
    shown = preview_format(vae)

    def make(patcher: Any, total: int) -> Callback:
        model = SimpleNamespace(latent_format=shown)
        return latent_preview.prepare_callback(SimpleNamespace(load_device=patcher.load_device, model=model), total)

    return make
