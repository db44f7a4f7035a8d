"""A value of tensors and plain data as one safetensors file that is checked before it is believed.

Format: the tensors; metadata ``format``, ``version``, ``facts`` (JSON: what is compared before anything is read),
``data`` (JSON: plain data that refers to the tensors, see :mod:`.state`) and ``checksum`` (CRC-32 of all of it).
Reading never executes code: the data may only name classes that the reader hands in.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from . import state
from .safetensors_file import CheckpointError, Header, read_header


class StoreError(ValueError):
    """A file cannot be used; the message says why."""


def write(path: Path, kind: str, version: int, facts: Mapping[str, Any], value: Any, classes: tuple[type, ...]) -> None:
    """Write a file; one of that name is replaced only once the new one is complete.

    Args:
        kind: of the value, e.g. ``motioncache_take``.
        facts: plain values, given back by :func:`read_facts`.
        classes: that may occur in the value.

    Raises:
        TypeError: something in it has no form, see :func:`.state.export`.
        OSError: it cannot be written; a file of that name is still there.
    """
    tensors, data = state.export(value, classes)
    kept = _apart(tensors)
    texts = {"facts": json.dumps(dict(facts)), "data": json.dumps(data)}
    checksum = _checksum(texts, kept)
    metadata = {"format": kind, "version": str(version), **texts, "checksum": str(checksum)}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    try:
        save_file(kept, unfinished, metadata)
        os.replace(unfinished, path)
    except SafetensorError as error:  # what the format's library makes of a full disk
        raise OSError(str(error)) from error
    finally:
        unfinished.unlink(missing_ok=True)


def read_facts(path: Path, kind: str, version: int) -> dict[str, Any]:
    """What a file says of itself; only its header is read.

    Raises:
        StoreError: it is damaged, of another kind or of another version.
    """
    return _facts(_header(path, kind, version))


def read(path: Path, kind: str, version: int, classes: tuple[type, ...]) -> Any:
    """The value of a file, on the CPU.

    Raises:
        StoreError: it is damaged, of another kind or of another version, or refers to what is not known.
    """
    header = _header(path, kind, version)
    _facts(header)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            # copies, so that the file is let go: one that is mapped into memory cannot be replaced on Windows
            tensors = {key: file.get_tensor(key).clone() for key in header.tensors}
    except SafetensorError as error:
        raise StoreError(f"{path.name} is damaged: {error}") from None
    texts = {name: header.metadata.get(name, "") for name in ("facts", "data")}
    if str(_checksum(texts, tensors)) != header.metadata.get("checksum"):
        raise StoreError(f"{path.name} is damaged: its checksum does not fit what it holds. Use another copy of it.")
    try:
        return state.restore(tensors, json.loads(texts["data"]), classes, copy=False)
    except (ValueError, TypeError, AttributeError, RuntimeError, RecursionError) as error:
        raise StoreError(f"{path.name} cannot be read: {error}") from None


def _header(path: Path, kind: str, version: int) -> Header:
    try:
        header = read_header(path)
    except CheckpointError as error:
        raise StoreError(str(error)) from None
    if header.metadata.get("format") != kind:
        raise StoreError(f"{path.name} is no {kind} (its metadata says {header.metadata.get('format')!r}).")
    if header.metadata.get("version") != str(version):
        raise StoreError(
            f"{path.name} has version {header.metadata.get('version')!r} of the format {kind}; this package reads "
            f"version {version}."
        )
    return header


def _facts(header: Header) -> dict[str, Any]:
    try:
        facts = json.loads(header.metadata.get("facts", ""))
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        raise StoreError(f"{header.path.name} is damaged: its facts are not a table.")
    return facts


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU, no two of which share memory, as the format wants them."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return apart


def _checksum(texts: Mapping[str, str], tensors: Mapping[str, Tensor]) -> int:
    total = 0
    for name in sorted(texts):
        total = zlib.crc32(texts[name].encode(), total)
    for name in sorted(tensors):
        tensor = tensors[name]
        total = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), total)
        total = zlib.crc32(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()), total)
    return total
