"""A page with the demo graph for the tests of the view: how to reach it, and to read its pixels back."""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .environment import REPO
from .server import ComfyServer

DEMO = REPO / "workflows" / "Try MotionCache (no download).json"
SAMPLER = "MotionCacheAutoregressiveSampler"
FULL, REUSED, TOKEN = (230, 159, 0), (0, 114, 178), (213, 94, 0)
SHOTS = Path(os.environ.get("MOTIONCACHE_SCREENSHOTS", REPO / "output" / "screenshots"))
"""Where screenshots of the tests are kept."""

CHROMIUM_ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-quic"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]

HELPERS = """() => {
  const graph = () => app.rootGraph ?? app.graph;
  const all = (g) => (g.nodes ?? []).flatMap((n) => [n, ...(n.subgraph ? all(n.subgraph) : [])]);
  window.mc = {
    nodes: (kind) => all(graph()).filter((n) => n.comfyClass === kind),
    node: (kind, at = 0) => window.mc.nodes(kind)[at],
    viewOf: (node) => node?.widgets?.find((w) => w.name === "motioncache_view")?.view,
    view: (kind, at = 0) => window.mc.viewOf(window.mc.node(kind, at)),
    views: () => all(graph()).map(window.mc.viewOf).filter(Boolean),
    set: (kind, name, value, at = 0) => {
      const widget = window.mc.node(kind, at).widgets.find((w) => w.name === name);
      widget.value = value;
      widget.callback?.(value);
    },
  };
}"""

NEXT_DRAWING = "() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 80)))"


@dataclass
class Stage:
    """One page of a ComfyUI.

    Args:
        page: Playwright's.
        comfy: the server behind it.
        name: of the front end and renderer, for screenshots.
    """

    page: Any
    comfy: ComfyServer
    name: str
    errors: list[str] = field(default_factory=list)
    earlier: set[str] = field(default_factory=set)
    """Runs that the server knew of when this page queued its last one; a page that joins shows them."""

    @classmethod
    def open(cls, browser: Any, comfy: ComfyServer, name: str, vue: bool, context: Any = None) -> Stage:
        """A new page, with the renderer chosen. ``context``: of an earlier stage, for a second page of it."""
        context = context or browser.new_context(viewport={"width": 1600, "height": 1100})
        stage = cls(context.new_page(), comfy, name)
        stage.page.on("pageerror", lambda error: stage.errors.append(f"{error}\n{getattr(error, 'stack', '')}"))
        stage.page.add_init_script("localStorage.setItem('vueNodesBannerDismissed', 'true')")
        stage.load()
        set_vue = "async (on) => await app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)"
        stage.page.evaluate(set_vue, vue)
        return stage

    def load(self) -> None:
        """Load (or reload) the page and wait until it is ready."""
        self.page.goto(self.comfy.url, timeout=240_000)
        self.page.wait_for_function("() => window.app?.graph && window.app.extensionManager", timeout=240_000)
        self.page.evaluate(HELPERS)

    def graph(self, workflow: dict[str, Any] | None = None) -> None:
        """Load a graph, the demo's unless another is given, and wait until its sampler's view has drawn something."""
        workflow = workflow or json.loads(DEMO.read_text(encoding="utf-8"))
        self.page.evaluate("async (workflow) => await app.loadGraphData(workflow)", workflow)
        self.page.wait_for_function("kind => window.mc.view(kind)", arg=SAMPLER, timeout=120_000)
        self.until(lambda: (words := self.state()["words"][0]) and "not drawn yet" not in words)

    def look(self, kind: str = SAMPLER, at: int = 0, scale: float = 1.0) -> None:
        """Bring a node's view into sight."""
        self.page.evaluate(
            """([kind, at, scale]) => {
              const ds = app.canvas.ds;
              ds.scale = scale;
              const node = window.mc.node(kind, at);
              ds.offset[0] = 420 / scale - node.pos[0];
              ds.offset[1] = 540 / scale - node.pos[1];
              app.canvas.setDirty(true, true);
            }""",
            [kind, at, scale],
        )
        box = self.steady(lambda: self.box(kind, at))
        move = "([by, scale]) => { app.canvas.ds.offset[1] += by / scale; app.canvas.setDirty(true, true); }"
        self.page.evaluate(move, [560 - (box["y"] + box["height"] / 2), scale])
        self.steady(lambda: self.box(kind, at))

    def box(self, kind: str = SAMPLER, at: int = 0) -> dict[str, float]:
        """Where the view lies on the page."""
        return self.call("v.element.getBoundingClientRect().toJSON()", kind, at)

    def heights_now(self, kind: str = SAMPLER, at: int = 0) -> tuple[int, int]:
        """Of the view and of its node, in pixels of the page; the node's is its own number in the classic renderer."""
        drawn = "v.element.closest('[data-node-id]')?.getBoundingClientRect().height"
        whole = self.call(f"{drawn} ?? window.mc.node(kind, at).size[1]", kind, at)
        return round(self.box(kind, at)["height"]), round(whole)

    def call(self, expression: str, kind: str = SAMPLER, at: int = 0) -> Any:
        """A JavaScript expression of the view ``v``."""
        return self.page.evaluate(
            f"([kind, at]) => {{ const v = window.mc.view(kind, at); return {expression}; }}", [kind, at]
        )

    def state(self, kind: str = SAMPLER, at: int = 0) -> dict[str, Any]:
        """What the view shows, as plain data."""
        return self.call("v.state()", kind, at)

    def set(self, kind: str, name: str, value: Any, at: int = 0) -> None:
        """Turn a knob as an artist does."""
        self.page.evaluate("([k, n, v, at]) => window.mc.set(k, n, v, at)", [kind, name, value, at])

    def queue(self) -> None:
        """Press Run."""
        self.earlier = set(
            self.page.evaluate(
                """async () => {
                  const views = window.mc.views();
                  const workflow = (app.rootGraph ?? app.graph).id;
                  const ask = async (node) => {
                    const route = `/motioncache/state?${new URLSearchParams({ node, workflow })}`;
                    const answer = await window.comfyAPI.api.api.fetchApi(route);
                    return (await answer.json()).state?.run;
                  };
                  const earlier = await Promise.all(views.flatMap((view) => view.ids()).map(ask));
                  earlier.push(...views.map((view) => view.run?.id));
                  await app.queuePrompt(0, 1);
                  return earlier.filter(Boolean);
                }"""
            )
        )

    def until(self, condition: Callable[[], Any], seconds: float = 240) -> Any:
        """Wait for a condition and return its value."""
        end = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > end:
                raise AssertionError(f"not within {seconds} s; the view shows {self.state()['words']}")
            time.sleep(0.1)
        return value

    def steady(self, read: Callable[[], Any], seconds: float = 60) -> Any:
        """Read a value until it has stayed the same over 4 readings with a drawing of the page before each."""
        end, seen = time.monotonic() + seconds, []
        while len(seen) < 4 or any(value != seen[-1] for value in seen[-4:]):
            if time.monotonic() > end:
                raise AssertionError(f"not steady within {seconds} s: {seen[-4:]}")
            self.page.evaluate(NEXT_DRAWING)
            seen.append(read())
        return seen[-1]

    def begun(self, kind: str = SAMPLER, at: int = 0) -> dict[str, Any] | None:
        """What the view shows once the run that was queued has begun."""
        state = self.state(kind, at)
        return state if state["run"] and state["run"]["id"] not in self.earlier else None

    def finished(self, kind: str = SAMPLER, at: int = 0) -> dict[str, Any]:
        """Wait for the end of the run that was queued and return what the view shows."""

        def ended() -> dict[str, Any] | None:
            state = self.begun(kind, at)
            return state if state and state["run"]["status"] != "running" else None

        return self.until(ended)

    def settle(self, kind: str = SAMPLER, at: int = 0) -> None:
        """Wait until the view has drawn what it has, pictures included."""
        self.page.evaluate(
            """async ([kind, at]) => {
              for (let i = 0; i < 4; i++) {
                window.mc.view(kind, at)?.invalidate();
                await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 100)));
              }
            }""",
            [kind, at],
        )

    def pixels(self, part: str, kind: str = SAMPLER, at: int = 0) -> np.ndarray:
        """A canvas of the view, ``[H, W, 4]`` uint8 in device pixels."""
        self.settle(kind, at)
        url = self.call(f"v.parts.{part}.toDataURL('image/png')", kind, at)
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGBA"))

    def shot(self, name: str) -> None:
        """Keep a screenshot."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{self.name} {name}.png")


KNOBS = [
    "custom",
    3,
    0.1,
    0.2,
    0.4,
    0.0,
    "token",
    2,
    "patch embedding",
    "",
    "min-max",
    1.0,
    1.0,
    1.0,
    "published",
    False,
]
"""Of the MotionCache node: every outcome occurs, and the plan can only be told in bounds."""
GRAPH_ID = "6d0c8f5e-52b0-4c1e-9a55-6b1f0a3c7d21"
"""Views show runs of their own graph."""
FRAMES, SEED, STEPS = 2, 4, 6
"""Places among the sampler's saved values."""
SEEDS = itertools.count(1_000_000)
"""Seeds that no run had before, the same ones in every session."""


def sampler_graph() -> dict[str, Any]:
    """The demo's graph with 3 chunks and other knobs, without decoding, which takes most of its time, with a seed that
    no run had before.
    """
    graph = json.loads(DEMO.read_text(encoding="utf-8")) | {"id": GRAPH_ID}
    sampler = next(n for n in graph["nodes"] if n["type"] == SAMPLER)
    gone = {n["id"] for n in graph["nodes"] if n["type"] in ("VAEDecode", "CreateVideo", "SaveVideo")}
    gone |= {n["id"] for n in graph["nodes"] if n["type"] in ("MotionCacheDecisionMask", "MaskToImage")}
    gone |= {n["id"] for n in graph["nodes"] if n["type"] == "SaveAnimatedWEBP"}
    graph["nodes"] = [n for n in graph["nodes"] if n["id"] not in gone]
    graph["links"] = [link for link in graph["links"] if link[1] not in gone and link[3] not in gone]
    left = {link[0] for link in graph["links"]}
    for node in graph["nodes"]:
        for output in node.get("outputs", []):
            output["links"] = [link for link in output["links"] or [] if link in left]
    sampler["widgets_values"][FRAMES] = 57
    sampler["widgets_values"][SEED] = next(SEEDS)
    cache = next(n for n in graph["nodes"] if n["type"] == "MotionCacheApply")
    assert len(cache["widgets_values"]) == len(KNOBS), "the node has other knobs than KNOBS"
    cache["widgets_values"] = list(KNOBS)
    return graph


def near(pixels: np.ndarray, colour: tuple[int, int, int], within: int = 12) -> np.ndarray:
    """``[H, W]`` bool: opaque pixels of about that colour."""
    return (np.abs(pixels[..., :3].astype(int) - colour).max(axis=-1) <= within) & (pixels[..., 3] > 200)
