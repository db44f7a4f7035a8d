"""Names that an artist types for files, made fit for every system, and kept inside of a folder."""

from __future__ import annotations

import re
from pathlib import Path

SUFFIX = ".safetensors"

_ILLEGAL = re.compile(r'[<>:"|?*\x00-\x1f]')
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")
_MAX_NAME_BYTES = 150


class FileNameError(ValueError):
    """A name cannot be used; the message says why."""


def file_path(folder: Path, name: str, *, overwrite: bool, field: str = "filename") -> Path:
    """The safetensors file to save to under a name.

    Characters that some system forbids become ``_``; ``/`` makes subfolders. Without ``overwrite`` a number is appended
    if the name is taken.

    Args:
        field: the input that the name comes from, for messages.

    Raises:
        FileNameError: the name is empty, absolute, or leads out of the folder.
    """
    parts = name.replace("\\", "/").removesuffix(SUFFIX).split("/")
    if ".." in parts or name.startswith(("/", "\\")):
        raise FileNameError(f"{field} {name!r} leads out of {folder}; give a name like 'forest walk' or 'forest/walk'.")
    clean = [part for part in map(_clean_part, parts) if part]
    if not clean:
        raise FileNameError(f"{field} {name!r} is empty; give a name like 'forest walk'.")
    path = folder.joinpath(*clean[:-1], clean[-1] + SUFFIX)
    number = 2
    while not overwrite and path.exists():
        path = path.with_name(f"{clean[-1]}_{number}{SUFFIX}")
        number += 1
    return path


def name_problem(folder: Path, name: str | None, field: str = "filename") -> str | None:
    """Why a file cannot be saved under a name; ``None`` if it can, or if the name is not known yet."""
    try:
        if name is not None:
            file_path(folder, name, overwrite=True, field=field)
    except FileNameError as error:
        return str(error)
    return None


def _clean_part(part: str) -> str:
    clean = _ILLEGAL.sub("_", part).strip().encode()[:_MAX_NAME_BYTES].decode(errors="ignore").rstrip(". ")
    return f"_{clean}" if _RESERVED.fullmatch(clean) else clean
