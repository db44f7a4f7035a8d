"""MAGI-1's VAE as a ComfyUI VAE that the stock encode and decode nodes take.

ComfyUI's own VAE class recognises checkpoints by their keys and knows no MAGI-1, so its constructor is passed over and
all that other nodes read from a VAE is set here. Plain and tiled nodes give the same: MAGI-1 always works in tiles.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import comfy.model_management as management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.utils
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...motioncache_core.models.magi1.preview_colours import (
    PreviewColours,
    fit_preview_colours,
    synthetic_pictures,
)
from ...motioncache_core.models.magi1.vae import Magi1Vae
from ...motioncache_core.models.magi1.vae_config import VaeConfig
from ...motioncache_core.models.magi1.vae_tiling import SCALE_FACTOR, TiledVae, bytes_needed
from .latents import InputError

logger = logging.getLogger(__name__)


class Magi1ComfyVae(comfy.sd.VAE):
    """IMAGE <-> LATENT ``[B, 16, t, h, w]`` (unscaled), 4 frames of 8 x 8 pixels to a latent; one image to one latent.

    Args:
        tensors: official key -> tensor (consumed).
        config: sizes.
        dtype: of weights and matrix products; ``None``: what ComfyUI prefers for VAEs (bfloat16 or float32).
    """

    def __init__(self, tensors: Mapping[str, Tensor], config: VaeConfig, dtype: torch.dtype | None = None):
        self.working_dtypes = [torch.bfloat16, torch.float32]
        self.device = management.vae_device()
        self.vae_dtype = dtype or preferred_dtype(self.device)
        network = Magi1Vae(
            config, operations=comfy.ops.manual_cast, attention=_attention, dtype=self.vae_dtype, device="meta"
        )
        network.load_state_dict({key: tensor.to(self.vae_dtype) for key, tensor in tensors.items()}, assign=True)
        self.first_stage_model = network.eval().requires_grad_(False)
        self.tiled = TiledVae(self.first_stage_model)
        self.patcher = comfy.model_patcher.ModelPatcher(
            self.first_stage_model, load_device=self.device, offload_device=management.vae_offload_device()
        )
        self.output_device = management.intermediate_device()

        length, side = config.patch_length, config.patch_size
        self.latent_channels, self.output_channels, self.latent_dim = config.z_chans, config.in_chans, 3
        self.upscale_ratio = (lambda latents: latents * length, side, side)
        self.downscale_ratio = (lambda frames: max(1, frames // length), side, side)
        self.upscale_index_formula = self.downscale_index_formula = (length, side, side)
        self.memory_used_encode = lambda shape, dtype: bytes_needed(config, 1, shape[-1], dtype)
        self.memory_used_decode = lambda shape, dtype: bytes_needed(config, 1, shape[-1] * side, dtype)
        self.process_input = lambda image: image * 2.0 - 1.0
        self.process_output = lambda image: torch.clamp((image + 1.0) / 2.0, min=0.0, max=1.0)
        self.disable_offload = self.not_video = False
        self.crop_input = True
        self.extra_1d_channel = self.size = None
        self._colours: PreviewColours | None = None
        self.model_size()

    def encode(self, pixel_samples: Tensor) -> Tensor:
        """``[N, H, W, 3]`` frames of one video (or ``[B, N, H, W, 3]``) in 0..1 -> ``[B, 16, t, h, w]`` float32.

        One frame becomes one latent frame. Of more, those that fill no latent frame at the end are left out (with a
        line in the log), as are edges that fill no latent.
        """
        video = self._video(pixel_samples)
        management.load_models_gpu([self.patcher], memory_required=self.memory_used_encode(video.shape, self.vae_dtype))
        step = self.tiled.tiling.frames
        parts = [(sample, begin) for sample in range(len(video)) for begin in range(0, video.shape[2], step)]
        _, _, _, height, width = video.shape
        on_tile = _progress(len(parts) * self.tiled.tiles(1, height // self.tiled.side, width // self.tiled.side))
        rows: list[list[Tensor]] = [[] for _ in video]
        for sample, begin in parts:
            part = self.process_input(video[sample : sample + 1, :, begin : begin + step].float()).to(self.device)
            rows[sample].append(self.tiled.encode(part, on_tile).to(self.output_device).float())
        return torch.cat([torch.cat(row, dim=2) for row in rows])

    def decode(self, samples_in: Tensor, vae_options: Mapping[str, Any] | None = None) -> Tensor:
        """``[B, 16, t, h, w]`` -> ``[B, 4t, 8h, 8w, 3]`` float32 in 0..1; a single latent frame is an image: one frame.

        Raises:
            InputError: the latent is not MAGI-1's.
        """
        self._check(samples_in)
        batch, _, frames, height, width = samples_in.shape
        management.load_models_gpu(
            [self.patcher], memory_required=self.memory_used_decode(samples_in.shape, self.vae_dtype)
        )
        single, side = frames == 1, self.tiled.side
        shape = (batch, 1 if single else frames * self.tiled.length, height * side, width * side, self.output_channels)
        images = torch.empty(shape, device=self.output_device)
        on_tile = _progress(batch * self.tiled.tiles(frames, height, width))
        for sample in range(batch):
            stream = self.tiled.stream(single_image=single, on_tile=on_tile)
            begin = 0
            latent = samples_in[sample : sample + 1].to(self.device)
            for row in map(self._as_images, chain(stream.push(latent), stream.finish())):
                images[sample, begin : begin + len(row)] = row
                begin += len(row)
        return images

    def decode_tiled(self, samples: Tensor, **sizes: Any) -> Tensor:
        """The same as :meth:`decode`, which works in tiles of its own."""
        return self.decode(samples)

    def encode_tiled(self, pixel_samples: Tensor, **sizes: Any) -> Tensor:
        """The same as :meth:`encode`, which works in tiles of its own."""
        return self.encode(pixel_samples)

    def decode_rows(self, latents: Tensor, sizes: list[int], *, single_image: bool = False) -> Tensor:
        """``[B, 16, t, h, w]`` latents of rows of tiles, each of 1 to 3 latent frames -> ``[B, F, 8h, 8w, 3]`` in 0..1.

        Args:
            sizes: latent frames of each row. Only the last row of a video may have less than 3.
            single_image: the one latent frame is an image: one frame.

        Raises:
            InputError: the latents are not MAGI-1's.
        """
        self._check(latents)
        management.load_models_gpu(
            [self.patcher], memory_required=self.memory_used_decode(latents.shape, self.vae_dtype)
        )
        on_tile = management.throw_exception_if_processing_interrupted
        videos = []
        for sample in latents.split(1):
            rows = (self.tiled.decode_row(r.to(self.device), single_image, on_tile) for r in sample.split(sizes, dim=2))
            videos.append(torch.cat([self._as_images(row) for row in rows]))
        return torch.stack(videos)

    def preview_colours(self) -> PreviewColours:
        """Colours for previews, fitted once to this VAE by encoding six small synthetic pictures."""
        if self._colours is None:
            pictures = synthetic_pictures()
            self._colours = fit_preview_colours(
                lambda picture: self.encode((picture[0].movedim(0, -1) + 1) / 2), pictures, SCALE_FACTOR
            )
            logger.info("Preview colours fitted: they explain %.0f %% of colour.", 100 * self._colours.explained)
        return self._colours

    def _video(self, pixels: Tensor) -> Tensor:
        """``[B, 3, N, H, W]`` of whole latents."""
        video = (pixels if pixels.ndim == 5 else pixels.unsqueeze(0))[..., : self.output_channels].movedim(-1, 1)
        count, side, length = video.shape[2], self.tiled.side, self.tiled.length
        kept = count // length * length or 1
        if kept != count:
            logger.warning("VAE encode: of %d frames the last %d fill no latent frame.", count, count - kept)
        for dim in (3, 4):
            size = video.shape[dim]
            if size < side:
                given = f"{video.shape[4]} x {video.shape[3]}"
                raise InputError(f"the images are {given} pixels; MAGI-1's VAE needs at least {side} x {side}")
            video = video.narrow(dim, size % side // 2, size // side * side)
        return video[:, :, :kept]

    def _check(self, latent: Tensor) -> None:
        if latent.ndim != 5 or latent.shape[1] != self.latent_channels:
            raise InputError(
                f"the latent has shape {list(latent.shape)}; MAGI-1's VAE decodes [batch, {self.latent_channels}, "
                "frames, height, width], as VAE Encode with it and the MAGI-1 sampler give"
            )

    def _as_images(self, row: Tensor) -> Tensor:
        """``[1, 3, F, H, W]`` as decoded -> ``[F, H, W, 3]`` on the output device."""
        return self.process_output(row[0].to(self.output_device).float()).movedim(0, -1)


def preferred_dtype(device: torch.device) -> torch.dtype:
    """ComfyUI's choice between bfloat16 and float32 for a VAE, command line flags included."""
    dtype = management.vae_dtype(device, [torch.bfloat16, torch.float32])
    if dtype == torch.float16:  # only by a flag; MAGI-1 was not made for it
        logger.warning("MAGI-1's VAE does not run in float16; it is loaded in float32.")
        return torch.float32
    return dtype


def _attention(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    return optimized_attention(queries, keys, values, heads)


def _progress(total: int) -> Callable[[], None]:
    """A progress bar's next step; raises where the run was interrupted."""
    bar = comfy.utils.ProgressBar(total)

    def step() -> None:
        management.throw_exception_if_processing_interrupted()
        bar.update(1)

    return step
