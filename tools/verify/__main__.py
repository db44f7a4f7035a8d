"""`python -m tools.verify DIR... [--only ID]`: checks every golden case of a family folder, or of a folder of them.

Prints one line a case (ok, FAIL or skipped; the output furthest off) and a sum; the exit status is 0 only if every
case was found, computed and compared, or skipped for a missing optional package.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from .check import check
from .claims import unaccounted
from .families import FAMILIES
from .folder import CaseError, Folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the folders that the arguments name; the exit status."""
    parser = argparse.ArgumentParser(prog="verify", description="Check golden cases against the core.")
    parser.add_argument("folders", metavar="DIR", nargs="+", type=Path, help="a family folder, or a folder of them")
    parser.add_argument("--only", metavar="ID", action="append", help="check this case only (may be given again)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(int(os.environ.get("MOTIONCACHE_THREADS", "1")))
    _find_comfyui()
    families = [family for given in options.folders for family in _families(given)]
    results = [verify(path, options.only) for path in families]
    empty = [given for given in options.folders if not _families(given)]
    for given in empty:
        print(f"FAIL    {given}: neither it nor a folder in it holds a cases.json")
    return 0 if all(results) and families and not empty else 1


def verify(path: Path, only: Sequence[str] | None = None) -> bool:
    """Check one family folder, print its lines, and say whether all is well."""
    started = time.perf_counter()
    try:
        folder = Folder(path)
    except CaseError as error:
        print(f"FAIL    {path}: {error}")
        return False
    cases = [case for case in folder.cases if not only or case.id in only]
    kinds = FAMILIES.get(folder.family, {})
    counts: Counter[str] = Counter()
    for case in cases:
        with torch.no_grad():
            outcome = check(case, kinds)
        counts[outcome.status] += 1
        print(outcome.line(), flush=True)
    problems = unaccounted(folder)
    problems += [f"the id {name!r} occurs {n} times" for name, n in Counter(c.id for c in cases).items() if n > 1]
    known = frozenset().union(*(kind.quirks for kind in kinds.values()))
    for name in sorted(folder.quirks - known):
        print(f"note    {path}: no kind knows the quirk {name!r} of its table")
    if not cases:
        problems.append(f"no case {' or '.join(only)}" if only else "no cases at all")
    for problem in problems:
        print(f"FAIL    {path}: {problem}")
    told = f"{counts['ok']} ok, {counts['FAIL']} failed, {counts['skipped']} skipped, {len(problems)} other problems"
    print(f"{folder.family}: {len(cases)} cases: {told}, {time.perf_counter() - started:.0f} s")
    return not problems and not counts["FAIL"]


def _families(given: Path) -> list[Path]:
    if (given / "cases.json").is_file():
        return [given]
    return sorted(found.parent for found in given.glob("*/cases.json"))


def _find_comfyui() -> None:
    """Put ComfyUI first on the path if it is not there yet, and keep it from looking for a GPU."""
    if importlib.util.find_spec("comfy") is None:
        from tools.host.environment import located
        from tools.host.torchvision_ops import declare_missing_ops

        sys.path.insert(0, str(located().comfyui))
        declare_missing_ops()
    import comfy.cli_args

    comfy.cli_args.args.cpu = True


if __name__ == "__main__":
    sys.exit(main())
