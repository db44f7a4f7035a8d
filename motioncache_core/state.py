"""A run's memory as tensors and plain data, so that it can be saved and taken up again, here or in another process.

Only the classes named here are written and made again; nothing that is read decides what code runs.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from .kv_cache import KVCache
from .loop import RunState
from .solvers import Euler, FlowUniPC

Place = tuple[torch.device | None, bool]
"""(device, whether to copy)."""
_CORE_CLASSES = (RunState, KVCache, FlowUniPC, Euler)
_DTYPES = {str(d): d for d in (torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn)}


def export(value: Any, family: tuple[type, ...] = ()) -> tuple[dict[str, Tensor], Any]:
    """(tensors by name, plain data that refers to them) of a run's memory, e.g. a dict of its parts. No copies.

    Args:
        family: the model family's own classes that may occur in it.

    Raises:
        TypeError: something in it has no form here.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _encode(value, tensors, {c.__name__ for c in (*_CORE_CLASSES, *family)})


def restore(
    tensors: dict[str, Tensor],
    data: Any,
    family: tuple[type, ...] = (),
    device: torch.device | None = None,
    copy: bool = True,
) -> Any:
    """What :func:`export` was given, made anew; tensors are copied, to ``device`` unless it is ``None``.

    Args:
        copy: without, tensors that lie on the device already are taken as they are.

    Raises:
        ValueError: the data names a class, a precision or a tensor that is not known.
    """
    try:
        return _decode(data, tensors, {c.__name__: c for c in (*_CORE_CLASSES, *family)}, (device, copy))
    except KeyError as error:
        raise ValueError(f"the saved state refers to {error}, which is not there") from None


def _encode(value: Any, tensors: dict[str, Tensor], classes: set[str]) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        name = f"tensor_{len(tensors)}"
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, (list, tuple)):
        return {"tuple" if isinstance(value, tuple) else "list": [_encode(v, tensors, classes) for v in value]}
    if isinstance(value, (set, frozenset)):
        return {"set": [_encode(v, tensors, classes) for v in value]}
    if isinstance(value, Counter):
        return {"counter": [[_encode(k, tensors, classes), _encode(v, tensors, classes)] for k, v in value.items()]}
    if isinstance(value, dict):
        return {"dict": [[_encode(k, tensors, classes), _encode(v, tensors, classes)] for k, v in value.items()]}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value)}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if type(value).__name__ in classes:
        return {"class": type(value).__name__, "fields": _encode(dict(vars(value)), tensors, classes)}
    raise TypeError(f"a {type(value).__name__} cannot be part of a saved state")


def _decode(data: Any, tensors: dict[str, Tensor], classes: dict[str, type], place: Place) -> Any:
    if not isinstance(data, dict):
        return data
    device, copy = place
    if "tensor" in data:
        return tensors[data["tensor"]].to(device, copy=copy)
    if "list" in data:
        return [_decode(v, tensors, classes, place) for v in data["list"]]
    if "tuple" in data:
        return tuple(_decode(v, tensors, classes, place) for v in data["tuple"])
    if "set" in data:
        return {_decode(v, tensors, classes, place) for v in data["set"]}
    for name, kind in (("dict", dict), ("counter", Counter)):
        if name in data:
            pairs = [[_decode(item, tensors, classes, place) for item in pair] for pair in data[name]]
            return kind(dict(pairs))
    if "dtype" in data:
        return _DTYPES[data["dtype"]]
    if "device" in data:
        return torch.device(data["device"]) if device is None else device
    made = object.__new__(classes[data["class"]])
    fields = _decode(data["fields"], tensors, classes, place)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made
