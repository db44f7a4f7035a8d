"""The rules that decide which tokens are recomputed: pure functions on accumulators and masks.

All tensors have one entry per token of a chunk, ``[L]``, frame-major. Source: MotionCache, arXiv 2605.01725,
section 4 and the released code (vote and minimum update ratio).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Phase = Literal["warm-up", "chunk", "token"]


def phase_of(steps_done: int, updates_done: int, warmup_steps: int, chunk_phase_updates: int) -> Phase:
    """Phase of a chunk before its next step.

    Args:
        steps_done: steps of this chunk so far. The step right after warm-up is still computed fully: it is the
            first whose residual may be reused.
        updates_done: steps since then in which anything was recomputed.
    """
    if steps_done <= warmup_steps:
        return "warm-up"
    return "chunk" if updates_done < chunk_phase_updates else "token"


def phase_at(step: int, warmup_start: int, warmup_steps: int, chunk_phase_steps: float) -> Phase:
    """Phase of a chunk before its step ``step``, where all its steps count, reused ones too.

    Args:
        warmup_start: step at which warm-up begins; those before belong to the chunk phase.
        chunk_phase_steps: steps after warm-up in which the chunk still decides as one.
    """
    if warmup_start <= step < warmup_start + warmup_steps:
        return "warm-up"
    return "chunk" if step < warmup_start + warmup_steps + chunk_phase_steps else "token"


def accumulate(accumulators: Tensor, distance: float | Tensor, weights: Tensor | None) -> Tensor:
    """Accumulators after a step: each grows by the distance times the token's motion weight (``None``: 1)."""
    return accumulators + (distance if weights is None else weights * distance)


def needed(accumulators: Tensor, threshold: float) -> Tensor:
    """Tokens whose accumulated distance has reached the threshold."""
    return accumulators >= threshold


def vote(need: Tensor, frames: int, share: float) -> Tensor:
    """One decision a position for all frames of the chunk: needed where more than ``share`` of its frames need it."""
    by_frame = need.view(frames, -1)
    wanted = by_frame.float().mean(dim=0) > share
    return wanted.expand_as(by_frame).flatten()


def vote_up(need: Tensor, frames: int, share: float) -> Tensor:
    """The votes that can only add: needed in all frames where more than ``share`` of a position's frames need it."""
    by_frame = need.view(frames, -1)
    wanted = by_frame.sum(dim=0) > share * frames
    return (by_frame | wanted).flatten()


def limit_reuse(need: Tensor, accumulators: Tensor, max_reuse_ratio: float) -> Tensor:
    """At most that share of tokens is reused: those with the smallest accumulators, the earlier token on a tie."""
    allowed = int(max_reuse_ratio * need.numel())
    reused = (~need).nonzero().flatten()
    if reused.numel() <= allowed:
        return need
    order = torch.argsort(accumulators[reused], stable=True)
    limited = need.clone()
    limited[reused[order[allowed:]]] = True
    return limited


def too_few(need_count: int, tokens: int, min_update_ratio: float) -> bool:
    """Whether so few tokens need work that all wait for a later step, keeping what they accumulated."""
    return 0 < need_count and need_count / tokens < min_update_ratio


def ramp(start: float, end: float, progress: float) -> float:
    """A value that goes evenly from ``start`` to ``end`` as ``progress`` goes from 0 to 1, and stays there."""
    return start + (end - start) * min(max(progress, 0.0), 1.0)
