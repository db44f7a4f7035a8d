"""Takes the screenshots of README and help again: `python dev.py screenshots [graph] [view]`.

``graph`` runs the demo in ComfyUI's newest page and takes the whole graph (`docs/graph.png`). ``view`` runs a small
video and takes the view while it runs, after it in Nodes 2.0, and in the light theme (`docs/view.png`), and the first
of them for the help page (`web/docs/motioncache_view.png`). All at two device pixels for one of the page.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from tools.host.environment import REPO, ensure
from tools.host.server import ComfyServer
from tools.host.stage import CHROMIUM_ARGUMENTS, DEMO, Stage, sampler_graph

SCALE = 2
WINDOW = {"width": 1900, "height": 1300}
GRAPH, VIEW, HELP = REPO / "docs" / "graph.png", REPO / "docs" / "view.png", REPO / "web/docs/motioncache_view.png"
ROOM = 16
"""Pixels of the page around what is taken."""
COLOURS = 192
"""Of a picture, so that it stays small."""
BARE = ".comfyui-body-top, .side-tool-bar-container, .p-toast, .graph-canvas-menu, .p-buttongroup { display: none }"
"""What of the page lies over the graph."""
STEPS, SHARE = 3 * 20, 0.7
"""Of the small video's chunks, and the part of them that is done when it is taken."""
PARTLY = 1
"""Outcome of a step of which some tokens were computed."""
FIT = """([scale, room]) => {
  const drawn = (node) => document.querySelector(`[data-node-id="${node.id}"]`)?.getBoundingClientRect();
  const canvas = app.canvas, boxes = app.graph.nodes.map((node) => node.getBounding());
  const left = Math.min(...boxes.map((b) => b[0])), top = Math.min(...boxes.map((b) => b[1]));
  const right = Math.max(...boxes.map((b) => b[0] + b[2])), bottom = Math.max(...boxes.map((b) => b[1] + b[3]));
  canvas.ds.scale = scale ?? Math.min((innerWidth - 240) / (right - left), (innerHeight - 160) / (bottom - top));
  canvas.ds.offset[0] = 140 / canvas.ds.scale - left;
  canvas.ds.offset[1] = 110 / canvas.ds.scale - top;
  canvas.setDirty(true, true);
  const s = canvas.ds.scale, x = 140 - room, y = 110 - room;
  return { x, y, width: (right - left) * s + 2 * room, height: (bottom - top) * s + 2 * room };
}"""


def main() -> int:
    """Take the pictures that are named, or all."""
    parser = argparse.ArgumentParser(prog="dev.py screenshots", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], "graph", "view"], help="only these (all)")
    names = parser.parse_args().names or ["graph", "view"]
    environment = ensure(browser=True)
    if environment.chromium is None or environment.new_front_end is None:
        print("screenshots want Chromium (Debian: apt-get install chromium) and the newest front end", file=sys.stderr)
        return 1
    from playwright.sync_api import sync_playwright

    front = ("--front-end-root", str(environment.new_front_end))
    with (
        tempfile.TemporaryDirectory() as base,
        ComfyServer(Path(base), environment=environment, arguments=front) as comfy,
        sync_playwright() as playwright,
    ):
        arguments = [*CHROMIUM_ARGUMENTS, "--hide-scrollbars"]
        browser = playwright.chromium.launch(executable_path=str(environment.chromium), headless=True, args=arguments)
        if "graph" in names:
            keep(graph(browser, comfy), GRAPH)
        if "view" in names:
            pictures = views(browser, comfy)
            keep(beside(pictures), VIEW)
            keep(pictures[0], HELP)
        browser.close()
    return 0


def graph(browser: Any, comfy: ComfyServer) -> Image.Image:
    """The demo's graph after its run."""
    stage = opened(browser, comfy, vue=True)
    stage.graph(json.loads(DEMO.read_text(encoding="utf-8")))
    stage.page.evaluate(FIT, [None, ROOM])
    stage.queue()
    stage.finished()
    stage.page.wait_for_function("() => document.querySelector('video')?.readyState >= 2", timeout=600_000)
    time.sleep(8)  # the mask's file, and nodes that find their sizes
    stage.page.add_style_tag(content=BARE)
    box = stage.page.evaluate(FIT, [None, ROOM])
    time.sleep(3)
    return taken(stage, box)


def views(browser: Any, comfy: ComfyServer) -> list[Image.Image]:
    """The view during a run in the classic page, after it in Nodes 2.0, and then in the light theme."""
    made = []
    for vue in (False, True):
        stage = opened(browser, comfy, vue)
        stage.graph(sampler_graph())
        stage.look()
        stage.queue()
        if not vue:
            lane, step = stage.until(partial(half_way, stage))
            stage.call(f"v.choose({lane}, {step})")
            stage.settle()
            made.append(taken(stage, stage.box()))
        stage.finished()
        if vue:
            for theme in ("dark", "light"):
                setting = "async (t) => await app.extensionManager.setting.set('Comfy.ColorPalette', t)"
                stage.page.evaluate(setting, theme)
                stage.look()
                stage.settle()
                made.append(taken(stage, stage.box()))
            stage.page.evaluate("async () => await app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")
        stage.page.context.close()
    return made


def half_way(stage: Stage) -> tuple[int, int] | None:
    """A step computed in part, (chunk, step), once the run is far enough; not the newest, which the view runs from."""
    state = stage.begun()
    cells = state["run"]["cells"] if state else []
    partly = [(lane, step) for lane, step, _, outcome, *_ in cells if outcome == PARTLY]
    return partly[-2] if len(partly) > 1 and len(cells) >= SHARE * STEPS else None


def opened(browser: Any, comfy: ComfyServer, vue: bool) -> Stage:
    """A page with fine pixels."""
    context = browser.new_context(viewport=WINDOW, device_scale_factor=SCALE)
    return Stage.open(browser, comfy, "screenshot", vue, context)


def taken(stage: Stage, box: dict[str, float]) -> Image.Image:
    """A part of the page."""
    clip = {name: box[name] for name in ("x", "y", "width", "height")}
    return Image.open(io.BytesIO(stage.page.screenshot(clip=clip))).convert("RGB")


def beside(pictures: list[Image.Image], gap: int = 24) -> Image.Image:
    """Pictures in a row, aligned at the top, on the grey of the page."""
    width = sum(picture.width + gap for picture in pictures) - gap
    made = Image.new("RGB", (width, max(picture.height for picture in pictures)), (34, 34, 34))
    left = 0
    for picture in pictures:
        made.paste(picture, (left, 0))
        left += picture.width + gap
    return made


def keep(picture: Image.Image, path: Path) -> None:
    """Write a picture with few colours."""
    few = picture.quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    print(f"{path.stat().st_size / 1000:.0f} kB  {picture.width} x {picture.height}  {path}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
