"""MAGI-1's text: at most 800 tokens of T5, behind special tokens that may differ from chunk to chunk.

A special token is a learned vector that stands where an encoded token could stand. The release has them for high
quality, still or moving first frames, borders, 3-D and 2-D looks, and for how many chunks are still to come. Facts from
the public code of SandAI-org/MAGI-1.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from ...safetensors_file import CheckpointError, read_header

TEXT_WIDTH = 4096
"""Width of a token of t5-v1_1-xxl."""

MAX_TOKENS = 800
PAD_TOKEN, END_TOKEN = 0, 1
"""T5's ids for what fills a text up and for its end."""

DURATION = "DURATION"
PREPENDED = ("STATIC", "DYNAMIC", "BORDERNESS", "HQ", "3D", "2D", DURATION)
"""Special tokens that a prompt may carry, in the order in which they are put in front; so the last one stands first."""

DURATIONS = 8
"""There is one duration token for 0, 1, ... chunks to come; more than 7 count as 7."""

TOKENS_KEY, VECTORS_KEY = "magi1_special", "magi1_special_vectors"
"""Entries of a conditioning's options: names of the tokens that are on, and their vectors (see :func:`options_of`)."""

FILE_NAMES = ("special_tokens.npz", "special_tokens.safetensors")
WHERE_TO_GET = (
    "special_tokens.npz (3.3 MB) lies in the folder example/assets of the repository SandAI-org/MAGI-1 on GitHub"
)

_ROWS = {"TRANS": 0, "HQ": 1, "STATIC": 2, "DYNAMIC": 3, "BORDERNESS": 4, "3D": 15, "2D": 16}
_FIRST_DURATION = 7
_ROWS_NEEDED = 17


class SpecialTokensError(ValueError):
    """A file of special tokens cannot be used; the message says why."""


@dataclass(frozen=True)
class SpecialTokens:
    """The vectors, float16 as the original rounds them.

    Args:
        vectors: name -> ``[n, D]``: n = 1, or 8 for DURATION (row k: k chunks still to come).
    """

    vectors: Mapping[str, Tensor]

    @property
    def width(self) -> int:
        return self.vectors[DURATION].shape[1]


def special_tokens_from(arrays: Mapping[str, Tensor]) -> SpecialTokens:
    """Vectors from the arrays of the official file: ``caption_token``, ``logo_token`` ``[1, D]``, ``other_tokens``.

    Of ``other_tokens`` only the first 17 rows are used; a file with those alone may call them ``other_tokens_0_16``.

    Raises:
        SpecialTokensError: an array is missing or of another shape.
    """
    others = arrays.get("other_tokens", arrays.get("other_tokens_0_16"))
    if others is None:
        raise SpecialTokensError(f"there is no array other_tokens, only {', '.join(sorted(arrays)) or 'nothing'}")
    if others.ndim != 2 or others.shape[0] < _ROWS_NEEDED or not others.is_floating_point():
        raise SpecialTokensError(
            f"other_tokens is {others.dtype} of shape {list(others.shape)}; expected at least {_ROWS_NEEDED} vectors"
        )
    vectors = {name: others[row : row + 1] for name, row in _ROWS.items()}
    vectors[DURATION] = others[_FIRST_DURATION : _FIRST_DURATION + DURATIONS]
    for name in ("caption", "logo"):
        array = arrays.get(f"{name}_token")
        if array is not None:
            if tuple(array.shape) != (1, others.shape[1]):
                raise SpecialTokensError(f"{name}_token has shape {list(array.shape)}; expected [1, {others.shape[1]}]")
            vectors[name.upper()] = array
    return SpecialTokens({name: vector.to(torch.float16).clone() for name, vector in vectors.items()})


def read_special_tokens(path: Path) -> SpecialTokens:
    """Read the official ``special_tokens.npz``, or a safetensors file with the same arrays.

    Raises:
        SpecialTokensError: the file is damaged or holds something else.
        OSError: it cannot be opened.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as stored:
                return special_tokens_from({name: torch.from_numpy(stored[name]) for name in stored.files})
        read_header(path)
        with safe_open(path, framework="pt", device="cpu") as file:
            return special_tokens_from({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SpecialTokensError, CheckpointError) as error:
        raise SpecialTokensError(f"{path.name} is no file of MAGI-1's special tokens: {error}") from None
    except (ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise SpecialTokensError(f"{path.name} is damaged or no npz file ({error}). Download it again.") from None


def options_of(names: Sequence[str], tokens: SpecialTokens) -> dict[str, Any]:
    """What a conditioning carries: the names (plain list, in order) and one tensor with their vectors, float32.

    The tensor holds one row for each name, eight for DURATION.

    Raises:
        ValueError: a name that cannot stand before a prompt.
    """
    strange = [name for name in names if name not in PREPENDED]
    if strange:
        raise ValueError(f"special token {strange[0]!r} is unknown; legal are {', '.join(PREPENDED)}")
    ordered = [name for name in PREPENDED if name in names]
    if not ordered:
        return {}
    return {TOKENS_KEY: ordered, VECTORS_KEY: torch.cat([tokens.vectors[name] for name in ordered]).float()}


def fitted_ids(ids: Sequence[Any], longest: int = MAX_TOKENS) -> tuple[list[Any], int]:
    """A tokenised prompt as the model may have it: no filling, cut at the end, one end token.

    Args:
        ids: T5's ids, perhaps with end tokens and filling.
        longest: end token included.

    Returns:
        The ids, and how many of the prompt were left out.
    """
    words = [i for i in ids if not (isinstance(i, int) and i in (PAD_TOKEN, END_TOKEN))]
    return [*words[: longest - 1], END_TOKEN], max(len(words) - (longest - 1), 0)


def prepend(text: Tensor, count: int, vector: Tensor, longest: int = MAX_TOKENS) -> tuple[Tensor, int]:
    """A vector put in front of a text: ``[L, D]`` of which ``count`` tokens count -> the same, cut at the end."""
    longer = torch.cat((vector.to(text.device, text.dtype), text))[:longest]
    return longer, min(count + 1, longest)


def chunk_text(
    cond: Tensor,
    options: Mapping[str, Any],
    chunks_to_come: int,
    valid: int | None = None,
    longest: int = MAX_TOKENS,
) -> tuple[Tensor, int]:
    """A chunk's text: the encoded prompt with its special tokens in front.

    Args:
        cond: ``[1, L, D]`` or ``[L, D]`` encoded prompt.
        options: of the conditioning; without special tokens the text stays as it is.
        chunks_to_come: how many chunks follow this one.
        valid: how many of the L tokens count (a padded text); ``None``: all.

    Returns:
        ``[n, D]`` tokens, n <= ``longest``, and how many of them count.
    """
    text = cond.reshape(-1, cond.shape[-1])[:longest]
    count = min(text.shape[0] if valid is None else valid, longest)
    at = 0
    for name in options.get(TOKENS_KEY) or ():
        rows = DURATIONS if name == DURATION else 1
        row = at + (min(chunks_to_come, DURATIONS - 1) if name == DURATION else 0)
        text, count = prepend(text, count, options[VECTORS_KEY][row : row + 1], longest)
        at += rows
    return text, count


def without_token(options: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Options of a conditioning with one special token less."""
    names = tuple(options.get(TOKENS_KEY) or ())
    if name not in names:
        return dict(options)
    counts = [DURATIONS if n == DURATION else 1 for n in names]
    rows = options[VECTORS_KEY].split(counts)
    left = [(n, own) for n, own in zip(names, rows, strict=True) if n != name]
    if not left:
        return {key: value for key, value in options.items() if key not in (TOKENS_KEY, VECTORS_KEY)}
    return {**options, TOKENS_KEY: [n for n, _ in left], VECTORS_KEY: torch.cat([own for _, own in left])}
