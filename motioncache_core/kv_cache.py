"""Keys and values of a window's tokens, per layer and role, with partial writes at token rows."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

Rows = slice | Tensor


def ring(first: int, last: int, size: int) -> list[slice]:
    """Where rows [first, last) of an endless sequence lie in a store of ``size`` rows that is used again and again."""
    pieces = []
    while first < last:
        start = first % size
        count = min(last - first, size - start)
        pieces.append(slice(start, start + count))
        first += count
    return pieces


def narrowed(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Values as another floating-point type; what it cannot hold becomes its largest number, not NaN or infinity."""
    limit = torch.finfo(dtype).max
    small = limit < 2**17  # float16 and float8
    if small and not (values.is_floating_point() and torch.finfo(values.dtype).max <= limit):
        values = values.float().clamp(-limit, limit)
    return values.to(dtype)


class KVCache:
    """Storage for a run. Buffers are made for a role when it first writes, and dropped by :meth:`free`.

    Args:
        layers: transformer blocks.
        tokens: rows of a role.
        width: channels of a token's keys (heads times head dim).
        dtype: precision of the store, e.g. the model's; float8 types are stored as bytes.
        device: where the store lives; reads and writes cross over by themselves.
    """

    def __init__(self, layers: int, tokens: int, width: int, dtype: torch.dtype, device: torch.device):
        self.layers, self.tokens, self.width = layers, tokens, width
        self.dtype, self.device = dtype, torch.device(device)
        self._buffers: dict[Hashable, list[Tensor]] = {}

    @staticmethod
    def bytes_needed(layers: int, tokens: int, width: int, roles: int, dtype: torch.dtype) -> int:
        """Memory of a full store, in bytes."""
        return 2 * layers * tokens * width * roles * dtype.itemsize

    def allocate(self, role: Hashable, tokens: int | None = None) -> None:
        """Make the buffers of a role now, so that later memory estimates see them; ``tokens``: another size."""
        if role not in self._buffers:
            shape = (2, self.tokens if tokens is None else tokens, self.width)
            self._buffers[role] = [torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in range(self.layers)]

    def write(self, role: Hashable, layer: int, rows: Rows, keys: Tensor, values: Tensor) -> None:
        """Overwrite rows (a slice or ``[n]`` indices) with ``[n, width]`` keys and values."""
        self.allocate(role)
        store = self._buffers[role][layer]
        small = self.dtype.itemsize == 1
        raw = store.view(torch.uint8) if small else store
        if isinstance(rows, Tensor):
            rows = rows.to(self.device)
        for slot, new in enumerate((keys, values)):
            new = narrowed(new, self.dtype).to(self.device)
            raw[slot, rows] = new.view(torch.uint8) if small else new

    def read(self, role: Hashable, layer: int, rows: slice | Sequence[slice], like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of stretches of rows, each ``[1, n, width]``, on ``like``'s device and in its dtype."""
        pieces = [rows] if isinstance(rows, slice) else rows
        found = [
            self._buffers[role][layer][:, piece].to(device=like.device, dtype=like.dtype, non_blocking=True)
            for piece in pieces
        ]
        store = found[0] if len(found) == 1 else torch.cat(found, dim=1)
        return store[:1], store[1:]

    @property
    def bytes(self) -> int:
        """Memory of the buffers there are."""
        return sum(layer.nbytes for layers in self._buffers.values() for layer in layers)

    @property
    def roles(self) -> tuple[Hashable, ...]:
        """Those that have buffers."""
        return tuple(self._buffers)

    def take_out(self, role: Hashable, rows: Sequence[slice], dtype: torch.dtype) -> list[Tensor]:
        """Copies of some rows of every layer for keeping, each ``[2, n, width]`` in main memory."""
        return [
            narrowed(torch.cat([store[:, piece] for piece in rows], dim=1), dtype).to("cpu", copy=True)
            for store in self._buffers[role]
        ]

    def put_back(self, role: Hashable, rows: Sequence[slice], kept: Sequence[Tensor]) -> None:
        """Write what :meth:`take_out` gave, to the same or to other rows. Raises ValueError for other layers."""
        if len(kept) != self.layers:
            raise ValueError(f"{len(kept)} layers of keys and values were kept; the network has {self.layers}")
        where = torch.cat([torch.arange(piece.start, piece.stop) for piece in rows])
        for layer, pair in enumerate(kept):
            self.write(role, layer, where, pair[0], pair[1])

    def mirror(self, source: Hashable, target: Hashable, rows: Sequence[slice]) -> None:
        """Copy some rows of a role to another one, in every layer."""
        self.allocate(target, self._buffers[source][0].shape[1])
        for store, other in zip(self._buffers[source], self._buffers[target], strict=True):
            for piece in rows:
                other[:, piece] = store[:, piece]

    def free(self) -> None:
        """Drop all buffers."""
        self._buffers.clear()
