"""Reading the sizes of a transformer off the shapes of its tensors; what all families' ``architecture.py`` need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

Shape = tuple[int, ...]


class ArchitectureError(ValueError):
    """The keys or shapes do not describe a transformer of the family, or its sizes are illegal."""


def require_positive(config: Any, names: Iterable[str]) -> None:
    """Raise ArchitectureError for sizes that are no positive whole numbers."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ArchitectureError(f"{name} must be a positive whole number, got {value!r}")


def anchor(shapes: Mapping[str, Shape], key: str, rank: int) -> Shape:
    """The shape of a key that sizes are read from. Raises ArchitectureError if it is missing or has another rank."""
    if key not in shapes:
        raise ArchitectureError(f"missing key {key}")
    shape = tuple(shapes[key])
    if len(shape) != rank:
        raise ArchitectureError(f"{key} has shape {list(shape)}, expected {rank} dimensions")
    return shape


def count_blocks(keys: Mapping[str, Any], block_index: Callable[[str], int | None], prefix: str) -> int:
    """Highest block number + 1 (gaps then show up as missing keys).

    Args:
        block_index: number of the block that a key belongs to, or ``None``.
        prefix: what stands before the number.

    Raises:
        ArchitectureError: there is no first block, or one has an absurd number.
    """
    indices = {i for i in map(block_index, keys) if i is not None}
    if 0 not in indices:
        raise ArchitectureError(f"missing keys {prefix}0.*")
    if max(indices) >= len(keys):  # keeps a damaged name from asking for millions of keys
        raise ArchitectureError(f"it has {len(indices)} blocks, but one is called {prefix}{max(indices)}")
    return max(indices) + 1
