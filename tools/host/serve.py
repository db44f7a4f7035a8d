"""ComfyUI with the pack in it, in the foreground: `python dev.py serve [--port PORT] [ComfyUI's arguments]`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

import torch

from tools.host.environment import cache_root
from tools.host.server import OFFLINE, ComfyServer


def main() -> int:
    """Serve until Ctrl-C and return ComfyUI's exit status."""
    parser = argparse.ArgumentParser(prog="dev.py serve", description=__doc__)
    parser.add_argument("--port", type=int, default=8188)
    options, more = parser.parse_known_args()
    server = ComfyServer(
        cache_root() / "serve", port=options.port, cpu=not torch.cuda.is_available(), arguments=tuple(more)
    )
    server.prepare()
    print(f"ComfyUI will be at {server.url}; models, input and output are in {server.base}", file=sys.stderr)
    # The pipe ends with this process, and the server with the pipe.
    with subprocess.Popen(server.command(), stdin=subprocess.PIPE, env={**os.environ, **OFFLINE}) as comfyui:
        try:
            return comfyui.wait()
        except KeyboardInterrupt:
            return 0


if __name__ == "__main__":
    sys.exit(main())
