"""What the method's code may import: Python itself, and four libraries that ComfyUI brings."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import motioncache_core

CORE = Path(motioncache_core.__file__).parent
LEGAL = {"torch", "numpy", "einops", "safetensors", "motioncache_core"} | sys.stdlib_module_names
FORBIDDEN = {
    "subprocess",
    "socket",
    "urllib.request",
    "http",
    "pickle",
    "shelve",
    "marshal",
    "ctypes",
    "multiprocessing",
}
ONLY_THERE = {
    "models/magi1/captions.py": {"ftfy"},  # used where it is installed
    "drawing.py": {"PIL"},  # ComfyUI brings it; all that is drawn goes through this file
}


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=lambda path: path.relative_to(CORE).as_posix())
def test_a_module_of_the_core_imports_only_these(path: Path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imported.add(node.module)
    roots = {name.partition(".")[0] for name in imported}
    assert roots - ONLY_THERE.get(path.relative_to(CORE).as_posix(), set()) <= LEGAL
    assert not (imported | roots) & FORBIDDEN
