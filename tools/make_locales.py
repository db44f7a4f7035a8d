"""Writes `locales/en/nodeDefs.json` from the schemas: `python -m tools.make_locales OBJECT_INFO.json`.

The English file is what translations are made of: a test compares it with the schemas, and the other languages' keys
with it, so that a changed sentence is noticed. Those files are written by people.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tools.host.environment import REPO

FOLDER = REPO / "locales"
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


def main() -> None:
    """Write the English file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("object_info", type=Path, help="what /object_info answered")
    made = node_defs(json.loads(parser.parse_args().object_info.read_text(encoding="utf-8")))
    (FOLDER / "en").mkdir(parents=True, exist_ok=True)
    text = json.dumps(made, ensure_ascii=False, indent=2) + "\n"
    (FOLDER / "en" / "nodeDefs.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
