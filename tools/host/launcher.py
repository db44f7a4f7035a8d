"""Starts ComfyUI's own `main.py` in this process: `python launcher.py COMFYUI_FOLDER [ComfyUI's arguments]`.

The server ends when its standard input does: with a pipe there, it cannot outlive the process that started it.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading
from pathlib import Path


def main() -> None:
    # Python put this folder first; ComfyUI has modules of the same names (server).
    sys.path.pop(0)
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    from tools.host.torchvision_ops import declare_missing_ops

    sys.path.pop()
    comfyui, *arguments = sys.argv[1:]
    threading.Thread(target=_end_with_input, daemon=True).start()
    declare_missing_ops()
    entry = Path(comfyui).resolve() / "main.py"
    sys.argv = [str(entry), *arguments]
    sys.path.insert(0, str(entry.parent))
    runpy.run_path(str(entry), run_name="__main__")


def _end_with_input() -> None:
    while os.read(0, 1024):
        continue
    os._exit(0)


if __name__ == "__main__":
    main()
