"""The pack in this process, imported as ComfyUI does it: as a package, here called ``motioncache``."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from tools.host.environment import REPO

NAME = "motioncache"


def load() -> None:
    """Make ``motioncache`` importable. ComfyUI must be on the path, and its arguments set, before the first call."""
    if NAME in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(NAME, REPO / "__init__.py", submodule_search_locations=[str(REPO)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)


@contextmanager
def handed_in(module: ModuleType, **values: Any) -> Iterator[None]:
    """A module of the pack finds these under its own names meanwhile."""
    before = {name: getattr(module, name) for name in values}
    try:
        for name, value in values.items():
            setattr(module, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def defaults_of(node: Any) -> dict[str, Any]:
    """What the widgets of a node of the pack hold when it is put into a graph."""
    widgets = [i for i in node.define_schema().inputs if hasattr(i, "default")]
    values = {i.id: getattr(i, "options", [None])[0] if i.default is None else i.default for i in widgets}
    return {name: value for name, value in values.items() if value is not None}
