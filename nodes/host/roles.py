"""Roles: which branch of the guidance a row of the batch belongs to, from the guider's own lists of conditions.

A condition's uuid differs from run to run, is shared by copies and reused by guidance that calls the model again;
a role is (list name, slot, sample) instead, built once at the start of a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import comfy.samplers

from ...motioncache_core.plan import Plan

Conds = dict[str, list[dict[str, Any]]]


class UnsupportedError(ValueError):
    """Something is connected that chunk-wise sampling cannot honour; the message says what and what to do."""


_UNSUPPORTED_ENTRIES = {
    "area": "an area of the picture (Conditioning Set Area)",
    "control": "a ControlNet",
    "gligen": "GLIGEN boxes",
}


@dataclass(frozen=True)
class Slot:
    """Where a condition stands.

    Args:
        name: of the guider's list.
        slot: 0 where only one entry of the list is active at a time, else its place; the role's part of the key.
        place: in the list; tells prompts of one role apart, and is the same in every run.
    """

    name: str
    slot: int
    place: int


def role_slots(conds: Conds) -> dict[Any, Slot]:
    """For every condition's uuid where it stands. Entries whose time ranges do not overlap share slot 0."""
    slots = {}
    for name, entries in conds.items():
        separate = _overlap(entries or [])
        for place, entry in enumerate(entries or []):
            slots[entry["uuid"]] = Slot(name, place if separate else 0, place)
    return slots


def lists_in_use(guider: Any, model_options: dict[str, Any]) -> set[str]:
    """Names of the guider's lists that it will pass to the network; guidance 1 leaves the negative one out."""
    names = set(guider.original_conds)
    # guiders with a rule of their own keep their strengths elsewhere and leave ``cfg`` at 1
    plain = type(guider).predict_noise is comfy.samplers.CFGGuider.predict_noise
    if plain and guider.cfg == 1.0 and not model_options.get("disable_cfg1_optimization", False):
        names.discard("negative")
    return names


def _overlap(entries: list[dict[str, Any]]) -> bool:
    """Whether two entries are ever active at one noise level."""
    ranges = sorted(map(_active, entries))
    return any(later_start < end for (_, end), (later_start, _) in zip(ranges, ranges[1:], strict=False))


def _active(entry: dict[str, Any]) -> tuple[float, float]:
    """Share of the steps at which an entry begins and ends to count; a hook on its text encoder may narrow it."""
    starts = (entry.get("start_percent"), entry.get("clip_start_percent"))
    ends = (entry.get("end_percent"), entry.get("clip_end_percent"))
    return max((s for s in starts if s is not None), default=0.0), min((e for e in ends if e is not None), default=1.0)


def refuse_entry(name: str, entry: Mapping[str, Any]) -> None:
    """Raise UnsupportedError for what a condition holds that does not work chunk by chunk.

    Args:
        name: what to call it.
        entry: options of a CONDITIONING.
    """
    for key, what in _UNSUPPORTED_ENTRIES.items():
        if entry.get(key) is not None:
            raise UnsupportedError(f"{name} uses {what}, which does not work chunk by chunk; disconnect it")
    hooks = entry.get("hooks")
    if hooks is not None and any(len(h.hook_keyframe.keyframes) > 1 for h in hooks.hooks):
        raise UnsupportedError(
            f"{name} has hooks with keyframes over the steps; chunks are at different steps at once. "
            "Use a hook without keyframes"
        )


def refuse_unsupported(conds: Conds, model_options: dict[str, Any], plan: Plan, one_run: bool = False) -> None:
    """Raise UnsupportedError, before anything loads, for what one noise level a chunk cannot serve.

    Args:
        one_run: all windows are sampled in one run of the guider.
    """
    for name, entries in conds.items():
        for entry in entries or []:
            refuse_entry(name, entry)
    if model_options.get("context_handler") is not None:
        raise UnsupportedError(
            "the MODEL has context windows; this sampler has its own (window, overlap). Remove the context window node"
        )
    for name, entries in conds.items() if plan.chunk_wise else ():
        if _overlap(entries or []) and any(_active(entry) != (0.0, 1.0) for entry in entries):
            raise UnsupportedError(
                f"{name} has prompts that are used together for a part of the steps: what one of them saw of earlier "
                "chunks would be missing. Use both all the time or one after the other, or set attention to "
                "'vanilla full'"
            )
    if "easycache" in model_options.get("transformer_options", {}) and (plan.chunk_wise or _rises(plan, one_run)):
        raise UnsupportedError(
            "the MODEL has EasyCache or LazyCache; they follow one noise level that falls over the whole clip. Remove "
            "that node, or set attention to 'vanilla full' and ar_step to 0"
            + (" (and make the video in one window)" if one_run and len(plan.windows) > 1 else "")
        )


def _rises(plan: Plan, one_run: bool) -> bool:
    """Whether the noise level that a guider is told goes up again."""
    pairs = zip(plan.calls, plan.calls[1:], strict=False)
    return any(later.sigma > call.sigma and (one_run or later.window == call.window) for call, later in pairs)
