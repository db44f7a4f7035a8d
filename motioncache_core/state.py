"""A run's memory as tensors and plain data, so that it can be saved and taken up again, here or in another process.

Only the classes named here are written and made again; nothing that is read decides what code runs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .kv_cache import KVCache
from .loop import RunState
from .solvers import Euler, FlowUniPC

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
    tensors: dict[str, Tensor], data: Any, family: tuple[type, ...] = (), device: torch.device | None = None
) -> Any:
    """What :func:`export` was given, made anew; tensors are copied, to ``device`` unless it is ``None``.

    Raises:
        ValueError: the data names a class, a precision or a tensor that is not known.
    """
    try:
        return _decode(data, tensors, {c.__name__: c for c in (*_CORE_CLASSES, *family)}, device)
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
        return {type(value).__name__: [_encode(v, tensors, classes) for v in value]}
    if isinstance(value, dict):
        return {"dict": [[_encode(k, tensors, classes), _encode(v, tensors, classes)] for k, v in value.items()]}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value)}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if type(value).__name__ in classes:
        return {"class": type(value).__name__, "fields": _encode(dict(vars(value)), tensors, classes)}
    raise TypeError(f"a {type(value).__name__} cannot be part of a saved state")


def _decode(data: Any, tensors: dict[str, Tensor], classes: dict[str, type], device: torch.device | None) -> Any:
    if not isinstance(data, dict):
        return data
    if "tensor" in data:
        return tensors[data["tensor"]].to(device, copy=True)
    if "list" in data:
        return [_decode(v, tensors, classes, device) for v in data["list"]]
    if "tuple" in data:
        return tuple(_decode(v, tensors, classes, device) for v in data["tuple"])
    if "dict" in data:
        pairs = [[_decode(item, tensors, classes, device) for item in pair] for pair in data["dict"]]
        return dict(pairs)
    if "dtype" in data:
        return _DTYPES[data["dtype"]]
    if "device" in data:
        return torch.device(data["device"]) if device is None else device
    made = object.__new__(classes[data["class"]])
    fields = _decode(data["fields"], tensors, classes, device)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made
