"""The runs that pages may ask for: those in work, and the last one of every node, as far as there is room."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .live_run import LiveRun

KEPT_RUNS = 64
KEPT_BYTES = 64 * 2**20
"""Of all runs on the board together; one run has at most about half as much."""


class Board:
    """Runs by graph and node. Where there are too many bytes the oldest lose their pictures first, then go as a whole.

    Args:
        most_runs, most_bytes: that are kept; runs in work stay in any case.
    """

    def __init__(self, most_runs: int = KEPT_RUNS, most_bytes: int = KEPT_BYTES) -> None:
        self._runs: OrderedDict[tuple[str, str], LiveRun] = OrderedDict()
        self._lock = threading.Lock()
        self._most_runs, self._most_bytes = most_runs, most_bytes

    def put(self, run: LiveRun) -> None:
        """Show a run in place of its node's last one."""
        with self._lock:
            key = run.state.workflow, run.state.node
            self._runs.pop(key, None)
            self._runs[key] = run
        self.fit()

    def fit(self) -> None:
        """Make room; to be called when a run has begun or ended."""
        with self._lock:
            over = [key for key, run in self._runs.items() if run.state.status != "running"]
            for key in over[: max(len(self._runs) - self._most_runs, 0)]:
                del self._runs[key]
            over = [key for key in over if key in self._runs]
            sizes = {key: run.sizes() for key, run in self._runs.items()}
            left = self._most_bytes - sum(map(sum, sizes.values()))
            for key in over:
                if left < 0:
                    left += sizes[key][0]
                    self._runs[key].drop_pictures()
            for key in over:
                if left < 0:
                    left += sizes[key][1]
                    del self._runs[key]

    def of_node(self, node: str, workflow: str | None = None) -> LiveRun | None:
        """The last run of a node.

        Args:
            workflow: of that graph, or of none; ``None``: of any.
        """
        with self._lock:
            fits = [graph for graph, id_ in self._runs if id_ == node and (workflow is None or graph in ("", workflow))]
            return self._runs[fits[-1], node] if fits else None

    def of_run(self, name: str) -> LiveRun | None:
        """A run by its name."""
        with self._lock:
            return next((run for run in self._runs.values() if run.state.run == name), None)


BOARD = Board()
