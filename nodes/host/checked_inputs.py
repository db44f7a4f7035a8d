"""Widget values that come from a page, checked against a node's schema."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from comfy_api.latest import io

from .latents import InputError

LONGEST_TEXT = 4000
LONGEST_SHOWN = 80
"""Characters of a wrong value that are told."""


def checked_inputs(node: type[io.ComfyNode], given: Mapping[str, Any]) -> dict[str, Any]:
    """A legal value for each of the node's widgets: the given one, or the default.

    Raises:
        InputError: a value is of the wrong kind or out of range. Names that the node does not have are ignored.
    """
    values = {}
    for widget in node.define_schema().inputs:
        check = _CHECKS.get(type(widget))
        if check is None:
            continue
        values[widget.id] = check(widget, given[widget.id]) if widget.id in given else _default(widget)
    return values


def wrong_value(node: type[io.ComfyNode], **typed: Any) -> str | None:
    """What is wrong with the values that are typed on a node, ``None`` for nothing.

    ComfyUI 0.3.75 looks neither at the choices of nodes like these nor at the limits of numbers that the node checks
    itself. A value of ``None`` comes from another node.
    """
    try:
        checked_inputs(node, {name: value for name, value in typed.items() if value is not None})
    except InputError as error:
        return str(error)
    return None


def judged(
    node: type[io.ComfyNode], needed: Mapping[str, Any], others: Mapping[str, Any], plan: Callable[[], object]
) -> bool | str:
    """What a node's ``validate_inputs`` returns when the graph is queued: whether its typed values can be planned.

    Args:
        needed: typed values that the plan needs; with a ``None`` among them it waits for the run.
        others: typed values that are judged by themselves.
        plan: plans with them; raises ValueError for what cannot be made.
    """
    problem = wrong_value(node, **needed, **others)
    if problem is not None:
        return problem
    if any(value is None for value in needed.values()):
        return True
    try:
        plan()
    except ValueError as error:
        return str(error)
    return True


def _default(widget: Any) -> Any:
    return widget.options[0] if isinstance(widget, io.Combo.Input) and widget.default is None else widget.default


def _number(widget: Any, value: Any) -> Any:
    whole = isinstance(widget, io.Int.Input)
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not _finite(value):
        raise InputError(f"{widget.id} is {short(repr(value))}; it must be a {'whole ' if whole else ''}number")
    if not widget.min <= value <= widget.max:
        nearest = min(max(value, widget.min), widget.max)
        raise InputError(
            f"{widget.id} is {short(value)}; it must lie between {widget.min} and {widget.max} (nearest: {nearest})"
        )
    return value


def _finite(value: float) -> bool:
    return isinstance(value, int) or math.isfinite(value)  # a whole number may be too long for a float


def short(value: Any) -> str:
    """A value for a sentence."""
    text = str(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"


def _choice(widget: Any, value: Any) -> Any:
    if value not in widget.options:
        raise InputError(f"{widget.id} is {str(value)[:80]!r}; it must be one of {', '.join(map(str, widget.options))}")
    return value


def _boolean(widget: Any, value: Any) -> Any:
    if not isinstance(value, bool):
        raise InputError(f"{widget.id} is {str(value)[:80]!r}; it must be true or false")
    return value


def _text(widget: Any, value: Any) -> Any:
    if not isinstance(value, str) or len(value) > LONGEST_TEXT:
        raise InputError(f"{widget.id} must be a text of at most {LONGEST_TEXT} characters")
    return value


_CHECKS = {
    io.Int.Input: _number,
    io.Float.Input: _number,
    io.Combo.Input: _choice,
    io.Boolean.Input: _boolean,
    io.String.Input: _text,
}
