"""Reading a MAGI-1 VAE: the official folder (`config.json`, `diffusion_pytorch_model.safetensors`) or a single file.

The sizes come from `config.json` or from the file's metadata (entry ``config``); a file without either is taken for the
official VAE. Everything is judged by headers first.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ...recognise import describe
from ...safetensors_file import CheckpointError, StoredTensor, read_header
from ...weight_files import WeightFiles, find_weight_files
from .vae_config import OFFICIAL, VaeConfig, VaeConfigError, config_from, expected_keys

WANTED = "MAGI-1's VAE (folder ckpt/vae of the official repository, or its diffusion_pytorch_model.safetensors)"

_PREFIXES = ("", "vae.", "first_stage_model.")
_DTYPES = frozenset({"F64", "F32", "BF16", "F16"})


@dataclass(frozen=True)
class VaeLayout:
    """Where the tensors of a VAE lie; nothing is loaded.

    Args:
        name: what to call it.
        config: sizes.
        tensors: official key -> stored tensor.
    """

    name: str
    config: VaeConfig
    tensors: Mapping[str, StoredTensor]

    def summary(self) -> str:
        stored = ", ".join(sorted({tensor.dtype for tensor in self.tensors.values()}))
        known = "MAGI-1 VAE" if self.config == OFFICIAL else "VAE of MAGI-1's kind, of other sizes"
        return f"{self.name}: {known}, stored as {stored}"


def read_vae_layout(path: Path) -> VaeLayout:
    """Judge a file or folder.

    Raises:
        CheckpointError: it holds something else, or not all of it; the message says what and what is wanted.
        OSError: it cannot be read.
    """
    files = find_weight_files(path)
    stored = files.headers()
    prefix = next((p for p in _PREFIXES if f"{p}decoder.pos_embed" in stored), None)
    shapes = {key: tensor.shape for key, tensor in stored.items()}
    if prefix is None:
        raise CheckpointError(f"{files.name} is {describe(shapes)}. Expected {WANTED}.")
    try:
        config = _config(files)
    except VaeConfigError as error:
        raise CheckpointError(f"{files.name}: its description does not fit MAGI-1's VAE: {error}") from None
    tensors = {key.removeprefix(prefix): tensor for key, tensor in stored.items() if key.startswith(prefix)}
    _check(files.name, config, tensors)
    return VaeLayout(files.name, config, tensors)


def _config(files: WeightFiles) -> VaeConfig:
    if files.config:
        return config_from(files.config)
    described = read_header(files.files[0]).metadata.get("config")
    if described is None:
        return OFFICIAL
    try:
        content: Any = json.loads(described)
    except (ValueError, RecursionError):
        raise VaeConfigError("the entry 'config' of its metadata is not JSON") from None
    if not isinstance(content, dict):
        raise VaeConfigError("the entry 'config' of its metadata is not a table")
    return config_from(content)


def _check(name: str, config: VaeConfig, tensors: Mapping[str, StoredTensor]) -> None:
    expected = expected_keys(config)
    missing = [key for key in expected if key not in tensors]
    strange = [key for key in tensors if key not in expected]
    if missing or strange:
        found = ((missing, "missing"), (strange, "unknown"))
        parts = [f"{len(keys)} {word}: {_few(keys)}" for keys, word in found if keys]
        raise CheckpointError(f"{name} does not hold the tensors of MAGI-1's VAE ({'; '.join(parts)}).")
    wrong = [key for key, shape in expected.items() if tensors[key].shape != shape]
    if wrong:
        key = wrong[0]
        raise CheckpointError(
            f"{name}: {key} has shape {list(tensors[key].shape)}, expected {list(expected[key])} ({len(wrong)} such "
            "tensors). For a VAE of other sizes its config.json must lie beside it, in one folder."
        )
    kinds = sorted({tensor.dtype for tensor in tensors.values()} - _DTYPES)
    if kinds:
        raise CheckpointError(f"{name} is stored as {', '.join(kinds)}; read are {', '.join(sorted(_DTYPES))}.")


def _few(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")


def read_vae_tensors(layout: VaeLayout, dtype: torch.dtype, *, copy: bool = False) -> dict[str, Tensor]:
    """All tensors, in one precision.

    Args:
        copy: take them into memory also where they need no conversion; else such ones are views of the mapped file.
    """
    wanted: dict[Path, list[tuple[str, str]]] = defaultdict(list)
    for key, tensor in layout.tensors.items():
        wanted[tensor.file].append((key, tensor.key))
    read: dict[str, Tensor] = {}
    for file, entries in wanted.items():
        with safe_open(file, framework="pt", device="cpu") as handle:
            for key, stored in entries:
                read[key] = handle.get_tensor(stored).to(dtype, copy=copy)
    return read
