"""What a node that samples a whole video gives out when its run is over."""

from __future__ import annotations

import json
import logging
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...motioncache_core.report import Report
from ...motioncache_core.trace import Trace

Decisions = io.Custom("MOTIONCACHE_DECISIONS")

logger = logging.getLogger(__name__)


def run_outputs() -> list[io.Output]:
    """Outputs of such a node; :func:`finished_run` fills them."""
    return [
        io.Latent.Output(display_name="LATENT"),
        io.String.Output(display_name="report", tooltip="Everything that was computed and left out, as JSON."),
        io.String.Output(display_name="summary", tooltip="The report's totals in a few lines."),
        Decisions.Output(display_name="decisions"),
    ]


def finished_run(
    latents: Tensor, report: Report, trace: Trace, payload: dict[str, Any], *further: Any
) -> io.NodeOutput:
    """Log the totals of a run, show them on its node, and give everything out.

    Args:
        latents: ``[B, 16, F, h, w]`` of the video, as VAEs take them.
        report, trace: of the run.
        payload: final state of its view.
        further: values of outputs behind those of :func:`run_outputs`.
    """
    summary = report.text()
    logger.info("MotionCache: %s", summary.replace("\n", " "))
    ui = {"text": [summary], "motioncache": [payload]}
    return io.NodeOutput({"samples": latents}, json.dumps(report.to_json()), summary, trace, *further, ui=ui)
