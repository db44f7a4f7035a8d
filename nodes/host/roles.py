"""Roles: which branch of the guidance a row of the batch belongs to, from the guider's own lists of conditions.

A condition's uuid differs from run to run, is shared by copies and reused by guidance that calls the model again;
a role is (list name, slot, sample) instead, built once at the start of a run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

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
    if getattr(guider, "cfg", None) == 1.0 and not model_options.get("disable_cfg1_optimization", False):
        names.discard("negative")
    return names


def _overlap(entries: list[dict[str, Any]]) -> bool:
    """Whether two entries are ever active at one noise level (levels fall from ``start`` to ``end``)."""
    ranges = sorted(
        (_level(e.get("timestep_start"), math.inf), _level(e.get("timestep_end"), -math.inf)) for e in entries
    )
    return any(later_end < start for (start, _), (_, later_end) in zip(ranges, ranges[1:], strict=False))


def _level(value: Any, default: float) -> float:
    return default if value is None else float(value)


def refuse_unsupported(conds: Conds, model_options: dict[str, Any], chunk_wise: bool) -> None:
    """Raise UnsupportedError, before anything loads, for what one noise level a chunk cannot serve."""
    for name, entries in conds.items():
        for entry in entries or []:
            for key, what in _UNSUPPORTED_ENTRIES.items():
                if entry.get(key) is not None:
                    raise UnsupportedError(f"{name} uses {what}, which does not work chunk by chunk; disconnect it")
            hooks = entry.get("hooks")
            if hooks is not None and any(len(h.hook_keyframe.keyframes) > 1 for h in hooks.hooks):
                raise UnsupportedError(
                    f"{name} has hooks with keyframes over the steps; chunks are at different steps at once. "
                    "Use a hook without keyframes"
                )
    if not chunk_wise:
        return
    if model_options.get("context_handler") is not None:
        raise UnsupportedError(
            "the MODEL has context windows; chunk-wise sampling has its own windows. Remove the context window node"
        )
    if "easycache" in model_options.get("transformer_options", {}):
        raise UnsupportedError(
            "the MODEL has EasyCache or LazyCache; they decide once for a whole clip. Remove that node, or set "
            "attention to 'vanilla full'"
        )
