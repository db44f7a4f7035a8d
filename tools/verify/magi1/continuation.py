"""Which frames of a video file the original continues from; the nodes take frames that are read and chosen already.

The rules are those of its calls of ffmpeg (fps: nearest).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

LAST_SECONDS = 5
FIRST_FRAMES = 32


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
