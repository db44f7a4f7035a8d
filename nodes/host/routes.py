"""Routes of the page: the plan before a run, the state of a run, its pictures. They change nothing, write no file."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .board import BOARD
from .live_run import LiveRun, prompt_server

LONGEST_REQUEST = 64 * 1024
MARK = "motioncache_routes"
"""Attribute of the server that says that it has them."""

logger = logging.getLogger(__name__)


async def in_passing_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function that computes with torch in a thread that ends.

    Threads for torch's operations stay with the thread that asked for them. In one of asyncio's, which live on, they
    would slow sampling on a CPU for good.
    """
    with ThreadPoolExecutor(1, "motioncache-route") as pool:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)


async def read_at_most(content: Any, most: int) -> bytes | None:
    """A request's body, ``None`` if it is longer; its header may not tell, or tell something else.

    Args:
        content: the request's stream.
        most: bytes.
    """
    parts: list[bytes] = []
    while (part := await content.read(most + 1)) and sum(map(len, parts)) <= most:
        parts.append(part)
    body = b"".join(parts) + part
    return body if len(body) <= most else None


def register(drawn_plan: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
    """Add the routes to ComfyUI's server, where one runs.

    Args:
        drawn_plan: (request) -> drawing; raises ValueError for what cannot be drawn.
    """
    server = prompt_server()
    if server is None or hasattr(server, MARK):
        return
    setattr(server, MARK, True)
    answers = sys.modules["server"].web
    one_at_a_time = asyncio.Lock()
    """Several plans at once would take the cores from sampling."""

    def refused(sentence: str, status: int = 400) -> Any:
        return answers.json_response({"error": sentence}, status=status)

    def run_and_lane(request: Any) -> tuple[LiveRun, int] | None:
        run, lane = BOARD.of_run(request.query.get("run", "")), request.query.get("lane", "")
        known = run is not None and lane.isdecimal() and len(lane) < 6 and int(lane) < run.state.lane_count
        return (run, int(lane)) if known else None

    @server.routes.post("/motioncache/plan")
    async def plan(request: Any) -> Any:
        body = await read_at_most(request.content, LONGEST_REQUEST)
        if body is None:
            return refused(f"the request is longer than {LONGEST_REQUEST} bytes")
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            return refused("the request is no JSON")
        if not isinstance(asked, dict):
            return refused("the request must be a table of values")
        async with one_at_a_time:
            if request.transport is None or request.transport.is_closing():
                return refused("the page has asked for another plan since")
            try:
                return answers.json_response(await in_passing_thread(drawn_plan, asked))
            except (ValueError, OSError) as error:
                return refused(str(error))

    @server.routes.get("/motioncache/state")
    async def state(request: Any) -> Any:
        run = BOARD.of_node(request.query.get("node", ""), request.query.get("workflow"))
        return answers.json_response({"state": None if run is None else run.snapshot()})

    @server.routes.get("/motioncache/pictures")
    async def pictures(request: Any) -> Any:
        found = run_and_lane(request)
        if found is None:
            return refused("there is no such run or chunk (any more)", 404)
        run, lane = found
        return answers.json_response({"pictures": await asyncio.to_thread(run.pictures, lane)})

    @server.routes.get("/motioncache/thumbnails")
    async def thumbnails(request: Any) -> Any:
        found = run_and_lane(request)
        shown = found[0].thumbnails.get(found[1]) if found else None
        if shown is None:
            return refused("there is no such picture (any more)", 404)
        return answers.Response(body=await asyncio.to_thread(shown.to_png), content_type="image/png")
