"""Keys and values of a window's tokens, per layer and role, with partial writes at token rows."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

Rows = slice | Tensor


class KVCache:
    """Storage for one window. Buffers are made for a role when it first writes, and dropped by :meth:`free`.

    Args:
        layers: transformer blocks.
        tokens: tokens of the whole window.
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
            if small:  # older versions of PyTorch turn what float8 cannot hold into NaN
                new = new.clamp(-torch.finfo(self.dtype).max, torch.finfo(self.dtype).max)
            new = new.to(device=self.device, dtype=self.dtype)
            raw[slot, rows] = new.view(torch.uint8) if small else new

    def read(self, role: Hashable, layer: int, rows: slice, like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a range of rows, each ``[1, n, width]``, on ``like``'s device and in its dtype."""
        store = self._buffers[role][layer][:, rows]
        store = store.to(device=like.device, dtype=like.dtype, non_blocking=True)
        return store[:1], store[1:]

    def free(self) -> None:
        """Drop all buffers."""
        self._buffers.clear()
