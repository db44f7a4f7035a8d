"""How alike two videos are: peak signal-to-noise ratio, and structural similarity of Wang et al. 2004.

Videos are ``[F, H, W, C]`` with values 0..1 (ComfyUI's IMAGE); a mask is ``[F, H, W]`` or ``[1, H, W]`` with weights
0 or more, and restricts a mean to a region. A frame whose weights are all 0 has nothing to judge: its value is NaN.
Everything is computed a few frames at a time, so that long videos need little memory beside their own.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

PSNR_OF_EQUAL = 100.0
"""dB at most; equal pictures have no noise, and infinity can be neither averaged nor drawn."""
WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2
PIXELS_AT_ONCE = 2**21


def frame_groups(frames: int, height: int, width: int) -> Iterator[slice]:
    """Cut a video into groups of frames that are worked on together: about 2 million pixels, at least one frame."""
    size = max(1, PIXELS_AT_ONCE // (height * width))
    for start in range(0, frames, size):
        yield slice(start, min(frames, start + size))


def psnr(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio of every frame, ``[F]`` in dB, at most 100.

    Raises:
        ValueError: if the sizes differ or a weight is negative.
    """
    errors, weights = _squared_errors(a, b, mask)
    return _decibels(errors / weights).float()


def mean_psnr(a: Tensor, b: Tensor, mask: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB of the mean squared error over all frames, at most 100.

    It is lower than the mean of :func:`psnr`, since bad frames count in full. NaN if all weights are 0.

    Raises:
        ValueError: as :func:`psnr`.
    """
    errors, weights = _squared_errors(a, b, mask)
    return float(_decibels(errors.sum() / weights.sum()))


def ssim(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Structural similarity of every frame, ``[F]``: mean over pixels and channels, 1 for equal frames.

    Gaussian window of 11 pixels with sigma 1.5, K1 = 0.01, K2 = 0.03, range 1 (equations 6 and 13-16 of the paper).
    Differs from the paper in that pixels near the border are kept: their window is cut off there and its weights
    scaled to sum to 1.

    Raises:
        ValueError: as :func:`psnr`.
    """
    _check(a, b, mask)
    result = torch.empty(a.shape[0], device=a.device)
    for group in frame_groups(*a.shape[:3]):
        alike = _ssim_map(a[group], b[group]).double()
        if mask is None:
            result[group] = alike.mean(dim=(1, 2)).float()
        else:
            weights = _of_group(mask, group)
            result[group] = ((alike * weights).sum(dim=(1, 2)) / weights.sum(dim=(1, 2))).float()
    return result


def _squared_errors(a: Tensor, b: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weighted sum of the squared error (mean over channels) of every frame, and its sum of weights; float64."""
    _check(a, b, mask)
    errors = torch.zeros(a.shape[0], dtype=torch.float64, device=a.device)
    weights = torch.full_like(errors, a.shape[1] * a.shape[2])
    for group in frame_groups(*a.shape[:3]):
        error = (a[group].float() - b[group].float()).square().mean(dim=3).double()
        if mask is not None:
            weight = _of_group(mask, group)
            weights[group] = weight.sum(dim=(1, 2))
            error *= weight
        errors[group] = error.sum(dim=(1, 2))
    return errors, weights


def _decibels(mean_squared_error: Tensor) -> Tensor:
    return (-10 * torch.log10(mean_squared_error)).clamp(max=PSNR_OF_EQUAL)


def _of_group(mask: Tensor, group: slice) -> Tensor:
    return (mask if mask.shape[0] == 1 else mask[group]).double()


def _ssim_map(a: Tensor, b: Tensor) -> Tensor:
    """``[F, H, W]`` of a few frames: similarity around every pixel, mean over the channels."""
    a, b = (frames.float().permute(3, 0, 1, 2) - 0.5 for frames in (a, b))  # moments around 0.5: less rounding
    share = _blur(torch.ones_like(a[:1, :1]))
    mean_a, mean_b = _blur(a) / share, _blur(b) / share
    covariance = _blur(a * b) / share - mean_a * mean_b
    variances = _blur(a.square() + b.square()) / share - (mean_a.square() + mean_b.square())
    structure = (2 * covariance + C2) / (variances + C2)
    mean_a, mean_b = mean_a + 0.5, mean_b + 0.5
    luminance = (2 * mean_a * mean_b + C1) / (mean_a.square() + mean_b.square() + C1)
    return (luminance * structure).mean(dim=0)


def _blur(pictures: Tensor) -> Tensor:
    """Gaussian mean over the last two dimensions, zero outside.

    A sum of shifted pictures rather than a convolution: graphics cards may do those in TF32, which is too coarse for
    the small difference between a mean square and a squared mean.
    """
    for dim in (-2, -1):
        size = pictures.shape[dim]
        blurred = torch.zeros_like(pictures)
        for shift, weight in _window():
            length = size - abs(shift)
            if length > 0:
                source = pictures.narrow(dim, max(shift, 0), length)
                blurred.narrow(dim, max(-shift, 0), length).add_(source, alpha=weight)
        pictures = blurred
    return pictures


def _window() -> list[tuple[int, float]]:
    """(shift in pixels, weight) of the Gaussian window in one dimension; the weights sum to 1."""
    shifts = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weights = torch.exp(-(shifts**2) / (2 * SIGMA**2))
    return list(zip(shifts.int().tolist(), (weights / weights.sum()).tolist(), strict=True))


def _check(a: Tensor, b: Tensor, mask: Tensor | None) -> None:
    if a.ndim != 4 or a.shape != b.shape:
        raise ValueError(f"videos of the same size [F, H, W, C] are compared, got {tuple(a.shape)}, {tuple(b.shape)}")
    if mask is None:
        return
    if mask.ndim != 3 or mask.shape[1:] != a.shape[1:3] or mask.shape[0] not in (1, a.shape[0]):
        raise ValueError(f"a mask for {tuple(a.shape[:3])} has that size or one frame of it, got {tuple(mask.shape)}")
    if mask.numel() and mask.amin() < 0:
        raise ValueError(f"weights of a mask are 0 or more, got {float(mask.amin()):g}")
