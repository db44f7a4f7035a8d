"""Reading MAGI-1 transformers: a folder of shards, an index file or one merged file, judged by their headers.

``read_layout`` refuses what is not the model and says which variant it is; ``read_tensors`` then reads. Base and
distilled weights have the same keys: the official configuration or the official names tell them apart. Sources:
SandAI-org/MAGI-1 (file names, configuration files, key names), its hub repository.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ...recognise import describe
from ...safetensors_file import CheckpointError, StoredTensor
from ...sizes import ArchitectureError
from ...stored_layout import (
    COMPANIONS,
    FP8,
    PLAIN,
    PREFIXES,
    READABLE,
    StoredLayout,
    check_shapes,
    companions_notice,
    refusal,
    refuse_extra,
    refuse_sizeless,
    with_place,
)
from ...weight_files import INDEX_SUFFIX, WeightFiles, find_weight_files, is_weight_file
from .architecture import (
    NULL_CAPTION,
    PREFIX,
    SIZE_KEYS,
    ArchitectureConfig,
    Entry,
    expected_entries,
    matching_variants,
)

__all__ = ["CheckpointError", "Layout", "read_layout", "read_tensors"]

WANTED = "a MAGI-1 transformer (safetensors; 4.5B or 24B, base or distilled, official names)"

WEIGHT_FOLDERS = "inference_weight"
"""How the official folders with weights begin; they lie in a folder with the variant's name."""

STACKED_KEY = f"{PREFIX}self_attention.linear_qkv.weight"
"""A key of MAGI-1.1 24B, whose layers are stacked in one tensor each."""

_DISTILLED = re.compile(r"(?i)(?<![a-z])distill(ed|ation)?(?![a-z])")
_BASE = re.compile(r"(?i)(?<![a-z])base(?![a-z])")
_MAX_CONFIG_BYTES = 1_000_000


@dataclass(frozen=True)
class Layout(StoredLayout):
    """Where the tensors of one checkpoint lie.

    Args:
        config: sizes.
        distilled: whether it is a distilled model, ``None``: nothing tells.
        official: content of an official configuration file beside the weights, empty if there is none.
    """

    config: ArchitectureConfig
    distilled: bool | None
    official: Mapping[str, Any]

    @property
    def precision(self) -> str:
        """The dtype that most of the numbers have, e.g. ``bfloat16`` or ``float8_e4m3fn, scaled``."""
        return self.main_dtype + (", scaled" if self.config.fp8 else "")

    def summary(self) -> str:
        variants = [v.name for v in matching_variants(self.config) if self.distilled in (None, v.distilled)]
        what = " / ".join(variants) if variants else f"width {self.config.dim}, {self.config.num_layers} blocks"
        return f"{self.name}: MAGI-1 {what}; {self.kind}, {self.precision}, {len(self.tensors)} tensors"


def read_layout(path: Path | str) -> Layout:
    """Judge a file or folder by its headers.

    Args:
        path: one safetensors file (merged, or any shard), an index (``*.safetensors.index.json``), a folder with
            either, or the folder of a variant with one ``inference_weight*`` folder in it.

    Raises:
        CheckpointError: truncated, damaged or missing files, another model, missing or extra keys, wrong shapes; the
            message says what the file is and what was expected.
    """
    found = find_weight_files(_weights_folder(Path(path)))
    stored = found.headers()
    shapes = {key: tensor.shape for key, tensor in stored.items()}
    prefix = _prefix(found, shapes)
    names, extra = _official_names(stored, prefix)
    config, expected = _checked_config(found, names)
    extra += [key for key in names if key not in expected]
    refuse_extra(partial(_fail, found), extra)
    _check_dtypes(found, names, expected)
    configs = _official_configs(found)
    told = _kinds_told(configs)
    claims = _claims(found, told, config)
    official = next(iter(configs.values()), {}) if len(told) < 2 else {}
    companions = len(stored) - len(names)
    return Layout(
        path=Path(path),
        name=_name(found),
        kind=_kind(found, prefix),
        config=config,
        distilled=next(iter(claims.values()), None),
        tensors={key: names[key] for key in expected},
        official=official,
        notices=_notices(found, config, told, official, claims, companions),
    )


def read_tensors(layout: Layout, *, copy: bool = False) -> dict[str, torch.Tensor]:
    """Official key -> tensor as stored, one file read after the other.

    Args:
        copy: take them into memory; else they are views of the memory-mapped files.
    """
    wanted: dict[Path, list[str]] = defaultdict(list)
    for key, tensor in layout.tensors.items():
        wanted[tensor.file].append(key)
    tensors = {}
    for file, keys in wanted.items():
        with safe_open(file, framework="pt", device="cpu") as handle:
            for key in keys:
                tensor = handle.get_tensor(layout.tensors[key].key)
                tensors[key] = tensor.clone() if copy else tensor
    return {key: tensors[key] for key in layout.tensors}


def _fail(found: WeightFiles, sentence: str) -> CheckpointError:
    return refusal(found, WANTED, sentence)


def _weights_folder(path: Path) -> Path:
    """The folder with the weights, where the one above it was named."""
    if not path.is_dir():
        return path
    names = sorted(entry.name for entry in path.iterdir())
    if any(is_weight_file(name) or name.endswith(INDEX_SUFFIX) for name in names):
        return path
    packed = [name for name in names if name.endswith(".safetensors.zst")]
    if packed:
        raise CheckpointError(f"{path.name} holds compressed weights ({packed[0]}); unpack them with `zstd -d` first.")
    inside = [name for name in names if name.startswith(WEIGHT_FOLDERS) and (path / name).is_dir()]
    if len(inside) > 1:
        raise CheckpointError(f"{path.name} holds several models ({', '.join(inside)}); choose one of these folders.")
    return path / inside[0] if inside else path


def _name(found: WeightFiles) -> str:
    """The variant's folder says more than ``inference_weight`` or ``model``."""
    folder = found.files[0].parent
    if not _own_folder(found):
        return found.name
    return f"{folder.parent.name}/{folder.name}" if folder.name.startswith(WEIGHT_FOLDERS) else folder.name


def _own_folder(found: WeightFiles) -> bool:
    """Whether the files have a folder to themselves; others lie among other models."""
    return found.is_folder or found.name.split(".")[0] == "model"


def _prefix(found: WeightFiles, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What stands in front of the official names.

    Raises:
        CheckpointError: it is another kind of model.
    """
    for prefix in PREFIXES:
        if prefix + STACKED_KEY in shapes:
            raise _fail(
                found,
                f"holds its layers stacked in one tensor each ({prefix}{STACKED_KEY}), as MAGI-1.1 24B does, which no "
                "public code reads.",
            )
        if any(key.startswith(prefix + PREFIX) for key in shapes) or prefix + SIZE_KEYS[0] in shapes:
            return prefix
    raise _fail(found, f"is {describe(shapes)}.")


def _official_names(stored: Mapping[str, StoredTensor], prefix: str) -> tuple[dict[str, StoredTensor], list[str]]:
    """Official key -> tensor, and the keys of neither the model nor its companions in a full checkpoint."""
    names, extra = {}, []
    for key, tensor in stored.items():
        if not key.startswith(prefix) or (not prefix and key.startswith(COMPANIONS)):
            if not key.startswith(COMPANIONS):
                extra.append(key)
            continue
        inner = key.removeprefix(prefix)
        names[NULL_CAPTION if inner == f"{NULL_CAPTION}.weight" else inner] = tensor  # the latter as ComfyUI saves it
    return names, extra


def _checked_config(
    found: WeightFiles, names: Mapping[str, StoredTensor]
) -> tuple[ArchitectureConfig, dict[str, Entry]]:
    fail = partial(_fail, found)
    refuse_sizeless(fail, [key for key in SIZE_KEYS if key not in names])
    try:
        config = ArchitectureConfig.from_shapes({key: tensor.shape for key, tensor in names.items()})
    except ArchitectureError as error:
        raise fail(f"looks like MAGI-1 but cannot be used: {error}.") from None
    expected = expected_entries(config)
    check_shapes(fail, names, {key: entry.shape for key, entry in expected.items()})
    return config, expected


def _check_dtypes(found: WeightFiles, names: Mapping[str, StoredTensor], expected: Mapping[str, Entry]) -> None:
    for key, entry in expected.items():
        tensor = names[key]
        if entry.dtype == FP8["F8_E4M3"]:
            if tensor.dtype != "F8_E4M3":
                raise _fail(found, f"stores {tensor.key} as {tensor.dtype}, although it has scales for F8_E4M3.")
        elif tensor.dtype not in PLAIN and (tensor.dtype not in FP8 or "scale" in key):
            raise _fail(found, f"stores {tensor.key} as {tensor.dtype}; readable are {READABLE}.")


def _kind(found: WeightFiles, prefix: str) -> str:
    layout = f"official names with prefix {prefix}" if prefix else "official names"
    return with_place(layout, found)


def _official_configs(found: WeightFiles) -> dict[str, Mapping[str, Any]]:
    """The official configurations beside the weights, or above their ``inference_weight`` folder, by file name.

    A file that is not one is no error: folders hold other JSON files too. Of weights that lie among others nothing is
    read, since it could be another model's.
    """
    folder = found.files[0].parent
    others = [file for file in folder.iterdir() if is_weight_file(file.name) and file not in found.files]
    if not _own_folder(found) and others:
        return {}
    configs: dict[str, Mapping[str, Any]] = {}
    folders = [folder, *([folder.parent] if folder.name.startswith(WEIGHT_FOLDERS) else [])]
    for file in (file for place in folders for file in sorted(place.glob("*.json"))):
        if file.name.endswith(INDEX_SUFFIX) or file.stat().st_size > _MAX_CONFIG_BYTES:
            continue
        try:
            content = json.loads(file.read_bytes())
        except (ValueError, RecursionError):
            continue
        parts = ("model_config", "runtime_config", "engine_config")
        if isinstance(content, dict) and all(isinstance(content.get(part), dict) for part in parts):
            configs.setdefault(file.name, content)
    return configs


def _kinds_told(configs: Mapping[str, Mapping[str, Any]]) -> dict[bool, list[str]]:
    """Distilled or not -> the configuration files that say so."""
    told: dict[bool, list[str]] = {}
    for name, content in configs.items():
        if "distill" in content["engine_config"]:
            told.setdefault(bool(content["engine_config"]["distill"]), []).append(name)
    return told


def _claims(found: WeightFiles, told: Mapping[bool, list[str]], config: ArchitectureConfig) -> dict[str, bool]:
    """Who says whether it is distilled, the surest first. Configuration files that contradict one another do not.

    Args:
        told: see :func:`_kinds_told`.
    """
    claims = {}
    if config.fp8:
        claims["its float8 scales (only distilled models are published so)"] = True
    if len(told) == 1:
        ((kind, files),) = told.items()
        claims[f"its configuration file {files[0]}"] = kind
    words = f"{found.root.name} {_name(found)}"
    if _DISTILLED.search(words):
        claims["its name"] = True
    elif _BASE.search(words):
        claims["its name"] = False
    return claims


def _notices(
    found: WeightFiles,
    config: ArchitectureConfig,
    told: Mapping[bool, list[str]],
    official: Mapping[str, Any],
    claims: Mapping[str, bool],
    companions: int,
) -> tuple[str, ...]:
    notices, name = [], _name(found)
    kinds = {True: "distilled", False: "base"}
    if len(told) > 1:
        each = ", ".join(f"{files[0]} says {kinds[kind]}" for kind, files in told.items())
        notices.append(f"{name}: {each}; neither is used. Keep the one of this model.")
    if not claims:
        notices.append(
            f"{name} does not tell whether it is a base or a distilled model (both have the same keys); put 'base' or "
            "'distill' into its name or choose in the sampler."
        )
    elif len(set(claims.values())) > 1:
        each = ", ".join(f"{who} says {kinds[what]}" for who, what in claims.items())
        notices.append(f"{name}: {each}; it is taken as {kinds[next(iter(claims.values()))]}. Mend the one that errs.")
    if official:
        notices += _contradictions(name, config, official)
    return (*notices, *companions_notice(name, companions))


def _contradictions(name: str, config: ArchitectureConfig, official: Mapping[str, Any]) -> list[str]:
    """Where the configuration file and the weights differ; the weights decide."""
    try:
        claimed = ArchitectureConfig.from_official(
            official["model_config"], bool(official["engine_config"].get("fp8_quant", config.fp8))
        )
    except (ArchitectureError, TypeError) as error:
        return [f"{name}: its configuration file is not used: {error}."]
    return [
        f"{name}: {field} is {getattr(claimed, field)} in its configuration file and {value} in the weights, which "
        "decide. Put the configuration file of this variant beside the weights."
        for field, value in vars(config).items()
        if field != "eps" and getattr(claimed, field) != value
    ]
