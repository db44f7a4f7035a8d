"""The demo: the tiny-world workflow through a real ComfyUI, ending with the path of the video that SaveVideo wrote.

The workflow is the one artists find under Browse Templates; its models ship with the pack in `tiny_world/`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.host.environment import REPO
from tools.host.server import ComfyError, ComfyServer, Run

WORKFLOW = REPO / "workflows" / "Try MotionCache (no download).json"
VIDEOS = (".mp4", ".webm", ".mkv")
TEXTS = ("report", "summary")


@dataclass(frozen=True)
class Rendered:
    """What the demo made: the video's path, the `report` and `summary` outputs, and the finished prompt."""

    video: Path
    report: dict[str, Any]
    summary: str
    run: Run


def render(comfy: ComfyServer, workflow: Path = WORKFLOW, timeout: float = 900.0) -> Rendered:
    """Run a saved workflow in `comfy` and read back its video, and the report and summary of its sampler.

    Raises:
        ComfyError: a node failed (with its words), or the workflow saved no video or has no sampler of ours.
    """
    prompt = comfy.convert(json.loads(workflow.read_text(encoding="utf-8")))
    readers = _read_texts(prompt, comfy.object_info())
    run = comfy.run({**prompt, **readers}, timeout)
    videos = [file for file in run.files() if file.suffix in VIDEOS]
    if not videos:
        raise ComfyError(f"{workflow.name} saved no video; its files: {', '.join(map(str, run.files())) or 'none'}")
    report, summary = ("".join(run.outputs[name]["text"]) for name in TEXTS)
    return Rendered(videos[-1], json.loads(report), summary, run)


def _read_texts(prompt: dict, object_info: dict) -> dict[str, dict]:
    """A PreviewAny node for the report and one for the summary: their texts come back with the history."""
    readers = {}
    for key, node in prompt.items():
        for slot, name in enumerate(object_info[node["class_type"]]["output_name"]):
            if name in TEXTS:
                readers[name] = {"class_type": "PreviewAny", "inputs": {"source": [key, slot]}}
    if set(readers) != set(TEXTS):
        raise ComfyError(f"the workflow has no node with the outputs {' and '.join(TEXTS)}")
    return readers


def main() -> int:
    """Render, print the report, and print the video's absolute path last."""
    parser = argparse.ArgumentParser(prog="dev.py demo", description=__doc__)
    parser.add_argument("--workflow", type=Path, default=WORKFLOW, help="another saved workflow that ends in SaveVideo")
    parser.add_argument("--output", type=Path, default=REPO / "output", help="where ComfyUI saves the video")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as base, ComfyServer(Path(base), output=options.output) as comfy:
            print(f"ComfyUI {comfy.version()} runs {options.workflow.name}", file=sys.stderr, flush=True)
            rendered = render(comfy, options.workflow)
    except (ComfyError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(rendered.summary)
    print(f"sampled and saved in {rendered.run.seconds:.1f} s")
    print(rendered.video.resolve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
