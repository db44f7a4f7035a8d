"""Runs one of the repository's tools as a program: `python run_tool.py MODULE [ARGUMENTS]`.

ComfyUI comes first on the path and the repository last, since both have something called `nodes`.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def main() -> None:
    sys.path.pop(0)  # this folder, where `server` would hide ComfyUI's
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    from tools.host.environment import located
    from tools.host.torchvision_ops import declare_missing_ops

    sys.path.insert(0, str(located().comfyui))
    declare_missing_ops()
    module = sys.argv[1]
    del sys.argv[1]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
