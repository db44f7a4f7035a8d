"""Pictures for the pages of the samplers: plans as the view draws them, and runs where the plan does not tell all.

``tools.bench.harness.pack.load`` comes before this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from motioncache.motioncache_core.drawing import COLOURS, GREY, LIGHT, Canvas, text_width

from .cache_knobs import VANILLA
from .panels import FRAME, SIDE, difference, frame, planned, timeline
from .runs import REENCODED, Made, Runs
from .sheet import GAP, MARGIN, WIDTH, WORDS, Cell, Sheet, Timeline

AUTOREGRESSIVE, MAGI1 = "MotionCacheAutoregressiveSampler", "MotionCacheMagi1Sampler"
PLAN: dict[str, Any] = {"frames": 97, "steps": 20}
MAGI1_PLAN: dict[str, Any] = {"frames": 96, "steps": 16, "guidance": "one pass (distilled)"}
INSTANTS = (20, FRAME)


def plans(node: str, rows: Sequence[tuple[str, dict[str, Any]]], lane: float, note: str = "") -> np.ndarray:
    """Plans below each other, all on the scale of the longest.

    Args:
        rows: (words, inputs of the sampler).
        lane: pixels of a chunk's line.
    """
    drawn = [(words, planned(node, None, **inputs)) for words, inputs in rows]
    columns = max(plan.columns for _, plan in drawn)
    sheet = Sheet()
    for words, plan in drawn:
        sheet.line(words, f"{plan.lanes} chunks, {plan.columns} rows")
        sheet.timeline(replace(plan, columns=columns), lane)
    if note:
        sheet.note(note)
    return sheet.finish()


def chunk_size(runs: Runs) -> np.ndarray:
    rows = [(f"chunk_size {size}", {**PLAN, "chunk_size": size}) for size in (3, 5, 9)]
    return plans(AUTOREGRESSIVE, rows, 22)


def ar_step(runs: Runs) -> np.ndarray:
    rows = [(f"ar_step {step}", {**PLAN, "ar_step": step}) for step in (0, 5, 20)]
    return plans(AUTOREGRESSIVE, rows, 24)


def window(runs: Runs) -> np.ndarray:
    rows = [
        (f"window {size}, overlap {overlap}", {**PLAN, "window": size, "overlap": overlap})
        for size, overlap in ((97, 17), (57, 17), (57, 37))
    ]
    return plans(AUTOREGRESSIVE, rows, 24)


def attention(runs: Runs) -> np.ndarray:
    """Which chunks are passed, and what comes out."""
    sheet, reference = Sheet(), runs(attention=VANILLA)
    cheapest = runs().report["summary"]["flops"]
    for number, kind in enumerate(("chunk-wise", VANILLA, "vanilla full")):
        made = runs() if kind == "chunk-wise" else runs(attention=kind)
        seen = timeline(made)
        if kind != "chunk-wise":
            seen = replace(seen, cells=(*seen.cells, *_wasted(seen)))
        work = made.report["summary"]["flops"] / cheapest
        sheet.line(kind, f"{work:.1f} times the work of chunk-wise")
        names = (f"frame {FRAME}", "steps of 3 chunks") if number == 0 else ()
        sheet.strip((frame(made),), SIDE, names, seen)
    sheet.legend(phases=False, partly=False, reused=False, wasted=True)
    sheet.note(f"PSNR of chunk-wise to vanilla block-causal: {runs().psnr(reference):.0f} dB")
    return sheet.finish()


def _wasted(seen: Timeline) -> list[Cell]:
    busy = {(cell.lane, cell.column) for cell in seen.cells}
    every = ((lane, column) for lane in range(seen.lanes) for column in range(seen.columns))
    return [Cell(*place, wasted=True) for place in every if place not in busy]


def clean_refresh(runs: Runs) -> np.ndarray:
    """How near chunk-wise comes to vanilla block-causal."""
    sheet, reference = Sheet(), runs(attention=VANILLA)
    rows = [("off", runs()), ("on", runs(clean_refresh=True))]
    pictures = [frame(reference)] + [
        picture for _, made in rows for picture in (frame(made), difference(made, reference))
    ]
    names = ("vanilla", *(name for value, _ in rows for name in (f"refresh {value}", "difference")))
    sheet.strip(pictures, 134, names)
    for value, made in rows:
        calls = made.report["summary"]["model_calls"]
        near = made.psnr(reference)
        equal = " (equal)" if near >= 100 else ""
        sheet.note(f"{value}: {calls} passes, PSNR to vanilla {near:.0f} dB{equal}")
    return sheet.finish()


def columns(name: str, rows: Sequence[tuple[str, Made]], note: str = "", levels: bool = False) -> np.ndarray:
    """Runs beside each other at the same instants.

    Args:
        rows: (value in words, run).
        levels: draw at which noise levels the steps lie, below one instant.
    """
    sheet = Sheet()
    side = (WIDTH - 2 * MARGIN + GAP) // len(rows) - GAP
    for number, instant in enumerate(INSTANTS[:1] if levels else INSTANTS):
        names = [f"{name} {value}" for value, _ in rows] if number == 0 else ()
        sheet.strip([frame(made, instant) for _, made in rows], side, names)
    if levels:
        sheet.draw(len(rows) * 34 + 32, partial(_levels, rows))
    if note:
        sheet.note(note)
    return sheet.finish()


def _levels(rows: Sequence[tuple[str, Made]], canvas: Canvas, top: float) -> None:
    left, right = MARGIN + 116, WIDTH - MARGIN - 10
    for number, (value, made) in enumerate(rows):
        y = top + 16 + number * 34
        canvas.text((MARGIN, y), f"shift {value}", WORDS, anchor="lm")
        canvas.line([(left, y), (right, y)], LIGHT, 2)
        sigmas = [float(sigma) for sigma in made.trace.plan.sigmas]
        for sigma in sigmas:
            canvas.marker((left + (1 - sigma / max(sigmas)) * (right - left), y), "circle", COLOURS[1], 4.5)
    y = top + len(rows) * 34 + 2
    canvas.text((left, y), "only noise", WORDS - 2, GREY)
    canvas.text((right, y), "clean", WORDS - 2, GREY, anchor="ra")


def steps(runs: Runs) -> np.ndarray:
    rows = [(str(count), runs(steps=count, ar_step=min(5, count // 2))) for count in (2, 4, 10, 40)]
    near = ", ".join(f"{made.psnr(rows[-1][1]):.0f} dB for {value}" for value, made in rows[:-1])
    return columns("steps", rows, f"PSNR against 40 steps: {near}")


def guidance(runs: Runs) -> np.ndarray:
    rows = [(f"{value:g}", runs(guidance=value)) for value in (1.0, 2.0, 6.0)]
    return columns("guidance", rows)


def shift(runs: Runs) -> np.ndarray:
    rows = [(f"{value:g}", runs(shift=value)) for value in (1.0, 5.0, 15.0)]
    return columns("shift", rows, levels=True)


def history_noise(runs: Runs) -> np.ndarray:
    """Around the seam of two windows."""
    sheet = Sheet()
    shown = (36, 56, 60, 68, 80, 96)
    side = (WIDTH - 2 * MARGIN + GAP) // len(shown) - GAP
    names = [f"frame {number}" for number in shown]
    for number, value in enumerate((0, 20, 900)):
        made = runs(frames=97, window=57, overlap=17, history_noise=value)
        sheet.line(f"history_noise {value}")
        sheet.strip([frame(made, n) for n in shown], side, names if number == 0 else ())
    sheet.note("The second window is made from frame 57 on.")
    return sheet.finish()


def history(runs: Runs) -> np.ndarray:
    """What comes behind the seam of two windows, and a take without one."""
    sheet = Sheet()
    shown = (36, 56, 60, 68, 80, 96)
    side = (WIDTH - 2 * MARGIN + GAP) // len(shown) - GAP
    names = [f"frame {number}" for number in shown]
    for number, value in enumerate(("latents", REENCODED, "sliding window")):
        made = runs(frames=97, window=57, overlap=17, history=value)
        sheet.line(f"history {value}")
        sheet.strip([frame(made, n) for n in shown], side, names if number == 0 else ())
    sheet.note("The second window is made from frame 57 on; a sliding window has none.")
    return sheet.finish()


def solver(runs: Runs) -> np.ndarray:
    """Both with few steps and with many."""
    sheet, reference = Sheet(), runs(steps=40)
    counts = (4, 10, 20)
    side = (WIDTH - 2 * MARGIN + GAP) // len(counts) - GAP
    for number, name in enumerate(("unipc", "euler")):
        rows = [runs(steps=count, ar_step=min(5, count // 2), solver=name) for count in counts]
        sheet.line(name)
        sheet.strip([frame(made) for made in rows], side, [f"{n} steps" for n in counts] if number == 0 else ())
        near = ", ".join(f"{made.psnr(reference):.0f} dB" for made in rows)
        sheet.note(f"PSNR to unipc with 40 steps: {near}")
    return sheet.finish()


def kv_precision(runs: Runs) -> np.ndarray:
    sheet, reference = Sheet(), runs()
    made = runs(kv_precision="fp8_e4m3fn")
    half = runs(kv_precision="bfloat16")
    pictures = (frame(reference), frame(half), difference(half, reference), frame(made), difference(made, reference))
    sheet.strip(pictures, 134, ("float32", "bfloat16", "difference", "fp8", "difference"))
    sheet.note(f"PSNR to float32: bfloat16 {half.psnr(reference):.0f} dB, fp8 {made.psnr(reference):.0f} dB")
    return sheet.finish()


def magi1_window(runs: Runs) -> np.ndarray:
    rows = [(f"window {count}", {**MAGI1_PLAN, "window": count}) for count in (1, 2, 4)]
    return plans(MAGI1, rows, 26)


def magi1_steps(runs: Runs) -> np.ndarray:
    rows = [(f"steps {count}", {**MAGI1_PLAN, "steps": count}) for count in (8, 16, 32)]
    return plans(MAGI1, rows, 26)


def chunk_prompts(runs: Runs) -> np.ndarray:
    """Which prompt each chunk follows."""
    sheet, plan = Sheet(), planned(MAGI1, None, **MAGI1_PLAN)
    prompts = ("positive: a fox walks", "first_chunk 3: the fox jumps", "first_chunk 4: the fox sleeps")
    of_lane = (0, 0, 1, 2)

    def draw(canvas: Canvas, top: float) -> None:
        left = MARGIN + 116
        across = (WIDTH - MARGIN - left) / plan.columns
        for lane, begin in enumerate(plan.begins):
            y, x, colour = top + lane * 48, left + begin * across, COLOURS[(1, 0, 2)[of_lane[lane]]]
            canvas.rectangle(x, y, x + plan.steps * across, y + 42, LIGHT)
            canvas.rectangle(x, y, x + 7, y + 42, colour)
            canvas.text((MARGIN, y + 21), f"second {lane + 1}", WORDS, GREY, anchor="lm")
            words = prompts[of_lane[lane]]
            room = WIDTH - MARGIN - text_width(words, WORDS)
            canvas.text((min(x + 15, room), y + 21), words, WORDS, anchor="lm")

    sheet.draw(4 * 48 + 4, draw)
    return sheet.finish()


PICTURES: dict[str, Callable[[Runs], np.ndarray]] = {
    "chunk_size": chunk_size,
    "ar_step": ar_step,
    "window": window,
    "attention": attention,
    "clean_refresh": clean_refresh,
    "steps": steps,
    "guidance": guidance,
    "shift": shift,
    "history_noise": history_noise,
    "history": history,
    "solver": solver,
    "kv_precision": kv_precision,
    "magi1_window": magi1_window,
    "magi1_steps": magi1_steps,
    "chunk_prompts": chunk_prompts,
}
"""Name -> drawing."""
