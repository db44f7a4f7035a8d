"""Pictures for the pages of the nodes that show, judge and save runs: what they put out.

Plots are drawn anew for the side bar, narrow and with large letters, from what the nodes plot.
``tools.bench.harness.pack.load`` comes before this module.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from motioncache.motioncache_core.plots import line_plot, pareto_plot
from motioncache.motioncache_core.quality import psnr, ssim
from motioncache.motioncache_core.side_by_side import heat
from motioncache.motioncache_core.sweep import plot_series, read_run, references
from motioncache.nodes.host.video_file import VideoFile
from motioncache.nodes.preview import MotionCacheDecisionMask, MotionCacheMotionMaskPreview
from torch import Tensor

from .cache_knobs import FAST, QUALITY
from .panels import FRAME, frame, timeline
from .runs import BALANCED, Made, Runs, knobs
from .sheet import GAP, MARGIN, WIDTH, Sheet

SHOWN = (8, 20, 32, 45, 56)
SHARE, ONE = "share of steps recomputed", "one step"
STEP = 18
PLOT, SCALE = (WIDTH - 2 * MARGIN) // 2, 2
"""Width of a plot in units of its letters: those of a plot as wide as the side bar, here twice as fine."""
SIDE = (WIDTH - 2 * MARGIN + GAP) // len(SHOWN) - GAP


def demo(runs: Runs) -> Made:
    """The run that the pictures show, in which still tokens wait for long."""
    return runs(knobs(motion_floor=0.0))


def rows(sheet: Sheet, pictures: Tensor | np.ndarray, words: str, smooth: bool = True) -> None:
    """Some frames of a video or of masks below their name."""
    if isinstance(pictures, Tensor):
        pictures = (pictures.clamp(0, 1) * 255).round().byte().numpy()
    if pictures.ndim == 3:
        pictures = pictures[..., None].repeat(3, axis=-1)
    sheet.line(words, size=25)
    sheet.strip([pictures[number] for number in SHOWN], SIDE, smooth=smooth)


def motion_mask_preview(runs: Runs) -> np.ndarray:
    """Its three outputs, and both ways to show."""
    made, sheet = demo(runs), Sheet()
    share = MotionCacheMotionMaskPreview.execute(made.trace, SHARE, 0, 0.7, made.text, made.images).args
    step = MotionCacheMotionMaskPreview.execute(made.trace, ONE, STEP, 0.7, made.text, made.images).args
    rows(sheet, share[0], f"overlay, {SHARE}", smooth=False)
    rows(sheet, step[0], f"overlay, {ONE}: {STEP}", smooth=False)
    rows(sheet, step[1], f"MASK, {ONE}: {STEP}", smooth=False)
    rows(sheet, step[2], f"heat_map, {ONE}: {STEP}", smooth=False)
    return sheet.finish()


def decisions_as_mask(runs: Runs) -> np.ndarray:
    """Both ways to show."""
    made, sheet = demo(runs), Sheet()
    rows(sheet, made.frames, "the video")
    rows(sheet, MotionCacheDecisionMask.execute(made.trace, SHARE, 0).args[0], SHARE, smooth=False)
    rows(sheet, MotionCacheDecisionMask.execute(made.trace, ONE, STEP).args[0], f"{ONE}: {STEP}", smooth=False)
    return sheet.finish()


def report(runs: Runs) -> np.ndarray:
    """The three plots of a run."""
    made, sheet = demo(runs), Sheet()
    sheet.line("What was computed")
    sheet.timeline(timeline(made), lane=44)
    sheet.legend(phases=False)
    sheet.space()
    calls = made.report["calls"]
    shares: dict[str, list[tuple[float, float]]] = {}
    for call in calls:
        shares.setdefault(f"chunk {call['chunks'][0]}", []).append((call["step"], call["computed"] / call["total"]))
    seconds = {"steps": [(number, call["seconds"]) for number, call in enumerate(calls)]}
    for title, x_label, y_label, series in (
        ("Computed share of every step", "step of the chunk", "share computed", shares),
        ("Time of every call", "call", "seconds", seconds),
    ):
        plot = line_plot(series, title=title, x_label=x_label, y_label=y_label, size=(PLOT, 240), scale=SCALE)
        sheet.picture(plot)
    return sheet.finish()


def compare_videos(runs: Runs) -> np.ndarray:
    """Plots and worst frame of the fast preset."""
    sheet, reference, made = Sheet(), runs(), runs(knobs(FAST))
    ratios, alike = psnr(reference.images, made.images), ssim(reference.images, made.images)
    worst = int(ratios.argmin())
    for name, values in (("PSNR, dB", ratios), ("SSIM", alike)):
        title = f"{name.partition(',')[0]} of every frame"
        series = {name: list(enumerate(values.tolist()))}
        size = (PLOT, 230)
        plot = line_plot(series, title=title, x_label="frame", y_label=name, highlight=worst, size=size, scale=SCALE)
        sheet.picture(plot)
    sheet.line(f"The worst frame, {worst}")
    apart = np.abs(reference.frames[worst].astype(float) - made.frames[worst]).mean(axis=-1) / 255
    pictures = (frame(reference, worst), frame(made, worst), heat(apart / apart.max()))
    side = (WIDTH - 2 * MARGIN + GAP) // 3 - GAP
    sheet.strip(pictures, side, ("reference", "compared", f"difference, to {apart.max():.0%}"))
    return sheet.finish()


def sweep(runs: Runs) -> np.ndarray:
    """The presets as points."""
    reference, cost = runs(), "computed fraction"
    settings = {name.partition(" ")[0]: knobs(name) for name in (QUALITY, BALANCED, FAST)}
    settings |= {f"chunks, {value:g}": knobs(granularity="chunk", chunk_threshold=value) for value in (0.1, 0.25)}
    found = [read_run(reference.text, "without MotionCache", None)]
    for label, cache in settings.items():
        made = runs(cache)
        found.append(read_run(made.text, label, made.psnr(reference)))
    plot = pareto_plot(
        plot_series(found, cost),
        title=f"Quality over {cost}",
        x_label=cost,
        y_label="mean PSNR, dB",
        references=references(found, cost),
        size=(PLOT, 400),
        scale=SCALE,
    )
    sheet = Sheet()
    sheet.picture(plot)
    return sheet.finish()


def crf(runs: Runs) -> np.ndarray:
    """A frame of the file, enlarged, and the file's size."""
    sheet, made = Sheet(), runs()
    values = (0, 19, 30, 51)
    saved = [_through_file(made, value) for value in values]
    side = (WIDTH - 2 * MARGIN + GAP) // len(values) - GAP
    sheet.strip([frame for frame, _ in saved], side, [f"crf {value}" for value in values])
    sizes = ", ".join(f"{size / 1000:.0f}" for _, size in saved)
    sheet.note(f"The file: {sizes} kB")
    return sheet.finish()


def _through_file(made: Made, value: int) -> tuple[np.ndarray, int]:
    """(a part of a frame as the file has it, bytes of the file)."""
    height, width = made.frames.shape[1:3]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        file = VideoFile(path, width, height, 24.0, crf=value)
        file.write(made.images)
        file.close()
        with av.open(str(path)) as video:
            frames = [one.to_ndarray(format="rgb24") for one in video.decode(video=0)]
        return frames[FRAME], path.stat().st_size


PICTURES: dict[str, Callable[[Runs], np.ndarray]] = {
    "motion_mask_preview": motion_mask_preview,
    "decisions_as_mask": decisions_as_mask,
    "report": report,
    "compare_videos": compare_videos,
    "sweep": sweep,
    "crf": crf,
}
"""Name -> drawing."""
