"""Which text each chunk of a MAGI-1 run gets: one prompt for all, or others from certain chunks on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ...motioncache_core.models.magi1.adapter import Texts
from ...motioncache_core.models.magi1.text import DURATIONS, chunk_text
from .latents import InputError
from .roles import UnsupportedError, refuse_entry

Conditioning = Sequence[Sequence[Any]]


@dataclass(frozen=True)
class ChunkPrompt:
    """A prompt that holds from a chunk on, until the next one begins.

    Args:
        first_chunk: counted from 1; given frames of a start video are not counted.
        positive: CONDITIONING.
    """

    first_chunk: int
    positive: Conditioning


Schedule = tuple[ChunkPrompt, ...]
"""In the order of their chunks, no two for the same."""


def with_prompt(schedule: Schedule | None, prompt: ChunkPrompt) -> Schedule:
    """A schedule with one prompt more.

    Raises:
        InputError: a prompt begins at this chunk already, or the chunk is below 1.
    """
    if prompt.first_chunk < 1:
        raise InputError(f"first_chunk is {prompt.first_chunk}; chunks count from 1 (nearest: 1)")
    taken = {p.first_chunk for p in schedule or ()}
    if prompt.first_chunk in taken:
        free = min((c for c in range(1, max(taken) + 2) if c not in taken), key=lambda c: abs(c - prompt.first_chunk))
        raise InputError(
            f"first_chunk is {prompt.first_chunk}, and a prompt of the chain begins there already (nearest: {free})"
        )
    return tuple(sorted((*(schedule or ()), prompt), key=lambda p: p.first_chunk))


def prompt_of(positive: Conditioning, text_dim: int, name: str = "positive") -> tuple[Tensor, dict[str, Any]]:
    """(encoded text ``[B, L, text_dim]``, options) of a CONDITIONING.

    Args:
        name: what to call it.

    Raises:
        UnsupportedError: several prompts, or one for a part of the steps or of the picture only.
        InputError: it was made by another text encoder.
    """
    if len(positive) != 1:
        raise UnsupportedError(
            f"{name} holds {len(positive)} prompts; MAGI-1 takes one. Write one text instead of combining conditions"
        )
    text, options = positive[0]
    if options.get("start_percent", 0.0) > 0.0 or options.get("end_percent", 1.0) < 1.0:
        raise UnsupportedError(
            f"{name} holds for a part of the steps only; chunks are at different steps at once. Remove the timestep "
            "range"
        )
    refuse_entry(name, options)
    if options.get("mask") is not None:
        raise UnsupportedError(
            f"{name} has a mask (Conditioning Set Mask); a prompt of MAGI-1 holds for the whole picture. Remove the "
            "mask"
        )
    if text.ndim != 3 or text.shape[-1] != text_dim:
        raise InputError(
            f"{name} has shape {tuple(text.shape)}; MAGI-1 takes text of width {text_dim}: encode it with "
            "t5-v1_1-xxl (CLIPLoader with t5xxl, then MAGI-1 text encode)"
        )
    return text, options


@dataclass(frozen=True)
class Script:
    """The prompts of a run.

    Args:
        prompts: (first chunk, counted from 0 without given ones; encoded text; options), rising; the first begins
            at 0.
        options: of the conditioning that all chunks share, without its strength: alone, a prompt has none.
    """

    prompts: tuple[tuple[int, Tensor, Mapping[str, Any]], ...]
    options: Mapping[str, Any]

    @classmethod
    def of(cls, positive: Conditioning, schedule: Schedule | None, text_dim: int) -> Script:
        """The prompts, checked before anything is loaded.

        Args:
            positive: holds until the first prompt of the schedule begins.

        Raises:
            UnsupportedError, InputError: a prompt cannot be used.
        """
        text, shared = prompt_of(positive, text_dim)
        prompts: list[tuple[int, Tensor, Mapping[str, Any]]] = [(0, text, shared)]
        for entry in schedule or ():
            name = _name(entry.first_chunk)
            text, options = prompt_of(entry.positive, text_dim, name)
            if options.get("hooks") is not None:
                raise UnsupportedError(
                    f"{name} has hooks (LoRA or the like on a prompt); only positive, which all chunks share, can "
                    "have that"
                )
            prompts.append((entry.first_chunk - 1, text, options))
        if len(prompts) > 1 and prompts[1][0] == 0:
            del prompts[0]
        return cls(tuple(prompts), {key: value for key, value in shared.items() if key != "strength"})

    @property
    def notice(self) -> str | None:
        """A sentence if a prompt has a strength, which has no effect."""
        if all(options.get("strength", 1.0) == 1.0 for _, _, options in self.prompts):
            return None
        return (
            "A prompt's strength (Conditioning Set Area Strength) has no effect: MAGI-1 takes one prompt at a time, "
            "at full strength."
        )

    def check_length(self, new_chunks: int) -> None:
        """Raise InputError if a prompt begins behind the end of a video of so many chunks, given ones not counted."""
        last = self.prompts[-1][0] + 1
        if last > new_chunks:
            raise InputError(
                f"{_name(last)} begins behind the end of the video, which has {new_chunks} chunks of 24 frames "
                f"(nearest: {new_chunks}); make more frames or begin earlier"
            )

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt, special ones not counted."""
        return max(text.shape[1] for _, text, _ in self.prompts)

    def texts(
        self, chunks: int, given_chunks: int, longest: int, samples: int, only: range | None = None
    ) -> list[Texts]:
        """For every sample, the text of each chunk by its place: valid tokens only, special tokens in front.

        Args:
            chunks: of the video, given ones included.
            given_chunks: leading chunks that are given whole; they get the first prompt.
            longest: tokens that the network takes.
            only: places of the chunks that are wanted, ``None``: all.
        """
        ends = [begin + given_chunks for begin, _, _ in self.prompts[1:]] + [chunks]
        begins = [0, *ends[:-1]]
        made: list[dict[int, Tensor]] = [{} for _ in range(samples)]
        for begin, end, (_, text, options) in zip(begins, ends, self.prompts, strict=True):
            for sample, texts in enumerate(chunk_texts(text, options, chunks, longest, samples, only)):
                made[sample] |= {chunk: tokens for chunk, tokens in texts.items() if begin <= chunk < end}
        return [_shared(texts) for texts in made]


def _name(first_chunk: int) -> str:
    return f"the prompt for chunk {first_chunk}"


def chunk_texts(
    text: Tensor, options: Mapping[str, Any], chunks: int, longest: int, samples: int, only: range | None = None
) -> list[Texts]:
    """For every sample, the text of each chunk: valid tokens only, special tokens in front.

    Args:
        text: ``[B, L, D]`` encoded prompts, taken in turn by the samples.
        options: of the conditioning.
        chunks: of the video.
        longest: tokens that the network takes.
    """
    mask = options.get("attention_mask")
    made = []
    for sample in range(samples):
        row = sample % text.shape[0]
        valid = None if mask is None else int(mask.reshape(-1, mask.shape[-1])[row % len(mask)].sum())
        if valid == 0:
            made.append({})
            continue
        texts: dict[int, Tensor] = {}
        known: dict[int, Tensor] = {}
        for chunk in range(chunks) if only is None else only:
            to_come = min(chunks - 1 - chunk, DURATIONS - 1)  # no prompt tells more
            if to_come not in known:
                tokens, count = chunk_text(text[row], options, to_come, valid, longest)
                known[to_come] = tokens[:count]
            texts[chunk] = known[to_come]
        made.append(_shared(texts))
    return made


def _shared(texts: Texts) -> Texts:
    """Equal texts of neighbouring chunks as one tensor: items that share it share its keys and values."""
    shared = dict(texts)
    for before, chunk in pairwise(sorted(shared)):
        if torch.equal(shared[before], shared[chunk]):
            shared[chunk] = shared[before]
    return shared
