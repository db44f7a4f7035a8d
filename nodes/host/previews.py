"""ComfyUI's own previews, a few a second and only where a page is open.

ComfyUI's callback colours, enlarges and encodes a picture in every step, for nobody too: about 3 ms on a CPU, nothing
beside an image model's step, but much beside the many short calls of a video made chunk by chunk. Progress is told in
every call.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import comfy.utils
from torch import Tensor

from .live_run import pages_open, prompt_server

Callback = Callable[[int, Tensor, Tensor, int], None]
"""(call, prediction of the clean latents, latents, calls of the run), as ``latent_preview.prepare_callback`` does."""
PREVIEW_INTERVAL = 0.5
"""Seconds between two previews."""


class PacedCallback:
    """A callback that passes on what is to be shown, and counts the other calls on the progress bar.

    Without a server every call is passed on: whoever runs the nodes in another way may want them all. So is the last
    call, as stock nodes take their output from it.

    Args:
        callback: ComfyUI's.
    """

    def __init__(self, callback: Callback):
        self._callback = callback
        self._bar: comfy.utils.ProgressBar | None = None
        self._next = 0.0

    def __call__(self, call: int, x0: Tensor, x: Tensor, total: int) -> None:
        self.tell(call, lambda: x0, x, total)

    def tell(self, call: int, x0: Callable[[], Tensor], x: Tensor, total: int) -> None:
        """As calling it, with latents that are only made to be shown."""
        if self._due(call, total):
            self._callback(call, x0(), x, total)
            return
        self._bar = self._bar or comfy.utils.ProgressBar(total)
        self._bar.update_absolute(call + 1, total)

    def _due(self, call: int, total: int) -> bool:
        if prompt_server() is None or call + 1 == total:
            return True
        now = time.monotonic()
        if now < self._next or not pages_open():
            return False
        self._next = now + PREVIEW_INTERVAL
        return True
