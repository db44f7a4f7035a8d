"""Writes `locales/en/nodeDefs.json` from the schemas: `python -m tools.make_locales OBJECT_INFO.json`.

The English file is what translations are made of: a test compares it with the schemas, and the other languages' keys
with it, so that a changed sentence is noticed. Those files are written by people. Only one thing is added to them here:
tooltips, errors and help pages call an input by its id, so a translated name has the id behind it in brackets.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from tools.host.environment import REPO

FOLDER = REPO / "locales"
PAGES = REPO / "web" / "docs"
LANGUAGES = ("de", "es", "fr", "ja", "ko", "zh")


def node_defs(object_info: dict[str, Any]) -> dict[str, Any]:
    """The pack's names, descriptions and tooltips in the form of ComfyUI's `nodeDefs.json`."""
    return {kind: _node(object_info[kind]) for kind in sorted(object_info) if kind.startswith("MotionCache")}


def _node(schema: dict[str, Any]) -> dict[str, Any]:
    groups = (schema["input"].get(name, {}) for name in ("required", "optional"))
    inputs = {
        name: _entry(name, spec[1].get("tooltip") if len(spec) > 1 else None)
        for group in groups
        for name, spec in group.items()
    }
    tips = schema.get("output_tooltips") or [None] * len(schema["output_name"])
    outputs = {
        str(place): _entry(name, tip) for place, (name, tip) in enumerate(zip(schema["output_name"], tips, strict=True))
    }
    return {
        "display_name": schema["display_name"],
        "description": schema["description"],
        "inputs": inputs,
        "outputs": outputs,
    }


def _entry(name: str, tooltip: str | None) -> dict[str, str]:
    return {"name": name, **({"tooltip": tooltip} if tooltip else {})}


def called_by_id(defs: dict[str, Any]) -> set[str]:
    """The inputs that other texts call by their id.

    One with an underscore is an id wherever it stands, and errors name it so. A single word is one where a help page
    sets it off: in a heading, as *word*, `word`, or at the beginning of a table's line.
    """
    ids = {name for node in defs.values() for name in node["inputs"]}
    pages = "\n".join(path.read_text(encoding="utf-8") for path in sorted(PAGES.glob("*.md")))
    headings = " ".join(re.findall(r"^##+ (.+)$", pages, re.MULTILINE))
    set_off = {*re.findall(r"\w+", headings), *re.findall(r"[*`](\w+)[*`]", pages)}
    set_off |= {word for cell in re.findall(r"^\| ([\w, ]+) \|", pages, re.MULTILINE) for word in cell.split(", ")}
    return {name for name in ids if "_" in name or name in set_off}


def with_ids(translated: dict[str, Any], called: set[str]) -> dict[str, Any]:
    """A translation with ``name (id)`` where an input of ``called`` has another name than its id."""
    made = json.loads(json.dumps(translated))
    for node in made.values():
        for name, entry in node["inputs"].items():
            bare = entry["name"].removesuffix(f" ({name})")
            same = re.sub(r"[ -]", "_", bare.casefold()) == name
            entry["name"] = f"{bare} ({name})" if name in called and not same else bare
    return made


def read(language: str) -> dict[str, Any]:
    """The names and texts of one language."""
    return json.loads((FOLDER / language / "nodeDefs.json").read_text(encoding="utf-8"))


def write(language: str, defs: dict[str, Any]) -> None:
    """The reverse."""
    (FOLDER / language).mkdir(parents=True, exist_ok=True)
    text = json.dumps(defs, ensure_ascii=False, indent=2) + "\n"
    (FOLDER / language / "nodeDefs.json").write_text(text, encoding="utf-8")


def main() -> None:
    """Write the English file, and the ids into the others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("object_info", type=Path, help="what /object_info answered")
    made = node_defs(json.loads(parser.parse_args().object_info.read_text(encoding="utf-8")))
    write("en", made)
    for language in LANGUAGES:
        write(language, with_ids(read(language), called_by_id(made)))


if __name__ == "__main__":
    main()
