"""What ComfyUI must know of MAGI-1's latents: their scale, and colours for previews."""

from __future__ import annotations

import comfy.latent_formats

from ...motioncache_core.models.magi1.preview_colours import PreviewColours
from ...motioncache_core.models.magi1.vae_tiling import SCALE_FACTOR


class Magi1LatentFormat(comfy.latent_formats.LatentFormat):
    """16 channels over frames, rows and columns. LATENT holds what the VAE gives; the model works on 0.18215 times it.

    Args:
        colours: fitted to a VAE (``Magi1ComfyVae.preview_colours``); without them ComfyUI shows no previews.
    """

    latent_channels = 16
    latent_dimensions = 3

    def __init__(self, colours: PreviewColours | None = None):
        self.scale_factor = SCALE_FACTOR
        if colours is not None:
            self.latent_rgb_factors = [list(row) for row in colours.factors]
            self.latent_rgb_factors_bias = list(colours.bias)
