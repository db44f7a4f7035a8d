"""The beginning of a SkyReels-V2 run, whichever node makes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ...motioncache_core.events import Event
from ...motioncache_core.plan import Plan
from ...motioncache_core.report import Report
from ...motioncache_core.trace import Trace
from .live_run import LiveRun, Node, live_run
from .model_support import attached_config
from .notify import notify
from .run_settings import active_cache, new_report
from .runs import listen
from .session import RunSettings, token_grid
from .thumbnails import latent_colours


@dataclass(frozen=True)
class SkyReelsRun:
    """A run that is about to begin.

    Args:
        settings: with the cache settings that act.
        report, trace: empty yet.
        live: to be entered around the run.
        heard: takes an event to all three.
    """

    settings: RunSettings
    report: Report
    trace: Trace
    live: LiveRun
    heard: Callable[[Event], None]


def new_run(
    node: Node,
    model: Any,
    plan: Plan,
    latent_size: tuple[int, int],
    settings: RunSettings,
    positive: Any = None,
) -> SkyReelsRun:
    """Take the cache settings from a MODEL, and tell the artist if they do not act.

    Args:
        node: that shows the run.
        latent_size: rows and columns.
        settings: of the run, but for the cache.
        positive: conditioning, for the prompt's length.
    """
    config = attached_config(model.model_options)
    cache, inactive = active_cache(config, plan, model)
    if inactive is not None:
        notify(node.id, f"MotionCache is not active: {inactive}")
    report = new_report(plan, config, model, positive, inactive)
    trace = Trace(plan, *token_grid(*latent_size, model.model.diffusion_model.patch_size))
    live = live_run(node, plan, cache, trace, latent_colours(model.model.latent_format))
    return SkyReelsRun(replace(settings, cache=cache), report, trace, live, listen(report, trace, live))
