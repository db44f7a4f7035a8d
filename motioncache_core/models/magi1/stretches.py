"""Work that goes row by row, a stretch of rows at a time where a row needs much memory on the way."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

VALUES_AT_ONCE = 1 << 25
"""Numbers made at once where they are widened to float32, of which a step holds a few: an eighth of a GiB each."""

MATRIX_VALUES_AT_ONCE = 3 << 28
"""The same where a stretch goes through a matrix: more, because a matrix that ComfyUI keeps elsewhere is fetched for
each stretch. A chunk at 720p (21600 tokens) goes through 24B's feed-forward layer in one, 1.5 GiB in bfloat16.
"""


def by_rows(function: Callable[..., Tensor], *tensors: Tensor, width: int = 1, at_once: int | None = None) -> Tensor:
    """``function(*tensors)`` where every output row depends on the inputs' same row.

    Args:
        width: numbers that a row becomes on the way, if more than it has.
        at_once: numbers that a stretch may have, ``None``: :data:`VALUES_AT_ONCE`.
    """
    first = tensors[0]
    rows = max((at_once or VALUES_AT_ONCE) // max(width, first[:1].numel(), 1), 1)
    if first.shape[0] <= rows:
        return function(*tensors)
    made: Tensor | None = None
    for start in range(0, first.shape[0], rows):
        part = function(*(tensor[start : start + rows] for tensor in tensors))
        if made is None:  # in place of joining all parts at the end, which would hold them twice
            made = part.new_empty(first.shape[0], *part.shape[1:])
        made[start : start + rows] = part
    return made
