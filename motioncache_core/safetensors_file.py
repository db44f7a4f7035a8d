"""Reading safetensors headers, so that a file is judged before any tensor is read.

A safetensors file is 8 bytes (little-endian length of the header), the header (JSON: tensor name -> dtype, shape, byte
range; ``__metadata__`` -> strings), then the bytes. Format: https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library itself; the largest model headers are below 1 MB."""

MAX_RANK = 16

DTYPE_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}

_FOREIGN_MAGIC = {
    b"GGUF": "a GGUF file; load it with a GGUF loader node, its MODEL can be sampled too",
    b"PK\x03\x04": "a pickled PyTorch checkpoint (zip)",
    b"\x80\x02": "a pickled PyTorch checkpoint",
    b"version ": "a Git LFS pointer, not the file itself: the download has not happened",
    b"<!DOCTYP": "a web page: the download saved an error page",
    b"<html": "a web page: the download saved an error page",
}


class CheckpointError(ValueError):
    """A file is not what was expected; the message says what it is."""


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies: file, name there, dtype as the file spells it, shape."""

    file: Path
    key: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """The validated header of one file."""

    path: Path
    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]


def read_header(path: Path | str) -> Header:
    """Read and validate the header of a safetensors file; costs one small read.

    Raises:
        CheckpointError: the file is no safetensors file, is truncated, or its header contradicts itself.
        OSError: the file cannot be opened.
    """
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        for magic, what in _FOREIGN_MAGIC.items():
            if start.startswith(magic):
                raise CheckpointError(f"{path.name} is {what}. Expected a safetensors file.")
        if len(start) < 8:
            raise CheckpointError(f"{path.name} has {size} bytes: it is empty or truncated, and no safetensors file.")
        length = int.from_bytes(start, "little")
        if length > MAX_HEADER_BYTES:
            raise CheckpointError(
                f"{path.name} claims a header of {length} bytes (the limit is {MAX_HEADER_BYTES}): it is not a "
                "safetensors file, or it is damaged."
            )
        if 8 + length > size:
            raise CheckpointError(
                f"{path.name} is truncated: it has {size} bytes, its header alone needs {8 + length}. "
                "Download it again."
            )
        raw = file.read(length)
    entries = _parse(path, raw)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"{path.name}: the metadata of its header is not a table of strings.")
    tensors, end = {}, 0
    for key, entry in entries.items():
        tensors[key], stop = _tensor(path, key, entry)
        end = max(end, stop)
    needed = 8 + length + end
    if size < needed:
        raise CheckpointError(
            f"{path.name} is truncated: it has {size} bytes and needs {needed} ({needed - size} missing). "
            "Download it again."
        )
    if size > needed:
        raise CheckpointError(f"{path.name} has {size - needed} bytes too many at its end: it is damaged.")
    return Header(path, tensors, metadata)


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path.name} is not a safetensors file, or it is damaged: its header is not JSON ({error})."
        ) from None
    if not isinstance(entries, dict):
        raise CheckpointError(f"{path.name}: the header is not a table of tensors.")
    return entries


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _tensor(path: Path, key: str, entry: Any) -> tuple[StoredTensor, int]:
    """One checked entry and the offset of its end."""
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise CheckpointError(f"{path.name}: the header entry of {key!r} is damaged.") from None
    whole = isinstance(shape, list) and len(shape) <= MAX_RANK and all(map(_is_count, [*shape, begin, end]))
    if not whole or not isinstance(dtype, str):
        raise CheckpointError(f"{path.name}: the header entry of {key!r} is damaged.")
    width = DTYPE_BYTES.get(dtype)
    if begin > end or (width is not None and math.prod(shape) * width != end - begin):
        raise CheckpointError(
            f"{path.name}: {key!r} is {dtype} of shape {shape}, but its data takes {end - begin} bytes. It is damaged."
        )
    return StoredTensor(path, key, dtype, tuple(shape)), end
