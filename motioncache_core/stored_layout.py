"""What the readers of transformer checkpoints share: how files spell things, what must be there, what is refused."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .safetensors_file import CheckpointError, StoredTensor
from .sizes import Shape
from .weight_files import WeightFiles

FP8 = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
PLAIN = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
READABLE = ", ".join([*PLAIN.values(), *FP8.values()])

PREFIXES = ("", "model.diffusion_model.", "diffusion_model.", "model.", "module.", "transformer.")
"""What may stand before the official names."""
COMPANIONS = ("text_encoders.", "vae.", "first_stage_model.", "cond_stage_model.", "conditioner.")
"""How the other models in a full checkpoint begin."""

Fail = Callable[[str], CheckpointError]
"""What is wrong with the files, as the rest of a sentence -> the error."""


@dataclass(frozen=True)
class StoredLayout:
    """Where the tensors of one checkpoint lie; nothing is loaded.

    Args:
        path: what was asked for.
        name: what to call the model.
        kind: the layout in words.
        tensors: official key -> stored tensor.
        notices: sentences for the user.
    """

    path: Path
    name: str
    kind: str
    tensors: Mapping[str, StoredTensor]
    notices: tuple[str, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys(tensor.file for tensor in self.tensors.values()))

    @property
    def main_dtype(self) -> str:
        """The dtype that most of the numbers have, e.g. ``bfloat16``."""
        numbers: Counter[str] = Counter()
        for tensor in self.tensors.values():
            numbers[tensor.dtype] += math.prod(tensor.shape)
        return {**PLAIN, **FP8}[numbers.most_common(1)[0][0]]


def refusal(found: WeightFiles, wanted: str, sentence: str) -> CheckpointError:
    """The error for files that are not the model. ``wanted``: a noun phrase for what is expected."""
    return CheckpointError(f"{found.root.name} {sentence} Expected {wanted}.")


def some(keys: Sequence[str]) -> str:
    """The first of many keys."""
    return ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")


def refuse_extra(fail: Fail, extra: Sequence[str]) -> None:
    """Raise CheckpointError for keys that have no place in the model."""
    if extra:
        raise fail(f"holds {some(extra)}, which do not belong to the model ({len(extra)} extra keys).")


def refuse_sizeless(fail: Fail, missing: Sequence[str]) -> None:
    """Raise CheckpointError for missing keys that sizes are read from."""
    if missing:
        raise fail(f"lacks {some(missing)}, which tells its size: it is incomplete.")


def check_shapes(
    fail: Fail,
    names: Mapping[str, StoredTensor],
    expected: Mapping[str, Shape],
    spelled: Callable[[str], str] = lambda key: key,
) -> None:
    """Raise CheckpointError if a key is missing or has another shape.

    Args:
        names: official key -> stored tensor.
        spelled: official key -> how this file would spell it.
    """
    missing = [spelled(key) for key in expected if key not in names]
    if missing:
        raise fail(f"lacks {some(missing)} ({len(missing)} of {len(expected)} keys): it is incomplete.")
    wrong = [key for key, shape in expected.items() if names[key].shape != shape]
    if wrong:
        first = names[wrong[0]]
        raise fail(
            f"has {len(wrong)} tensors of the wrong shape, first {first.key}: {list(first.shape)} instead of "
            f"{list(expected[wrong[0]])}."
        )


def with_place(layout: str, found: WeightFiles) -> str:
    """A layout in words, with the kind of place where it was found."""
    place = "folder" if found.is_folder else "file"
    return f"{layout}, {place}" if len(found.files) == 1 else f"{layout}, {place} of {len(found.files)} shards"


def companions_notice(name: str, companions: int) -> list[str]:
    """A notice about the tensors of other models in a full checkpoint, if there are some."""
    if not companions:
        return []
    return [f"{name} is a full checkpoint; its {companions} other tensors (text, VAE) are not used."]
