"""Routes of the page: the plan before a run, the state of a run, its pictures. They change nothing, write no file."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any

from .live_run import BOARD, LiveRun, prompt_server

LONGEST_REQUEST = 64 * 1024
MARK = "motioncache_routes"
"""Attribute of the server that says that it has them."""

logger = logging.getLogger(__name__)


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

    def refused(sentence: str, status: int = 400) -> Any:
        return answers.json_response({"error": sentence}, status=status)

    def run_and_lane(request: Any) -> tuple[LiveRun, int] | None:
        run, lane = BOARD.of_run(request.query.get("run", "")), request.query.get("lane", "")
        known = run is not None and lane.isdecimal() and len(lane) < 6 and int(lane) < run.state.lane_count
        return (run, int(lane)) if known else None

    @server.routes.post("/motioncache/plan")
    async def plan(request: Any) -> Any:
        if (request.content_length or 0) > LONGEST_REQUEST:
            return refused(f"the request is longer than {LONGEST_REQUEST} bytes")
        try:
            asked = json.loads(await request.text())
        except (ValueError, RecursionError):
            return refused("the request is no JSON")
        if not isinstance(asked, dict):
            return refused("the request must be a table of values")
        try:
            return answers.json_response(await asyncio.to_thread(drawn_plan, asked))
        except (ValueError, OSError) as error:
            return refused(str(error))

    @server.routes.get("/motioncache/state")
    async def state(request: Any) -> Any:
        run = BOARD.of_node(request.query.get("node", ""))
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
