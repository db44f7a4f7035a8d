"""`python -m tools.verify.subset FROM TO [ID...]`: copies the small cases of a family folder, for the tests.

Cases named by their ids are taken along too. The files of these cases are copied as they are and `cases.json` keeps
those cases only. Arrays that only left-out cases use are listed under `unused`.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from .claims import unclaimed
from .folder import Folder

LEFT_OUT = "used by cases outside the small subset only"


def main(arguments: Sequence[str] | None = None) -> int:
    """Copy; the exit status."""
    first, second, *also = sys.argv[1:] if arguments is None else arguments
    source, target = Path(first), Path(second)
    listing = json.loads((source / "cases.json").read_text(encoding="utf-8"))
    listing["cases"] = [record for record in listing["cases"] if record["small"] or record["id"] in also]
    kept = {record["id"] for record in listing["cases"]}
    for record in listing["cases"]:
        if record.get("twin") not in kept:
            record.pop("twin", None)
    files = {name for record in listing["cases"] for name in _files(record)}
    for name in sorted(files):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)
    listing["unused"] = [entry for entry in listing["unused"] if entry["file"] in files]
    _write(target, listing)
    left_out = unclaimed(Folder(target)).items()
    listing["unused"] += [
        {"file": file, "arrays": name, "reason": LEFT_OUT} for file, names in left_out for name in names
    ]
    _write(target, listing)
    return 0


def _files(record: dict) -> set[str]:
    return {*record["files"].values(), *([record["weights"]] if "weights" in record else [])}


def _write(target: Path, listing: dict) -> None:
    (target / "cases.json").write_text(json.dumps(listing, indent=1) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    sys.exit(main())
