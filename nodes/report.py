"""A run's report for people: in words and as a plot."""

from __future__ import annotations

import torch
from comfy_api.latest import io, ui

from ..motioncache_core.report_plot import report_lines, report_plot
from ..motioncache_core.sweep import parse_report
from .host.versions import search_aliases


class MotionCacheReport(io.ComfyNode):
    """A sampler's report -> text, and a plot of timeline, computed share and times."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheReport",
            display_name="MotionCache report",
            category="MotionCache",
            description="What a run computed and left out, in words and as a plot.",
            inputs=[
                io.String.Input("report", force_input=True, tooltip="The report of the run, from the sampler."),
            ],
            outputs=[
                io.String.Output(display_name="text", tooltip="The totals in a few lines."),
                io.Image.Output(
                    display_name="plot", tooltip="Timeline, computed share of every step, time of every call."
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
            **search_aliases("cache statistics", "what was saved", "skipped steps", "timeline"),
        )

    @classmethod
    def execute(cls, report: str) -> io.NodeOutput:
        content = parse_report(report)
        text = report_lines(content)
        plot = torch.from_numpy(report_plot(content)).unsqueeze(0).float() / 255
        shown = ui.PreviewImage(plot, cls=cls).as_dict()
        return io.NodeOutput(text, plot, ui={**shown, "text": [text]})


NODES = [MotionCacheReport]
