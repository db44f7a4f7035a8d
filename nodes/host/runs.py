"""What the sampler nodes of all families share: checks of the size, listeners, and one guider run a window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...motioncache_core.events import CallEvent, Event
from ...motioncache_core.report import Report
from ...motioncache_core.trace import Trace, TraceEntry
from .latents import SPATIAL, InputError, reencode_history
from .live_run import LiveRun
from .previews import PacedCallback
from .sampler import WindowSampler

PLACES = ["GPU", "CPU"]
"""Where keys and values of earlier chunks may lie."""


def check_size(width: int, height: int, divisor: int = SPATIAL) -> None:
    """Raise InputError for sides that are no multiples of ``divisor`` pixels."""
    for name, value in (("width", width), ("height", height)):
        if value % divisor or value <= 0:
            nearest = max(1, round(value / divisor)) * divisor
            raise InputError(f"{name} is {value} pixels; it must be a multiple of {divisor} (nearest: {nearest})")


def listen(report: Report, trace: Trace, live: LiveRun) -> Callable[[Event], None]:
    """A listener that writes calls down in all three."""

    def heard(event: Event) -> None:
        entries: list[TraceEntry] = []
        if isinstance(event, CallEvent):
            report.add(event)
            entries = trace.add(event)
        live.hear(event, entries)

    return heard


def run_windows(session: Any, guider: Any, given: Tensor | None, vae: Any, make_callback: Any) -> None:
    """One guider run a window; VAE work happens between them, with ComfyUI's usual memory management.

    Args:
        session: of any family.
        given: ``[B, 16, f, h, w]`` VAE latents that the video begins with.
        vae: encodes the history of later windows again, ``None``: they go on from latents.
        make_callback: ``latent_preview.prepare_callback``.
    """
    plan, model = session.plan, guider.model_patcher.model
    callback = PacedCallback(make_callback(guider.model_patcher, len(plan.calls)))
    sigmas = torch.tensor(plan.sigmas)
    for window in plan.windows:
        frames = None
        if window.index == 0 and given is not None:
            frames = model.process_latent_in(given.float()).to(session.state.video.device)
        elif window.index > 0 and vae is not None:
            frames = reencode_history(vae, model, session.state.window, window.context)
        batch, channels, _, height, width = session.state.video.shape
        empty = torch.zeros(batch, channels, window.frames, height, width)
        sampler = WindowSampler(session, window, frames)
        guider.sample(empty, empty, sampler, sigmas, callback=callback, seed=session.settings.seed)
