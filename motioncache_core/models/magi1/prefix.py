"""Given frames: bringing an image or a video to the size of the run.

Rules are those of the original's calls of ffmpeg (scale: bicubic); torch's antialiased bicubic differs from ffmpeg's by
a few of 255 levels.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

Aspect = Literal["fit", "crop", "pad"]
ASPECTS: tuple[Aspect, ...] = ("fit", "crop", "pad")
"""Stretch to the size (the original's way); fill it and cut off what is too much; fit in and fill up with black."""


def fit_frames(frames: Tensor, width: int, height: int, aspect: Aspect = "fit") -> Tensor:
    """``[N, H, W, 3]`` in 0..1 -> ``[N, height, width, 3]`` in 0..1.

    Raises:
        ValueError: unknown aspect.
    """
    if aspect not in ASPECTS:
        raise ValueError(f"aspect {aspect!r} is unknown; legal are {', '.join(ASPECTS)}")
    rows, columns = frames.shape[1:3]
    size = (height, width)
    if aspect != "fit":
        # sides that keep the picture's shape, rounded to the nearest pixel
        whole_height, whole_width = _divide(width * rows, columns), _divide(height * columns, rows)
        choose = max if aspect == "crop" else min
        size = (choose(height, whole_height), choose(width, whole_width))
    pixels = frames.movedim(-1, 1)
    if size != (rows, columns):
        pixels = nn.functional.interpolate(
            pixels.float(), size=size, mode="bicubic", align_corners=False, antialias=True
        ).clamp(0, 1)
    if aspect == "crop":
        # halves go to the even side, as in ffmpeg's crop
        top, left = round((size[0] - height) / 2), round((size[1] - width) / 2)
        pixels = pixels[:, :, top : top + height, left : left + width]
    elif aspect == "pad":
        above, beside = (height - size[0]) // 2, (width - size[1]) // 2
        pixels = nn.functional.pad(pixels, (beside, width - size[1] - beside, above, height - size[0] - above))
    return pixels.movedim(1, -1).contiguous()


def _divide(number: int, by: int) -> int:
    return (2 * number + by) // (2 * by)
