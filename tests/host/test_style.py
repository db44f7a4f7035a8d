"""Ruff's rules and format hold everywhere, and shipped files name no place on a developer's machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tools.host.environment import REPO, Environment


@pytest.mark.parametrize("arguments", [("check",), ("format", "--check")])
def test_ruff_finds_nothing(environment: Environment, arguments: tuple[str, ...]):
    command = [str(environment.python), "-m", "ruff", *arguments, "--no-cache", "--output-format", "concise", "."]
    finished = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_the_core_does_not_know_comfyui(environment: Environment, tmp_path: Path):
    """Every module of the core imports in a Python that cannot see ComfyUI."""
    script = (
        "import importlib, pkgutil, sys\n"
        f"sys.path.append({str(REPO)!r})\n"
        "import motioncache_core\n"
        "names = [m.name for m in pkgutil.walk_packages(motioncache_core.__path__, 'motioncache_core.')]\n"
        "for name in names: importlib.import_module(name)\n"
        "assert not {'comfy', 'folder_paths', 'comfy_api'} & set(sys.modules)\n"
        "print(len(names))\n"
    )
    finished = subprocess.run([str(environment.python), "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert int(finished.stdout) >= 10
