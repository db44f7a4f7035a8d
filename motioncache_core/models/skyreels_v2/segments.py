"""Which tokens of a call attend together, and to which keys and values: their own, or the store's."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...kv_cache import KVCache, Rows, ring
from ...plan import Call


@dataclass(frozen=True)
class Segment:
    """A stretch of the packed sequence whose tokens attend to the same keys.

    Args:
        row: row of the batch it belongs to.
        start, stop: its place in the packed sequence.
        base: where the row begins in the packed sequence.
        keys: how many keys it attends to; without a store from the row's first token on.
        cached: rows of the store that its own keys and values go to; ``None``: they are not stored.
        earlier: rows of the store with what lies before the call.
        reads: rows of the store that it attends to.
    """

    row: int
    start: int
    stop: int
    base: int
    keys: int
    cached: Rows | None = None
    earlier: tuple[slice, ...] = ()
    reads: tuple[slice, ...] = ()


def spans_of(chosen: Sequence[Tensor | None], total: int) -> list[tuple[int, int, int]]:
    """(row, start, stop) of the rows in the packed sequence. ``chosen``: indices of each row, ``None`` for all."""
    spans, at = [], 0
    for row, indices in enumerate(chosen):
        count = total if indices is None else indices.shape[0]
        spans.append((row, at, at + count))
        at += count
    return spans


def segments_of(
    call: Call,
    spans: Sequence[tuple[int, int, int]],
    chosen: Sequence[Tensor | None],
    per_frame: int,
    store: KVCache | None,
) -> list[Segment]:
    """What attends together: chunk-wise a row's chosen tokens, causal vanilla each chunk, full vanilla the row.

    Token t of the window lies in the store at row t modulo its size.
    """
    segments = []
    for row, start, stop in spans:
        if start == stop:
            continue
        if call.writes:
            segments.append(_stored(call, row, start, stop, chosen[row], per_frame, store.tokens))
            continue
        bounds = [(p.start, p.stop) for p in call.parts] if call.causal else [(call.start, call.stop)]
        for a, b in bounds:
            a, b = (a - call.start) * per_frame, (b - call.start) * per_frame
            segments.append(Segment(row, start + a, start + b, start, b))
    return segments


def _stored(call: Call, row: int, start: int, stop: int, chosen: Tensor | None, per_frame: int, size: int) -> Segment:
    oldest, first, last = (frame * per_frame for frame in (call.reads[0], call.start, call.stop))
    own = ring(first, last, size)
    if chosen is not None:
        cached: Rows = (chosen + first) % size
    elif len(own) == 1:
        cached = own[0]
    else:
        cached = torch.arange(first, last) % size
    earlier, reads = tuple(ring(oldest, first, size)), tuple(ring(oldest, last, size))
    return Segment(row, start, stop, start, last - oldest, cached, earlier, reads)


def keys_values(
    layer: int, segment: Segment, keys: Tensor, values: Tensor, store: KVCache | None, role: Hashable, auxiliary: bool
) -> tuple[Tensor, Tensor]:
    """What a segment attends to: the row's own tokens, or the store after its new rows went in.

    Args:
        keys, values: ``[1, n, C]`` of the packed sequence.
        role: of the row.
        auxiliary: the row stores nothing.
    """
    if segment.cached is None:
        span = slice(segment.base, segment.base + segment.keys)
        return keys[:, span], values[:, span]
    own_keys, own_values = keys[:, segment.start : segment.stop], values[:, segment.start : segment.stop]
    if auxiliary:
        if not segment.earlier:
            return own_keys, own_values
        before = store.read(role, layer, segment.earlier, own_keys)
        return torch.cat([before[0], own_keys], dim=1), torch.cat([before[1], own_values], dim=1)
    store.write(role, layer, segment.cached, own_keys[0], own_values[0])
    return store.read(role, layer, segment.reads, own_keys)
