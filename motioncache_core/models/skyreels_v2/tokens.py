"""From latents to tokens and back, and how tokens of several rows share one sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

COMPLEX_DEVICES = ("cpu", "cuda")
"""Kinds of device whose PyTorch surely multiplies complex numbers."""


def pad_to_patches(x: Tensor, patch: Sequence[int]) -> Tensor:
    """Wrap ``[R, C, F, H, W]`` around at the far edges up to whole patches, as ComfyUI's Wan does for odd sizes."""
    missing = [(-size) % p for size, p in zip(x.shape[-3:], patch, strict=True)]
    if not any(missing):
        return x
    frames, height, width = missing
    return torch.nn.functional.pad(x, (0, width, 0, height, 0, frames), mode="circular")


def patchify(latents: Tensor, patch: Sequence[int]) -> Tensor:
    """The inverse of :func:`unpatchify`."""
    p, q, r = patch
    return rearrange(latents, "b c (f p) (h q) (w r) -> b (f h w) (p q r c)", p=p, q=q, r=r)


def unpatchify(tokens: Tensor, grid: tuple[int, int, int], patch: Sequence[int]) -> Tensor:
    """``[R, L, p1*p2*p3*C]`` head outputs -> ``[R, C, F, H, W]``."""
    f, h, w = grid
    p, q, r = patch
    return rearrange(tokens, "b (f h w) (p q r c) -> b c (f p) (h q) (w r)", f=f, h=h, w=w, p=p, q=q, r=r)


def pack_rows(rows: Tensor, chosen: Sequence[Tensor | None]) -> Tensor:
    """Chosen tokens (indices, or ``None`` for all) of ``[R, L, ...]`` as one ``[N, ...]``."""
    return torch.cat([row if indices is None else row[indices] for row, indices in zip(rows, chosen, strict=True)])


def rotate(x: Tensor, table: Tensor, heads: int) -> Tensor:
    """Rotary position embedding of ``[1, N, heads * d]``; pairs are neighbouring channels.

    ``table`` is ``[N, 1, d / 2, 2]``, cosines and sines, float32; the rotation is done in that precision.
    """
    pairs = rearrange(x, "1 n (h d two) -> n h d two", h=heads, two=2).to(table.dtype)
    if x.device.type in COMPLEX_DEVICES:  # one pass over memory instead of seven
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(table))
    else:
        turned = _rotate_real(pairs, table)
    return rearrange(turned, "n h d two -> 1 n (h d two)")


def _rotate_real(pairs: Tensor, table: Tensor) -> Tensor:
    """``[N, H, d / 2, 2]`` turned, for devices that have no complex numbers."""
    cos, sin = table.unbind(-1)
    even, odd = pairs.unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
