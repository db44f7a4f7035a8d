"""Finding the files of one model: a single safetensors file, a sharded set (or its index), or a repository folder.

Folders are those of the official hub (``config.json`` beside ``model*.safetensors``) and of diffusers
(``transformer/diffusion_pytorch_model*.safetensors``). Only names, indices and headers are read here, never tensors.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from .safetensors_file import CheckpointError, StoredTensor, read_header

SUFFIXES = (".safetensors", ".sft")
INDEX_SUFFIX = ".safetensors.index.json"
SUBFOLDER = "transformer"
_STEMS = ("diffusion_pytorch_model", "model")
_SHARD = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.(?:safetensors|sft)$")
_MAX_JSON_BYTES = 64_000_000


@dataclass(frozen=True)
class WeightFiles:
    """The files of one model.

    Args:
        root: what was asked for.
        files: the safetensors files, in order.
        config: content of ``config.json`` beside them, empty if there is none.
        index: tensor name -> file name, where an index says so.
        pipeline: class name in a diffusers ``model_index.json``, or empty.
    """

    root: Path
    files: tuple[Path, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    index: Mapping[str, str] = field(default_factory=dict)
    pipeline: str = ""

    @property
    def is_folder(self) -> bool:
        return self.root.is_dir()

    @property
    def name(self) -> str:
        """What to call the model: its file's stem, or its folder (not ``transformer``)."""
        if self.is_folder:
            return self.root.parent.name if self.root.name == SUBFOLDER else self.root.name
        shard = _SHARD.match(self.root.name)
        return shard["stem"] if shard else self.root.stem

    def headers(self) -> dict[str, StoredTensor]:
        """Stored key -> tensor over all files, checked against the index.

        Raises:
            CheckpointError: a file is damaged, two files hold the same tensor, or one lacks what the index says it has.
        """
        tensors: dict[str, StoredTensor] = {}
        for file in self.files:
            for key, tensor in read_header(file).tensors.items():
                if key in tensors:
                    raise CheckpointError(f"{key!r} is both in {tensors[key].file.name} and in {file.name}.")
                tensors[key] = tensor
        wrong = [key for key, name in self.index.items() if key not in tensors or tensors[key].file.name != name]
        if wrong:
            raise CheckpointError(
                f"{self.root.name}: the index places {wrong[0]!r} in {self.index[wrong[0]]}, which does not hold it "
                f"({len(wrong)} such entries). The files belong to different versions, or the download is incomplete."
            )
        return tensors


def is_weight_file(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def shard_stem(name: str) -> str | None:
    """``model`` of ``model-00001-of-00012.safetensors``; None for the name of a whole file."""
    match = _SHARD.match(name)
    return match["stem"] if match else None


def is_repository_file(name: str) -> bool:
    """Whether a file is named like the weights of a repository folder."""
    stem = shard_stem(name) or PurePath(name).stem
    return is_weight_file(name) and stem.split(".")[0] in _STEMS


def is_repository(folder: Path) -> bool:
    """Whether a folder looks like a model repository, by two directory listings at most and without opening a file."""
    names = _names(folder)
    if any(map(is_repository_file, names)):
        return folder.name == SUBFOLDER or "config.json" in names or any(n.endswith(INDEX_SUFFIX) for n in names)
    return SUBFOLDER in names and any(map(is_repository_file, _names(folder / SUBFOLDER)))


def _names(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except OSError:
        return set()


def find_weight_files(path: Path | str) -> WeightFiles:
    """The files that make up the model at ``path``.

    Raises:
        CheckpointError: nothing there, no safetensors weights, or shards are missing (they are named).
    """
    path = Path(path)
    if path.is_file() and path.name.endswith(INDEX_SUFFIX):
        files, index = _files_of_index(path, _names(path.parent))
        return WeightFiles(path, files, index=index)
    if path.is_file():
        files = (path,)
        if shard_stem(path.name):
            files = _complete_shards(path.parent, path.name, _names(path.parent))
        return WeightFiles(path, files)
    if not path.is_dir():
        raise CheckpointError(f"{path} does not exist.")
    folder, names = path, _names(path)
    if SUBFOLDER in names and (path / SUBFOLDER).is_dir():
        folder, names = path / SUBFOLDER, _names(path / SUBFOLDER)
    files, index = _files_in(folder, names)
    config = _read_json(folder / "config.json") if "config.json" in names else {}
    pipelines = [place / "model_index.json" for place in (folder, folder.parent)]
    pipeline = next((_read_json(p).get("_class_name", "") for p in pipelines if p.is_file()), "")
    return WeightFiles(path, files, config, index, pipeline)


def _files_in(folder: Path, names: Iterable[str]) -> tuple[tuple[Path, ...], dict[str, str]]:
    names = set(names)
    indices = [name for name in names if name.endswith(INDEX_SUFFIX)]
    weights = [name for name in names if is_weight_file(name)]
    chosen = min(indices + weights, key=_preference, default=None)
    if chosen is None:
        others = sorted(n for n in names if n.endswith((".bin", ".pt", ".pth", ".ckpt", ".gguf")))
        found = f" It holds {others[0]}; only safetensors are read." if others else ""
        raise CheckpointError(f"{folder} holds no safetensors weights.{found}")
    if chosen in indices:
        return _files_of_index(folder / chosen, names)
    if shard_stem(chosen):
        return _complete_shards(folder, chosen, names), {}
    return (folder / chosen,), {}


def _preference(name: str) -> tuple[bool, bool, bool, str]:
    """Known names first, then indices, then default precision (``model.fp16.safetensors`` is a variant)."""
    stem = name.removesuffix(INDEX_SUFFIX) if name.endswith(INDEX_SUFFIX) else shard_stem(name) or PurePath(name).stem
    return stem.split(".")[0] not in _STEMS, "." in stem, not name.endswith(INDEX_SUFFIX), name


def _complete_shards(folder: Path, name: str, names: Iterable[str]) -> tuple[Path, ...]:
    shard = _SHARD.match(name)
    if shard is None:
        raise CheckpointError(f"{name} is not named like a shard.")
    ending = PurePath(name).suffix
    wanted = [f"{shard['stem']}-{i:05d}-of-{shard['count']}{ending}" for i in range(1, int(shard["count"]) + 1)]
    _refuse_missing(folder, [n for n in wanted if n not in set(names)], len(wanted))
    return tuple(folder / n for n in wanted)


def _files_of_index(path: Path, names: set[str]) -> tuple[tuple[Path, ...], dict[str, str]]:
    weight_map = _read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError(f"{path.name} has no usable weight_map.")
    files = sorted(set(weight_map.values()))
    strange = [name for name in files if PurePath(name).name != name or "\\" in name or not is_weight_file(name)]
    if strange:
        raise CheckpointError(f"{path.name} names {strange[0]!r}, which is not a safetensors file beside it.")
    _refuse_missing(path.parent, [name for name in files if name not in names], len(files))
    return tuple(path.parent / name for name in files), weight_map


def _refuse_missing(folder: Path, missing: list[str], count: int) -> None:
    if missing:
        listed = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
        raise CheckpointError(f"{folder.name}: {len(missing)} of {count} files are missing: {listed}.")


def _read_json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise CheckpointError(f"{path.name} has {path.stat().st_size} bytes: it is not a model's description.")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON ({error}).") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object.")
    return content
