"""The texts of a whole run, padded, as the original hands them to its network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from motioncache_core.models.magi1.architecture import NULL_TEXT_TOKENS
from motioncache_core.models.magi1.text import chunk_text, prepend


@dataclass(frozen=True)
class RunTexts:
    """Texts of a run, padded: what the original hands its network.

    Args:
        text: for every chunk ``[L, D]`` and how many tokens count; 0 for chunks of the prefix.
        null: the null text of every chunk, likewise.
    """

    text: tuple[tuple[Tensor, int], ...]
    null: tuple[tuple[Tensor, int], ...]


def run_texts(
    cond: Tensor,
    options: Mapping[str, Any],
    null: Tensor,
    chunks: int,
    *,
    prefix_chunks: int = 0,
    valid: int | None = None,
    before_null: Sequence[Tensor] = (),
) -> RunTexts:
    """Texts of all chunks of a run by the original's rules.

    Chunks of the prefix carry the null text with no token that counts. A prompt of which no token counts makes every
    chunk carry the null text.

    Args:
        cond, options, valid: as for :func:`chunk_text`.
        null: ``[800, D]`` the learned null text.
        chunks: of the run, those of the prefix included.
        before_null: vectors put in front of the null text (an option of the original); its count stays.
    """
    nulls = null
    for vector in before_null:
        nulls, _ = prepend(nulls, 0, vector, null.shape[0])
    null_row = (nulls, min(NULL_TEXT_TOKENS, null.shape[0]))
    if valid == 0:
        return RunTexts((null_row,) * chunks, (null_row,) * chunks)
    texts = [chunk_text(cond, options, chunks - 1 - chunk, valid, null.shape[0]) for chunk in range(chunks)]
    return RunTexts(((null, 0),) * prefix_chunks + tuple(texts[prefix_chunks:]), (null_row,) * chunks)
