"""Whether watching slows a run: the demo's sampler with 0, 1 and 5 pages open, paired rounds, medians.

Pages are real Chromium pages with the demo's graph on this machine, so they take CPU time of their own from the run;
"clients" are websockets that only read, as a browser on another machine is to the server, and "stuck" one that never
reads. "Its own client" is the one that asked for the run: ComfyUI tells it of progress and sends it previews. "Nobody,
again" is the first measured twice: what it differs by is the noise. Times are ComfyUI's own, from the start of the
prompt to its end. A larger picture (--size) makes longer calls.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import websocket

from tools.host.environment import located
from tools.host.server import ComfyServer
from tools.host.stage import CHROMIUM_ARGUMENTS, DEMO, Stage

NOBODY = "nobody"
ASKING = "bench"
"""Client id of whoever asks for the runs."""
CACHED = 0.1
"""Seconds; a faster run came from ComfyUI's cache, as a crowded machine had not forgotten the one before in time."""
Watchers = Callable[[], contextlib.AbstractContextManager[None]]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="dev.py bench widget", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="paired rounds")
    parser.add_argument("--steps", type=int, default=20, help="steps of every chunk")
    parser.add_argument("--pages", type=int, nargs="*", default=[1, 5], help="numbers of pages to compare with none")
    parser.add_argument("--size", type=int, default=96, help="pixels of the picture's sides")
    parser.add_argument("--frames", type=int, default=97, help="video frames")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as base, ComfyServer(Path(base)) as comfy, browser() as chromium:
        sizes = {"steps": options.steps, "frames": options.frames, "width": options.size, "height": options.size}
        prompt = sampler_alone(comfy, sizes)
        kinds: dict[str, Watchers] = {
            NOBODY: contextlib.nullcontext,
            f"{NOBODY}, again": contextlib.nullcontext,
            **{f"{n} page{'s' * (n > 1)}": partial(pages, chromium, comfy, n) for n in options.pages},
            "its own client": lambda: clients(comfy, [ASKING]),
            "5 clients": lambda: clients(comfy, [f"c{n}" for n in range(5)]),
            "1 stuck client": lambda: clients(comfy, ["stuck"], reads=False),
        }
        warm = comfy.run(prompt(0))  # loads the model
        comfy.leave()
        (calls,) = (ui["motioncache"][0]["totals"]["calls"] for ui in warm.outputs.values() if "motioncache" in ui)
        load = [os.getloadavg()[0]]
        seconds: dict[str, list[float]] = {name: [] for name in kinds}
        for round_ in range(options.rounds):
            order = list(kinds)[round_ % len(kinds) :] + list(kinds)[: round_ % len(kinds)]
            for name in order:
                with kinds[name]():
                    while (spent := timed(comfy, prompt(1000 + round_))) < CACHED:
                        forget(comfy)
                    seconds[name].append(spent)
                    print(f"round {round_ + 1}, {name}: {seconds[name][-1]:.2f} s", flush=True)
                forget(comfy)
        load.append(os.getloadavg()[0])
    alone = statistics.median(seconds[NOBODY])
    print(f"\nmedians of {options.rounds} paired rounds; one round has the same seed for all; {calls} calls of")
    print(f"{1000 * alone / calls:.0f} ms; {os.cpu_count()} cores, load {load[0]:.1f} before, {load[1]:.1f} after")
    print("| watched by | seconds (smallest–largest) | longer than alone, median of pairs (smallest–largest) |")
    print("| --- | --- | --- |")
    for name, values in seconds.items():
        pairs = [100 * (value / alone - 1) for value, alone in zip(values, seconds[NOBODY], strict=True)]
        spread = f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"
        print(f"| {name} | {spread} | {statistics.median(pairs):+.1f} % ({min(pairs):+.1f}–{max(pairs):+.1f}) |")
    return 0


def sampler_alone(comfy: ComfyServer, inputs: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
    """The demo up to its sampler, for a seed. ``inputs``: of the sampler, in place of the demo's."""
    whole = comfy.convert(json.loads(DEMO.read_text(encoding="utf-8")))
    sampler = next(key for key, node in whole.items() if node["class_type"] == "MotionCacheAutoregressiveSampler")
    kept = {key: node for key, node in whole.items() if node["class_type"].startswith(("MotionCache", "VAELoader"))}
    kept = {key: node for key, node in kept.items() if node["class_type"] != "MotionCacheDecisionMask"}
    kept["shown"] = {"class_type": "PreviewAny", "inputs": {"source": [sampler, 2]}}

    def prompt(seed: int) -> dict[str, Any]:
        changed = json.loads(json.dumps(kept))
        changed[sampler]["inputs"] |= {**inputs, "seed": seed}
        return changed

    return prompt


def timed(comfy: ComfyServer, prompt: dict[str, Any]) -> float:
    """Run without listening and return the seconds that ComfyUI took."""
    body = json.dumps({"prompt": prompt, "client_id": ASKING}).encode()
    request = urllib.request.Request(f"{comfy.url}/prompt", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        name = json.loads(answer.read())["prompt_id"]
    while True:
        time.sleep(0.25)
        with urllib.request.urlopen(f"{comfy.url}/history/{name}") as answer:
            found = json.loads(answer.read()).get(name)
        if found:
            stamps = {kind: data["timestamp"] for kind, data in found["status"]["messages"] if "timestamp" in data}
            return (stamps["execution_success"] - stamps["execution_start"]) / 1000


def forget(comfy: ComfyServer) -> None:
    """Let the next prompt run again although it is the same; models stay loaded."""
    body = json.dumps({"free_memory": True, "unload_models": False}).encode()
    request = urllib.request.Request(f"{comfy.url}/free", body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request).close()
    time.sleep(1.0)


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        executable = str(located().chromium)
        yield playwright.chromium.launch(executable_path=executable, headless=True, args=CHROMIUM_ARGUMENTS)


@contextlib.contextmanager
def pages(chromium: Any, comfy: ComfyServer, count: int) -> Iterator[None]:
    """So many pages with the demo's graph."""
    context = chromium.new_context(viewport={"width": 1400, "height": 900})
    for _ in range(count):
        Stage.open(chromium, comfy, "bench", False, context).graph()
    yield
    context.close()
    time.sleep(1.0)


@contextlib.contextmanager
def clients(comfy: ComfyServer, names: list[str], reads: bool = True) -> Iterator[None]:
    """Websockets under these names, which take previews as a page does."""
    opened = [websocket.create_connection(f"ws://{comfy.address}/ws?clientId={name}") for name in names]
    for connection in opened:
        connection.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))
    for connection in opened if reads else ():
        threading.Thread(target=_drain, args=(connection,), daemon=True).start()
    yield
    for connection in opened:
        connection.close()
    time.sleep(1.0)


def _drain(connection: websocket.WebSocket) -> None:
    with contextlib.suppress(websocket.WebSocketException, OSError):
        while connection.recv():
            pass


if __name__ == "__main__":
    raise SystemExit(main())
