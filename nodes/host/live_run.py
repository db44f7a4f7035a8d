"""Shows a run while it goes: keeps its state, and sends what changed to every open page from a thread of its own.

The sampling thread only writes down what happened. Encoding and sending are the sender's, at most ``1 / INTERVAL``
times a second, and left out while no page is open or while the server has not got rid of earlier messages. A run's
state dies with it, but for the last finished states on the board, which the route serves to pages that come later.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from comfy_api.latest import io
from comfy_execution.utils import get_executing_context
from torch import Tensor

from ...motioncache_core.config import CacheConfig
from ...motioncache_core.events import CallEvent, ChunkEvent, Event
from ...motioncache_core.live import LiveState, Status
from ...motioncache_core.plan import Plan
from ...motioncache_core.trace import Trace, TraceEntry
from .board import BOARD
from .thumbnails import Colours, Thumbnails, decoder_chosen

EVENT = "motioncache.live"
INTERVAL = 0.1
THUMBNAIL_INTERVAL = 0.5
"""Seconds between pictures of the chunk in work."""
MOST_WAITING = 64
"""Messages that the server still has to send, above which a page is slow and ours wait."""
PAYLOAD_BYTES = 200_000
"""Pictures that go into the node's ui payload, and so into the history."""
THUMBNAIL_BYTES = 16 * 2**20
CELL_BYTES = 600
"""About what a chunk's step takes in the state of a run."""
LONGEST_ID = 100
NO_ID = "00000000-0000-0000-0000-000000000000"
"""What older front ends call a graph that was made by hand and has not been saved."""

logger = logging.getLogger(__name__)


def prompt_server() -> Any | None:
    """ComfyUI's server where one runs; it is looked up, since importing it would start half of ComfyUI."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


class LiveRun:
    """One run's state and its sender; a context manager around the sampling.

    Args:
        state: of a run; without a node nothing is sent. One that is over can be put on the board as it is.
        colours: for pictures of latents.
    """

    def __init__(self, state: LiveState, colours: Colours | None = None):
        self.state = state
        self.thumbnails: dict[int, Thumbnails] = {}
        self._colours = colours
        self._decoded = decoder_chosen()
        self._lock = threading.Lock()
        self._work: tuple[list[tuple[int, int, int]], Tensor] | None = None
        self._clean: deque[tuple[int, Tensor]] = deque()
        self._told: dict[int, int] = {}
        self._sent = 0
        self._begun = False
        """Whether the pages were told of it."""
        self._next_thumbnail = 0.0
        self._wake, self._end = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> LiveRun:
        if self.state.node:
            self._sent = self.state.seq  # what is known already is asked for by the pages, whole
            BOARD.put(self)
            self._thread = threading.Thread(target=self._send_loop, name="motioncache-live", daemon=True)
            self._thread.start()
            self._wake.set()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        interrupted = comfy.model_management.InterruptProcessingException
        status: Status = "finished" if kind is None else "interrupted" if issubclass(kind, interrupted) else "failed"
        self.close(status, "" if status != "failed" else str(error)[:300])

    def close(self, status: Status, message: str = "") -> None:
        """The run is over; the last state is sent."""
        with self._lock:
            if self.state.status != "running":
                return
            self.state.finish(status, message)
        self._end.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)
        self._work, self._colours = None, None
        self._clean.clear()
        BOARD.fit()

    def put_finished(self) -> None:
        """Put a run that is over on the board, and let the pages ask for it."""
        BOARD.put(self)
        self._sent = self.state.seq
        self._send(last=True)

    def hear(self, event: Event, entries: Sequence[TraceEntry] = ()) -> None:
        """Take up an event, on the sampling thread. ``entries``: what the trace made of it."""
        with self._lock:
            if isinstance(event, CallEvent):
                self.state.add(event, entries)
                if self._colours is not None and time.monotonic() >= self._next_thumbnail:
                    self._work = self._places(event), event.x0
            elif isinstance(event, ChunkEvent) and self._colours is not None:
                lane = self.state.lane_at(event.window, event.chunk.place)
                if lane is not None:
                    self._clean.append((lane, event.latents))
        self._wake.set()

    def snapshot(self) -> dict[str, Any]:
        """The whole state but its pictures, as the route gives it."""
        with self._lock:
            return {**self.state.snapshot(), "thumbnails": self._versions(), "decoded": self._decoded}

    def pictures(self, lane: int) -> list[dict[str, Any]]:
        """Pictures of a chunk's steps."""
        with self._lock:
            return self.state.pictures(lane)

    def sizes(self) -> tuple[int, int]:
        """Bytes of the pictures (none while it runs: they are its trace's) and, about, of the cells."""
        with self._lock:
            over = self.state.status != "running"
            shown = sum(shown.frames.nbytes for shown in self.thumbnails.values())
            return shown + self.state.picture_bytes() if over else 0, CELL_BYTES * len(self.state.cells)

    def drop_pictures(self) -> None:
        """Keep only what the timeline shows."""
        with self._lock:
            self.state.forget_pictures(self.state.lane_count)
            self.thumbnails.clear()

    def payload(self) -> dict[str, Any]:
        """The final state for the node's ui values."""
        with self._lock:
            return {**self.state.complete(PAYLOAD_BYTES), "thumbnails": self._versions()}

    def show(self, lane: int, frames: Any, clean: bool = True) -> None:
        """Put pictures of a chunk in place of what it showed. ``frames``: ``[F, H, W, 3]`` uint8."""
        with self._lock:
            before = self.thumbnails.pop(lane, None)
            version = before.version + 1 if before else 1
            self.thumbnails[lane] = Thumbnails(frames, version, clean)
            while len(self.thumbnails) > 1 and sum(t.frames.nbytes for t in self.thumbnails.values()) > THUMBNAIL_BYTES:
                del self.thumbnails[next(iter(self.thumbnails))]

    def _versions(self) -> list[list[int]]:
        return [[lane, shown.version, int(shown.clean)] for lane, shown in sorted(self.thumbnails.items())]

    def _places(self, event: CallEvent) -> list[tuple[int, int, int]]:
        """(chunk, its frames in the call) of the parts that step."""
        call = event.call
        return [
            (self.state.lane_at(call.window, part.chunk), part.start - call.start, part.stop - call.start)
            for part in call.parts
            if part.step >= 0
        ]

    def _send_loop(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            last = self._end.is_set()
            try:
                self._picture_latents()
                self._send(last)
            except Exception:  # showing must never end what is shown
                logger.warning("MotionCache: the page could not be told of the run", exc_info=True)
            if last:
                return
            self._end.wait(INTERVAL)

    @torch.inference_mode()
    def _picture_latents(self) -> None:
        """Colour the chunk in work if somebody may look, and every chunk that has become clean."""
        with self._lock:
            work, self._work = self._work, None
            clean = list(self._clean)
            self._clean.clear()
        colours = self._colours
        if colours is None:
            return
        if work is not None and self.state.status == "running" and pages_open():
            self._next_thumbnail = time.monotonic() + THUMBNAIL_INTERVAL
            finished = {lane for lane, _ in clean} | {lane for lane, shown in self.thumbnails.items() if shown.clean}
            for lane, start, stop in work[0]:
                if lane not in finished:
                    self.show(lane, colours(work[1][:, :, start:stop]), clean=False)
        for lane, latents in clean:
            self.show(lane, colours(latents))

    def _send(self, last: bool) -> None:
        server = prompt_server()
        if not pages_open():
            self._sent = self.state.seq
            return
        if not last and server.messages.qsize() > MOST_WAITING:
            return
        with self._lock:
            if self.state.seq == self._sent and self._begun and not last:
                return
            self._begun = True
            change = self.state.since(self._sent)
            if change["cells"]:
                lane, step, *_ = change["cells"][-1]
                change["picture"] = [lane, self.state.picture(lane, step)]
            versions = self._versions()
            change["thumbnails"] = [entry for entry in versions if self._told.get(entry[0]) != entry[1]]
            self._told = {entry[0]: entry[1] for entry in versions}
            self._sent = self.state.seq
        change["decoded"] = self._decoded
        server.send_sync(EVENT, change)


@dataclass(frozen=True)
class Node:
    """The node that shows a run.

    Args:
        id: ``None`` outside of a running graph.
        kind: its class.
        workflow: id of the graph on the page that it runs from, since node ids are the same in many graphs; empty for
            prompts that came without one (sent by a script).
        prompt: id of the queued prompt that runs; empty outside of one.
    """

    id: str | None
    kind: str
    workflow: str = ""
    prompt: str = ""

    @classmethod
    def of(cls, hidden: Any, kind: str) -> Node:
        """A node of its class's ``hidden`` values: those that :data:`HIDDEN` asks for."""
        extra = getattr(hidden, "extra_pnginfo", None)
        graph = extra.get("workflow") if isinstance(extra, dict) else None
        found = graph.get("id") if isinstance(graph, dict) else None
        known = isinstance(found, str) and len(found) <= LONGEST_ID and found != NO_ID
        context = get_executing_context()
        prompt = context.prompt_id if context else ""
        return cls(getattr(hidden, "unique_id", None), kind, found if known else "", prompt)


HIDDEN = [io.Hidden.unique_id, io.Hidden.extra_pnginfo]
"""Of the schema of a node that shows a run."""


def live_run(
    node: Node,
    plan: Plan,
    config: CacheConfig | None,
    trace: Trace,
    colours: Colours | None,
    calls: int | None = None,
) -> LiveRun:
    """A run that begins.

    Args:
        node: that shows it.
        plan, config, trace: of the run.
        colours: for pictures of latents.
        calls: calls after which the node is done, ``None``: all of the plan.
    """
    name = uuid.uuid4().hex[:12]
    shown_by = node.id or "", node.kind, calls, node.workflow, node.prompt
    return LiveRun(LiveState(plan, config, trace.rows, trace.columns, name, *shown_by), colours)


def pages_open() -> bool:
    """Whether anything is connected to the server's websocket."""
    server = prompt_server()
    return server is not None and bool(server.sockets)
