"""Judging runs: two videos against each other, and quality over cost of several runs."""

from __future__ import annotations

from dataclasses import dataclass

import comfy.utils
import numpy as np
import torch
from comfy_api.latest import io
from torch import Tensor

from ..motioncache_core.plots import line_plot, pareto_plot
from ..motioncache_core.quality import frame_groups, mean_psnr, psnr, ssim
from ..motioncache_core.side_by_side import heat, side_by_side
from ..motioncache_core.sweep import COSTS, Run, plot_series, read_run, references, table
from .host.checked_inputs import checked_inputs, wrong_value
from .host.latents import InputError
from .host.notify import show
from .host.versions import advanced

Sweep = io.Custom("MOTIONCACHE_SWEEP")
PANEL = (960, 330)
"""Width and height of the plot of one measure."""


@dataclass(frozen=True)
class Comparison:
    """Two videos of the same length, frame by frame: ``[F]`` values, NaN where a mask leaves nothing to judge."""

    psnr: Tensor
    ssim: Tensor
    mean_psnr: float

    @property
    def mean_ssim(self) -> float:
        return float(self.ssim.nanmean())

    @property
    def worst(self) -> int:
        """Frame with the lowest PSNR, the first of several."""
        return int(self.psnr.nan_to_num(nan=torch.inf).argmin())


class MotionCacheCompareVideos(io.ComfyNode):
    """Two IMAGE batches -> PSNR and SSIM, drawn and as numbers, and the worst frame."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheCompareVideos",
            display_name="Compare videos",
            category="MotionCache",
            description=(
                "How much does a video differ from another of the same size? PSNR and SSIM of every frame, and the "
                "worst frame side by side."
            ),
            inputs=[
                io.Image.Input("reference", tooltip="The video to measure against, such as a run without MotionCache."),
                io.Image.Input("compared", tooltip="The video to judge: same prompt, seed and size, other settings."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White where the picture is judged; one mask, or one a frame. Without: everywhere.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="plot", tooltip="PSNR and SSIM of every frame."),
                io.Image.Output(
                    display_name="worst_frame", tooltip="Reference, compared and difference, where PSNR is lowest."
                ),
                io.Float.Output(display_name="mean_psnr", tooltip="In dB, 100 at most; higher is more alike."),
                io.Float.Output(display_name="mean_ssim", tooltip="1 is equal; higher is more alike."),
                io.String.Output(display_name="summary"),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, reference: Tensor, compared: Tensor, mask: Tensor | None = None) -> io.NodeOutput:
        lengths = reference.shape[0], compared.shape[0]
        reference, compared = _common_part(reference, compared)
        mask = None if mask is None else _fitting(mask, reference)
        found = _compare(reference, compared, mask)
        summary = _in_words(found, lengths, mask is not None)
        show(cls.hidden.unique_id if cls.hidden is not None else None, summary)
        plot, worst = _plot(found), _worst_frame(reference, compared, mask, found.worst)
        return io.NodeOutput(
            _as_image(plot), _as_image(worst), found.mean_psnr, found.mean_ssim, summary, ui={"text": [summary]}
        )


class MotionCacheSweep(io.ComfyNode):
    """One run's report and quality, added to those before it -> a Pareto plot and a table."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheSweep",
            display_name="MotionCache sweep",
            category="MotionCache",
            description=(
                "Quality over cost of several runs: one of these nodes a run, each connected to the one before. Plot "
                "and table of the last show them all."
            ),
            inputs=[
                io.String.Input("report", force_input=True, tooltip="The report of the run, from the sampler."),
                io.String.Input("label", default="", tooltip="The run's name in plot and table; empty: its number."),
                io.Combo.Input("x_axis", options=list(COSTS), tooltip="What the runs cost: left is less."),
                io.String.Input(
                    "quality_name", default="mean PSNR, dB", tooltip="What 'quality' is; written at the upright axis."
                ),
                advanced(
                    io.Boolean.Input("log_x", default=False, tooltip="On: doubling the cost is the same step anywhere.")
                ),
                io.Float.Input(
                    "quality",
                    optional=True,
                    force_input=True,
                    tooltip="How good the run is (higher is better), such as mean_psnr of Compare videos. Leave it "
                    "open for the run that the others are compared with.",
                ),
                Sweep.Input("previous", optional=True, tooltip="The sweep so far; open for the first run."),
            ],
            outputs=[
                Sweep.Output(display_name="sweep"),
                io.Image.Output(display_name="plot", tooltip="Quality over cost; the best trades are ringed."),
                io.String.Output(display_name="table", tooltip="All runs, as Markdown."),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, x_axis: str | None) -> bool | str:
        """Refuse an unknown name when the graph is queued."""
        return wrong_value(cls, x_axis=x_axis) or True

    @classmethod
    def execute(
        cls,
        report: str,
        label: str,
        x_axis: str,
        quality_name: str,
        log_x: bool,
        quality: float | None = None,
        previous: tuple[Run, ...] = (),
    ) -> io.NodeOutput:
        checked_inputs(cls, {"x_axis": x_axis})
        name = label.strip() or ("reference" if quality is None else f"run {len(previous) + 1}")
        runs = (*previous, read_run(report, name, quality))
        plot = pareto_plot(
            plot_series(runs, x_axis),
            title=f"Quality over {x_axis}",
            x_label=x_axis,
            y_label=quality_name,
            log_x=log_x,
            references=references(runs, x_axis),
        )
        text = table(runs, x_axis, quality_name)
        return io.NodeOutput(runs, _as_image(plot), text, ui={"text": [text]})


def _common_part(reference: Tensor, compared: Tensor) -> tuple[Tensor, Tensor]:
    """The frames that both have, colours only."""
    sizes = [f"{video.shape[2]} x {video.shape[1]}" for video in (reference, compared)]
    if sizes[0] != sizes[1]:
        raise InputError(f"reference is {sizes[0]} and compared is {sizes[1]}; scale one of them to the other's size")
    frames = min(reference.shape[0], compared.shape[0])
    if frames == 0:
        raise InputError(f"reference has {reference.shape[0]} frames and compared has {compared.shape[0]}; 1 is needed")
    return reference[:frames, ..., :3], compared[:frames, ..., :3]


def _fitting(mask: Tensor, video: Tensor) -> Tensor:
    """One mask, or one for every frame of the common part, with something in it."""
    mask = mask.unsqueeze(0) if mask.ndim == 2 else mask
    frames, height, width = video.shape[:3]
    if mask.shape[1:] != (height, width):
        raise InputError(f"mask is {mask.shape[2]} x {mask.shape[1]} and the videos are {width} x {height}")
    if 1 < mask.shape[0] < frames:
        raise InputError(f"mask has {mask.shape[0]} frames; {frames} frames are compared (nearest: {frames}, or 1)")
    mask = mask[:frames].float().clamp(min=0)
    if not mask.any():
        raise InputError("mask is black everywhere; it must be white where the picture is judged")
    return mask


def _compare(reference: Tensor, compared: Tensor, mask: Tensor | None) -> Comparison:
    frames = reference.shape[0]
    progress = comfy.utils.ProgressBar(frames)  # its hook also stops the node when the queue is interrupted
    found: list[tuple[Tensor, Tensor]] = []
    for group in frame_groups(*reference.shape[:3]):
        weights = mask if mask is None or mask.shape[0] == 1 else mask[group]
        pair = reference[group], compared[group]
        found.append((psnr(*pair, weights), ssim(*pair, weights)))
        progress.update_absolute(group.stop)
    ratios, alike = (torch.cat(values) for values in zip(*found, strict=True))
    return Comparison(ratios, alike, mean_psnr(reference, compared, mask))


def _in_words(found: Comparison, lengths: tuple[int, int], masked: bool) -> str:
    worst, frames = found.worst, len(found.psnr)
    lines = [
        f"mean PSNR {found.mean_psnr:.2f} dB, mean SSIM {found.mean_ssim:.4f} over {frames} frames"
        + (", inside the mask" if masked else ""),
        f"worst frame {worst}: PSNR {found.psnr[worst]:.2f} dB, SSIM {found.ssim[worst]:.4f}",
    ]
    if float(found.psnr.nan_to_num(nan=torch.inf).min()) >= 100:
        lines[1:] = ["the videos are equal"]
    empty = int(found.psnr.isnan().sum())
    if empty:
        lines.append(f"frames left out because their mask is black: {empty}")
    if lengths[0] != lengths[1]:
        lines.append(
            f"reference has {lengths[0]} frames and compared has {lengths[1]}; the first {frames} were compared"
        )
    return "\n".join(lines)


def _plot(found: Comparison) -> np.ndarray:
    panels = (
        ("PSNR, dB", found.psnr, f"PSNR, mean {found.mean_psnr:.2f} dB"),
        ("SSIM", found.ssim, f"SSIM, mean {found.mean_ssim:.4f}"),
    )
    pictures = [
        line_plot(
            {name: list(enumerate(values.tolist()))},
            title=f"{title} (dashed: the worst frame, {found.worst})",
            x_label="frame",
            y_label=name,
            highlight=found.worst,
            size=PANEL,
        )
        for name, values, title in panels
    ]
    return np.concatenate(pictures)


def _worst_frame(reference: Tensor, compared: Tensor, mask: Tensor | None, frame: int) -> np.ndarray:
    pair = [video[frame].float().clamp(0, 1).cpu().numpy() for video in (reference, compared)]
    difference = np.abs(pair[0] - pair[1]).mean(axis=-1)
    if mask is not None:
        difference = difference * (mask[0 if mask.shape[0] == 1 else frame].cpu().numpy() > 0)
    largest = float(difference.max())
    pictures = [(picture * 255).round().astype(np.uint8) for picture in pair]
    return side_by_side(
        [
            (f"reference, frame {frame}", pictures[0]),
            (f"compared, frame {frame}", pictures[1]),
            (f"difference, brightest: {largest * 100:.2g} %", heat(difference / largest if largest else difference)),
        ]
    )


def _as_image(picture: np.ndarray) -> Tensor:
    """``[H, W, 3]`` uint8 -> IMAGE."""
    return torch.from_numpy(picture.astype(np.float32) / 255).unsqueeze(0)


NODES = [MotionCacheCompareVideos, MotionCacheSweep]
