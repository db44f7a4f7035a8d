"""Accounting: every array of every file belongs to a case or is listed as unused."""

from __future__ import annotations

import contextlib
from collections import defaultdict

from .folder import CaseError, Folder


def unaccounted(folder: Folder) -> list[str]:
    """One sentence for every array file with arrays that nobody claims, and for every bad `unused` entry."""
    problems = []
    for entry in folder.unused:
        try:
            _unused(folder, entry)
        except CaseError as error:
            problems.append(f"unused: {error}")
    for file in folder.array_files():
        try:
            folder.arrays(file)
        except Exception as error:  # whatever is wrong with a file is the folder's problem
            problems.append(f"{file} cannot be read: {error}")
    for file, left in unclaimed(folder).items():
        more = f" and {len(left) - 4} more" if len(left) > 4 else ""
        problems.append(f"{file}: no case claims {', '.join(left[:4])}{more}")
    return problems


def unclaimed(folder: Folder) -> dict[str, list[str]]:
    """File -> arrays that neither a case nor `unused` names; files that cannot be read are left out."""
    claimed: dict[str, set[str]] = defaultdict(set)
    for case in folder.cases:
        with contextlib.suppress(Exception):  # the case itself fails with the reason
            for file, names in case.claims():
                claimed[file] |= names
    for entry in folder.unused:
        with contextlib.suppress(CaseError):
            file, names = _unused(folder, entry)
            claimed[file] |= names
    left = {}
    for file in folder.array_files():
        with contextlib.suppress(Exception):
            left[file] = sorted(folder.arrays(file).names - claimed[file])
    return {file: names for file, names in left.items() if names}


def _unused(folder: Folder, entry: dict[str, str]) -> tuple[str, set[str]]:
    for field in ("file", "arrays", "reason"):
        if not isinstance(entry, dict) or not entry.get(field):
            raise CaseError(f"{entry!r} lacks {field!r}")
    arrays, pattern = folder.arrays(entry["file"]), entry["arrays"]
    names = set(arrays.matching(pattern).values()) if "*" in pattern else {pattern} & arrays.names
    if not names:
        raise CaseError(f"{entry['file']} has no array {pattern!r}")
    return entry["file"], names
