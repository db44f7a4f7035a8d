"""Shows a run while it goes: keeps its state, and sends what changed to every open page from a thread of its own.

The sampling thread only writes down what happened. Encoding and sending are the sender's, at most ``1 / INTERVAL``
times a second, and left out while no page is open or while the server has not got rid of earlier messages. A run's
state dies with it, but for the last finished state of a few nodes, which the route serves to pages that come later.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ...motioncache_core.config import CacheConfig
from ...motioncache_core.events import CallEvent, ChunkEvent, Event
from ...motioncache_core.live import LiveState, Status
from ...motioncache_core.plan import Plan
from ...motioncache_core.trace import Trace, TraceEntry
from .thumbnails import Colours, Thumbnails

EVENT = "motioncache.live"
INTERVAL = 0.1
THUMBNAIL_INTERVAL = 0.5
"""Seconds between pictures of the chunk in work."""
MOST_WAITING = 64
"""Messages that the server still has to send, above which a page is slow and ours wait."""
PAYLOAD_BYTES = 200_000
"""Pictures that go into the node's ui payload, and so into the history."""
THUMBNAIL_BYTES = 16 * 2**20
KEPT_RUNS = 6

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
        self._lock = threading.Lock()
        self._work: tuple[list[tuple[int, int, int]], Tensor] | None = None
        self._clean: deque[tuple[int, Tensor]] = deque()
        self._told: dict[int, int] = {}
        self._sent = 0
        self._next_thumbnail = 0.0
        self._wake, self._end = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> LiveRun:
        if self.state.node:
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
            return {**self.state.snapshot(), "thumbnails": self._versions()}

    def pictures(self, lane: int) -> list[dict[str, Any]]:
        """Pictures of a chunk's steps."""
        with self._lock:
            return self.state.pictures(lane)

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
            if self.state.seq == self._sent and self._sent and not last:
                return
            change = self.state.since(self._sent)
            if change["cells"]:
                lane, step, *_ = change["cells"][-1]
                change["picture"] = [lane, self.state.picture(lane, step)]
            versions = self._versions()
            change["thumbnails"] = [entry for entry in versions if self._told.get(entry[0]) != entry[1]]
            self._told = {entry[0]: entry[1] for entry in versions}
            self._sent = self.state.seq
        server.send_sync(EVENT, change)


def live_run(
    node: str | None, kind: str, plan: Plan, config: CacheConfig | None, trace: Trace, colours: Colours | None
) -> LiveRun:
    """A run that begins.

    Args:
        node: id of the node that shows it, ``None`` outside of a running graph.
        kind: class of that node.
        plan, config, trace: of the run.
        colours: for pictures of latents.
    """
    name = uuid.uuid4().hex[:12]
    return LiveRun(LiveState(plan, config, trace.rows, trace.columns, name, node or "", kind), colours)


def pages_open() -> bool:
    """Whether anything is connected to the server's websocket."""
    server = prompt_server()
    return server is not None and bool(server.sockets)


class Board:
    """The runs that pages may ask for: those in work, and the last one of a few nodes."""

    def __init__(self) -> None:
        self._runs: OrderedDict[str, LiveRun] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, run: LiveRun) -> None:
        """Show a run in place of its node's last one."""
        with self._lock:
            self._runs.pop(run.state.node, None)
            self._runs[run.state.node] = run
            for node in [n for n, r in self._runs.items() if r.state.status != "running"]:
                if len(self._runs) > KEPT_RUNS:
                    del self._runs[node]

    def of_node(self, node: str) -> LiveRun | None:
        """The last run of a node."""
        with self._lock:
            return self._runs.get(node)

    def of_run(self, name: str) -> LiveRun | None:
        """A run by its name."""
        with self._lock:
            return next((run for run in self._runs.values() if run.state.run == name), None)


BOARD = Board()
