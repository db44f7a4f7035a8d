"""Noise drawn per chunk from (seed, chunk), on the CPU: a longer video or a later edit leaves earlier chunks alone."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def _generator(seed: int, purpose: str, chunk: int, sample: int) -> torch.Generator:
    key = f"{seed}/{purpose}/{chunk}/{sample}".encode()
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest, "little") >> 1)


def chunk_noise(
    seed: int, chunk: int, samples: int, channels: int, frames: int, height: int, width: int, full: int, purpose: str
) -> Tensor:
    """Gaussian noise of one chunk, ``[samples, channels, frames, height, width]``, float32.

    Args:
        chunk: number of the chunk in the video.
        full: latent frames of a full chunk; a shorter one gets the first frames of the full one's noise.
        purpose: name of the use, e.g. ``start`` or ``history``; different uses draw independently.
    """
    drawn = [
        torch.randn(full, channels, height, width, generator=_generator(seed, purpose, chunk, sample))
        for sample in range(samples)
    ]
    return torch.stack(drawn)[:, :frames].movedim(1, 2).contiguous()
