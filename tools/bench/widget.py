"""Whether watching slows a run: the demo's sampler with 0, 1 and 5 pages open, paired rounds, medians.

Pages are real Chromium pages with the demo's graph on this machine, so they take CPU time of their own from the run;
"clients" are websockets that only read, as a browser on another machine is to the server, and "stuck" one that never
reads. Times are ComfyUI's own, from the start of the prompt to its end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
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

Watchers = Callable[[], contextlib.AbstractContextManager[None]]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="dev.py bench widget", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="paired rounds")
    parser.add_argument("--steps", type=int, default=20, help="steps of every chunk")
    parser.add_argument("--pages", type=int, nargs="*", default=[1, 5], help="numbers of pages to compare with none")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as base, ComfyServer(Path(base)) as comfy, browser() as chromium:
        prompt = sampler_alone(comfy, options.steps)
        kinds: dict[str, Watchers] = {
            "0 pages": contextlib.nullcontext,
            **{f"{n} page{'s' * (n > 1)}": partial(pages, chromium, comfy, n) for n in options.pages},
            "5 clients": lambda: clients(comfy, 5),
            "1 stuck client": lambda: clients(comfy, 1, reads=False),
        }
        comfy.run(prompt(0))  # loads the model
        comfy.leave()
        seconds: dict[str, list[float]] = {name: [] for name in kinds}
        for round_ in range(options.rounds):
            order = list(kinds)[round_ % len(kinds) :] + list(kinds)[: round_ % len(kinds)]
            for name in order:
                with kinds[name]():
                    seconds[name].append(timed(comfy, prompt(1000 + round_)))
                    print(f"round {round_ + 1}, {name}: {seconds[name][-1]:.2f} s", flush=True)
                forget(comfy)
    print(f"\nmedians of {options.rounds} paired rounds; one round has the same seed for all")
    print("| watched by | seconds (smallest–largest) | over 0 pages, median of pairs |")
    print("| --- | --- | --- |")
    for name, values in seconds.items():
        pairs = [value / alone - 1 for value, alone in zip(values, seconds["0 pages"], strict=True)]
        spread = f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"
        print(f"| {name} | {spread} | {100 * statistics.median(pairs):+.1f} % |")
    return 0


def sampler_alone(comfy: ComfyServer, steps: int) -> Callable[[int], dict[str, Any]]:
    """The demo up to its sampler, for a seed."""
    whole = comfy.convert(json.loads(DEMO.read_text(encoding="utf-8")))
    sampler = next(key for key, node in whole.items() if node["class_type"] == "MotionCacheAutoregressiveSampler")
    kept = {key: node for key, node in whole.items() if node["class_type"].startswith(("MotionCache", "VAELoader"))}
    kept = {key: node for key, node in kept.items() if node["class_type"] != "MotionCacheDecisionMask"}
    kept["shown"] = {"class_type": "PreviewAny", "inputs": {"source": [sampler, 2]}}

    def prompt(seed: int) -> dict[str, Any]:
        changed = json.loads(json.dumps(kept))
        changed[sampler]["inputs"] |= {"seed": seed, "steps": steps}
        return changed

    return prompt


def timed(comfy: ComfyServer, prompt: dict[str, Any]) -> float:
    """Run without listening and return the seconds that ComfyUI took."""
    body = json.dumps({"prompt": prompt, "client_id": "bench"}).encode()
    request = urllib.request.Request(f"{comfy.url}/prompt", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        name = json.loads(answer.read())["prompt_id"]
    while True:
        time.sleep(0.5)
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
def clients(comfy: ComfyServer, count: int, reads: bool = True) -> Iterator[None]:
    """So many websockets."""
    opened = [websocket.create_connection(f"ws://{comfy.address}/ws?clientId=c{n}") for n in range(count)]
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
