"""Given frames: bringing an image or a video to the size and frame rate of the run, and choosing what to continue from.

Rules are those of the original's calls of ffmpeg (scale: bicubic; fps: nearest); torch's antialiased bicubic differs
from ffmpeg's by a few of 255 levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

Aspect = Literal["fit", "crop", "pad"]
ASPECTS: tuple[Aspect, ...] = ("fit", "crop", "pad")
"""Stretch to the size (the original's way); fill it and cut off what is too much; fit in and fill up with black."""

LAST_SECONDS = 5
FIRST_FRAMES = 32


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
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    if aspect == "crop":
        pixels = pixels[:, :, top : top + height, left : left + width]
    elif aspect == "pad":
        above, beside = (height - size[0]) // 2, (width - size[1]) // 2
        pixels = nn.functional.pad(pixels, (beside, width - size[1] - beside, above, height - size[0] - above))
    return pixels.movedim(1, -1).contiguous()


def _divide(number: int, by: int) -> int:
    return (2 * number + by) // (2 * by)


def frames_at_rate(times: Sequence[float], end: float, rate: float) -> list[int]:
    """Which given frame is shown in every frame of a video of another rate: the latest that has begun by then.

    Args:
        times: seconds at which the given frames begin, rising.
        end: seconds at which the last one ends.
        rate: frames per second wanted.
    """
    begins = [_nearest(time * rate) for time in times]
    shown, chosen = 0, []
    for frame in range(begins[0], max(_nearest(end * rate), begins[0] + 1)):
        while shown + 1 < len(begins) and begins[shown + 1] <= frame:
            shown += 1
        chosen.append(shown)
    return chosen


def _nearest(value: float) -> int:
    return math.floor(value + 0.5)


def continued_frames(count: int, rate: int, select: Literal["first", "last"], frames: int = FIRST_FRAMES) -> range:
    """Which frames of a video of the run's rate are continued from.

    Args:
        count: frames that there are.
        rate: frames per second.
        select: ``first``: so many frames from its start (the original: 32). ``last``: the last whole seconds, five at
            most; of a video shorter than a second only the last frame, as an image.
        frames: for ``first``.
    """
    if select == "first":
        return range(min(count, frames))
    kept = min(count // rate * rate, LAST_SECONDS * rate) or 1
    return range(count - kept, count)
