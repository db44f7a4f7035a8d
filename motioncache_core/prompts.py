"""Encoded prompts as safetensors files, so that a run needs no text encoder.

Format (version 1): tensors ``entries.N.cond`` ``[1, T, C]`` and ``entries.N.NAME`` for the other tensors of entry N;
metadata ``format``, ``version``, ``text`` (the prompt in words, may be empty) and ``entries`` (JSON: one table of plain
values an entry; may be absent). A conditioning is ComfyUI's: a list of ``[cond, {name: value}]``.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from .safetensors_file import CheckpointError, Header, read_header

FORMAT, VERSION = "motioncache_prompt", "1"
Conditioning = list[list[Any]]

_KEY = re.compile(r"entries\.(0|[1-9][0-9]{0,5})\.([A-Za-z0-9_]+)")
_NAME = re.compile(r"[A-Za-z0-9_]+")
_FLOATS = {"F64", "F32", "F16", "BF16"}


class PromptError(ValueError):
    """A prompt cannot be saved or a file is no saved prompt; the message says why."""


def save_prompt(path: Path, conditioning: Sequence[Sequence[Any]], text: str = "") -> None:
    """Write a conditioning; a file of that name is replaced only once the new one is complete.

    Raises:
        PromptError: an entry holds something that is neither tensor nor plain value (it is named).
    """
    if not conditioning:
        raise PromptError("the conditioning is empty; there is nothing to save.")
    tensors: dict[str, torch.Tensor] = {}
    tables: list[dict[str, Any]] = []
    for number, (cond, values) in enumerate(conditioning):
        if not isinstance(cond, torch.Tensor) or cond.ndim != 3 or not cond.is_floating_point():
            raise PromptError(f"entry {number} is no text conditioning of shape [batch, tokens, width]: {_what(cond)}.")
        tensors[f"entries.{number}.cond"] = cond
        table = {}
        for name, value in values.items():
            if not isinstance(name, str) or not _NAME.fullmatch(name) or name == "cond":
                raise PromptError(f"entry {number} holds {name!r}, which has no place in a prompt file.")
            if isinstance(value, torch.Tensor):
                tensors[f"entries.{number}.{name}"] = value
            elif _is_plain(value):
                table[name] = value
            else:
                raise PromptError(
                    f"entry {number} holds {name!r} ({_what(value)}), which cannot be saved; save the prompt before it "
                    "is added."
                )
        tables.append(table)
    metadata = {"format": FORMAT, "version": VERSION, "text": text, "entries": json.dumps(tables)}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    try:
        save_file({key: t.detach().cpu().contiguous().clone() for key, t in tensors.items()}, unfinished, metadata)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (str, int))


def _what(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {list(value.shape)}"
    return type(value).__name__


def load_prompt(path: Path) -> tuple[Conditioning, str]:
    """Read a conditioning and its prompt in words; floating-point tensors come as float32.

    Raises:
        PromptError: the file is damaged, no saved prompt, or of a newer version.
    """
    try:
        header = read_header(path)
    except CheckpointError as error:
        raise PromptError(str(error)) from None
    if header.metadata.get("format") != FORMAT:
        raise PromptError(f"{path.name} is not a saved prompt (its metadata says no format {FORMAT!r}).")
    version = header.metadata.get("version")
    if version != VERSION:
        raise PromptError(f"{path.name} has version {version!r} of the prompt format; this package reads {VERSION!r}.")
    names = _entries(header)
    tables = _tables(header, names)
    conditioning: Conditioning = []
    with safe_open(path, framework="pt", device="cpu") as file:
        for number, (entry, table) in enumerate(zip(names, tables, strict=True)):
            values = {name: _float32(file.get_tensor(f"entries.{number}.{name}")) for name in entry}
            conditioning.append([values.pop("cond"), {**values, **table}])
    return conditioning, header.metadata.get("text", "")


def _float32(tensor: torch.Tensor) -> torch.Tensor:
    # a copy, so that the file is not held open by its memory map
    return tensor.to(torch.float32, copy=True) if tensor.is_floating_point() else tensor.clone()


def _entries(header: Header) -> list[list[str]]:
    """Names of the tensors of each entry, checked."""
    found: dict[int, list[str]] = {}
    for key, tensor in header.tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise PromptError(f"{header.path.name} holds {key!r}, which does not belong in a saved prompt.")
        found.setdefault(int(match[1]), []).append(match[2])
        if match[2] == "cond" and (len(tensor.shape) != 3 or tensor.dtype not in _FLOATS or 0 in tensor.shape):
            raise PromptError(
                f"{header.path.name}: {key} is {tensor.dtype} of shape {list(tensor.shape)}; expected floating "
                "point of shape [1, tokens, width]."
            )
    if sorted(found) != list(range(len(found))) or not found:
        raise PromptError(f"{header.path.name}: its entries are {sorted(found)}; expected 0, 1, ... without gaps.")
    incomplete = [number for number, names in found.items() if "cond" not in names]
    if incomplete:
        raise PromptError(f"{header.path.name}: entry {incomplete[0]} lacks its cond.")
    return [found[number] for number in range(len(found))]


def _tables(header: Header, names: list[list[str]]) -> list[dict[str, Any]]:
    """The plain values of each entry, checked."""
    if "entries" not in header.metadata:
        return [{} for _ in names]
    try:
        tables = json.loads(header.metadata["entries"])
    except (ValueError, RecursionError):
        raise PromptError(f"{header.path.name}: its table of entries is not JSON.") from None
    good = isinstance(tables, list) and len(tables) == len(names) and all(isinstance(table, dict) for table in tables)
    if not good or any(set(table) & set(entry) for table, entry in zip(tables, names, strict=True)):
        raise PromptError(f"{header.path.name}: its table of entries does not fit its {len(names)} tensors.")
    return tables
