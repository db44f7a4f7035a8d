"""What one call of the network is made of: items, each one chunk in one role, and the keys that they attend to.

Items of a call run as one packed sequence through the linear layers and are split only for attention. So the passes of
a guidance (text, null text, without history), the chunks of a window, a clean chunk that is passed once more and the
nearly clean chunk of the distilled models can share a call, or each be a call of its own.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ...kv_cache import Rows


@dataclass(frozen=True)
class Stored:
    """Rows of the KV store, as they are after all items of the call have written theirs.

    Args:
        role: whose rows.
        start, stop: rows of the store.
    """

    role: Hashable
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Fresh:
    """Keys and values that an item of the same call makes, wherever else they go.

    Args:
        item: its place in the call's list.
    """

    item: int


@dataclass(frozen=True)
class Writes:
    """Where an item's own keys and values go.

    Args:
        role: whose rows of the store.
        start: row of its chunk's first token. Chosen token i goes to row ``start + i``.
    """

    role: Hashable
    start: int


@dataclass(frozen=True)
class Item:
    """One chunk in one role.

    Args:
        latents: ``[16, F, h, w]`` in model units; h and w even.
        timestep: 0 = noise, 1 = clean.
        text: ``[L, text_dim]`` valid text tokens only, or ``None``: the learned null text. Items that share a tensor
            share its keys and values.
        start: first latent frame for the rotary position (0 in the pass without history; right behind the window for
            the nearly clean chunk).
        reads: keys it attends to, its own included.
        writes: where its own keys and values go, ``None``: nowhere.
        text_dropped: the time embedding says "no text" (passes with null text), else "text" (also when ``text`` is
            ``None``: a clean chunk within the pass with text).
        step_length: of the distilled models (see the original's ``distill_interval``), ``None``: base model.
        chosen: ``[n]`` indices of the tokens to compute, ``None``: all. Tokens are in (frame, row, column) order.
    """

    latents: Tensor
    timestep: float
    text: Tensor | None
    start: int
    reads: tuple[Stored | Fresh, ...]
    writes: Writes | None = None
    text_dropped: bool = False
    step_length: float | None = None
    chosen: Tensor | None = None

    def __post_init__(self) -> None:
        height, width = self.latents.shape[-2:]
        if height % 2 or width % 2:
            nearest = f"{height + height % 2} x {width + width % 2}"
            raise ValueError(f"latents of {height} x {width} do not divide into 2 x 2 patches (nearest: {nearest})")

    @property
    def grid(self) -> tuple[int, int, int]:
        """Latent frames, token rows, token columns."""
        _, frames, height, width = self.latents.shape
        return frames, height // 2, width // 2

    @property
    def tokens(self) -> int:
        """Of the whole chunk."""
        frames, height, width = self.grid
        return frames * height * width

    @property
    def computed(self) -> int:
        """How many of them run through the network."""
        return self.tokens if self.chosen is None else self.chosen.shape[0]

    def target_rows(self) -> Rows:
        """Rows of the store that :attr:`writes` means."""
        if self.chosen is None:
            return slice(self.writes.start, self.writes.start + self.tokens)
        return self.chosen + self.writes.start


@dataclass(frozen=True)
class Placed:
    """An item of a call at its place in the video.

    Args:
        item: its place in the call's list.
        start, stop: token rows of the video.
    """

    item: int
    start: int
    stop: int


def reads_of_range(start: int, stop: int, lane: Sequence[Placed], role: Hashable) -> tuple[Stored | Fresh, ...]:
    """What an item of MAGI-1's own scheme attends to: rows [start, stop) of the video.

    Rows that an item of its lane (the chunks of one pass) makes in this call come from there, earlier ones from the
    store.

    Raises:
        ValueError: the range cuts through a chunk of the lane, or has a gap behind stored rows.
    """
    fresh = [p for p in sorted(lane, key=lambda p: p.start) if p.start < stop and p.stop > start]
    cut = [p for p in fresh if p.start < start or p.stop > stop]
    if cut:
        raise ValueError(f"rows {start} to {stop} cut through the chunk at {cut[0].start} to {cut[0].stop}")
    at = fresh[0].start if fresh else stop
    reads: list[Stored | Fresh] = [Stored(role, start, at)] if at > start else []
    for placed in fresh:
        if placed.start != at:
            raise ValueError(f"rows {at} to {placed.start} are neither stored nor made in this call")
        at = placed.stop
        reads.append(Fresh(placed.item))
    if at != stop:
        raise ValueError(f"rows {at} to {stop} are neither stored nor made in this call")
    return tuple(reads)
