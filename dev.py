"""The developer's commands. Each sets up what it needs first (once, in a cache folder) and then does its one thing.

    python dev.py demo                 render the demo workflow in a real ComfyUI; the video's path comes last
    python dev.py test [PYTEST ARGS]   run the test suite
    python dev.py serve [--port PORT]  open ComfyUI with the pack in it, until Ctrl-C
    python dev.py verify DIR           check the golden cases in DIR against the core
    python dev.py bench NAME [ARGS]    run the benchmark tools/bench/NAME.py
    python dev.py train NAME [ARGS]    run the training tools/train_NAME.py
    python dev.py pictures [NAME ...]  make the help pages' pictures again
    python dev.py screenshots [NAME]   take the README's screenshots again (graph, view)
    python dev.py setup                only make the environment, and say where it is

The environment (about 2.4 GB) lies in $MOTIONCACHE_CACHE, by default in the user's cache folder under motioncache.
Chromium is installed with apt-get where that is possible; without one the browser tests are reported as skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent
sys.path.append(str(REPO))

from tools.host.environment import Environment, SetupError, ensure  # noqa: E402 - the line above lets it be found


def main(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    command, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if command in ("-h", "--help", "help"):
        print(__doc__.strip())
        return 0
    commands = {
        "demo": lambda: tool("tools.demo", rest),
        "test": lambda: test(rest),
        "serve": lambda: tool("tools.host.serve", rest),
        "verify": lambda: tool("tools.verify", rest),
        "bench": lambda: named("bench", "tools/bench/*.py", "tools.bench.", rest),
        "train": lambda: named("train", "tools/train_*.py", "tools.train_", rest),
        "pictures": lambda: tool("tools.make_help_pictures", rest),
        "screenshots": lambda: tool("tools.make_screenshots", rest),
        "setup": setup,
    }
    if command not in commands:
        return fail(f"there is no command {command!r}; the commands are {', '.join(commands)} (see --help)")
    try:
        return commands[command]()
    except SetupError as error:
        return fail(str(error))
    except KeyboardInterrupt:
        return 130


def setup() -> int:
    environment = ensure(cli=True, browser=True)
    print("\n".join(f"{name}={value}" for name, value in environment.variables().items()))
    return 0


def test(rest: list[str]) -> int:
    return run(ensure(cli=True, browser=True), ["-m", "pytest", *rest], REPO)


def tool(module: str, rest: list[str]) -> int:
    return run(ensure(), [str(REPO / "tools/host/run_tool.py"), module, *rest])


def named(kind: str, pattern: str, prefix: str, rest: list[str]) -> int:
    """Run the tool that the first argument names, or say which there are."""
    stem = prefix.rpartition(".")[2]
    names = sorted(path.stem.removeprefix(stem) for path in REPO.glob(pattern) if not path.stem.startswith("__"))
    if not rest or rest[0] not in names:
        asked = f"there is no {kind} {rest[0]!r}" if rest else f"{kind} wants a name"
        return fail(f"{asked}; there is: {', '.join(names) or 'none yet'}")
    return tool(prefix + rest[0], rest[1:])


def run(environment: Environment, arguments: list[str], folder: Path | None = None) -> int:
    """Run the environment's Python, telling it where everything lies."""
    variables = {**os.environ, **environment.variables()}
    if os.name == "posix":  # in this process's place, so that whoever ends this one ends it too
        os.chdir(folder or Path.cwd())
        os.execve(environment.python, [str(environment.python), *arguments], variables)
    return subprocess.run([str(environment.python), *arguments], env=variables, cwd=folder).returncode


def fail(message: str) -> int:
    print(message, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
