"""A report in pictures and in words: timeline, computed share of every step, time of every call."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .drawing import COLOURS, GREY, LIGHT, Canvas, Colour, text_width
from .plots import line_plot
from .report import sentence, work_sentence

WIDTH = 960
FULL, REUSED = COLOURS[4], COLOURS[0]
LEFT, TOP, BOTTOM, LANE = 100, 70, 34, 24
LETTERS = 16
"""Pixels of the smallest letters."""
PANEL_HEIGHT = 280
MOST_LANES_HEIGHT = 1200 - 2 * PANEL_HEIGHT - TOP - BOTTOM
"""Pixels for all chunks together: those of a long video have thinner bars."""
THIN = 7
"""Pixels of a chunk below which no gap is left between the chunks."""


def report_lines(report: dict[str, Any]) -> str:
    """The totals in a few lines for a person, each a sentence. What was reused is not called a speed-up."""
    s = report["summary"]
    steps = s.get("branch_steps", {})
    lines = [
        work_sentence(s["computed_fraction"]),
        f"{report['family']}, {report['sampling']}, cache: {s['cache']}; {report['latent_frames']} latent frames, "
        f"{report.get('steps', '?')} steps",
        f"{s.get('model_calls', len(report['calls']))} passes in {s['seconds']:.1f} s",
    ]
    if any(steps.values()):
        lines.append(f"branch steps: {steps['full']} full, {steps['partial']} partial, {steps['reused']} reused")
    by_chunk = report.get("seconds_by_chunk", {})
    if by_chunk:
        lines.append("seconds by chunk: " + ", ".join(f"{name}: {value:.1f}" for name, value in by_chunk.items()))
    if s.get("nothing_reused_because"):
        lines.append(f"nothing was reused: {s['nothing_reused_because']}")
    return "\n".join(map(sentence, lines + list(report.get("notes", []))))


def report_plot(report: dict[str, Any]) -> np.ndarray:
    """Timeline, computed share per step, seconds per call in ``[H, 960, 3]`` uint8, at most about 1200 high."""
    panels = [timeline_plot(report)]
    shares = _share_by_step(report)
    if shares:
        panels.append(
            line_plot(
                shares,
                title="Computed share of every step",
                x_label="step of the chunk",
                y_label="share computed",
                size=(WIDTH, PANEL_HEIGHT),
                letters=LETTERS,
            )
        )
    if report["calls"]:
        panels.append(
            line_plot(
                _seconds_by_call(report),
                title="Time of every call",
                x_label="call",
                y_label="seconds",
                size=(WIDTH, PANEL_HEIGHT),
                letters=LETTERS,
            )
        )
    return np.concatenate(panels)


def timeline_plot(report: dict[str, Any]) -> np.ndarray:
    """Chunks by rows of the run: height of the orange part is the computed share, blue was reused."""
    cells = _cells(report)
    lanes = {name: lane for lane, name in enumerate(dict.fromkeys(name for name, *_ in cells))}
    rows = max((row for _, row, _ in cells), default=0) + 1
    high = min(LANE, MOST_LANES_HEIGHT / max(len(lanes), 1))
    below = TOP + high * max(len(lanes), 1)
    canvas = Canvas(WIDTH, math.ceil(below) + BOTTOM)
    canvas.text((WIDTH / 2, 10), "What was computed: chunks by rows of the run", LETTERS + 5, anchor="ma")
    _legend(canvas)
    across = (WIDTH - LEFT - 16) / rows
    labelled = _every(LETTERS + 2, high)
    for name, lane in lanes.items():
        if lane % labelled == 0:
            canvas.text((LEFT - 8, TOP + high * (lane + 0.5)), f"chunk {name}", LETTERS, anchor="rm")
        if high >= THIN:
            canvas.rectangle(LEFT, TOP + high * (lane + 1) - 2, WIDTH - 16, TOP + high * (lane + 1) - 1, LIGHT)
    gap = 1 if across > 4 else 0
    bar = high - 4 * high / LANE if high >= THIN else high
    for name, row, share in cells:
        left, top = LEFT + row * across, TOP + lanes[name] * high
        _bar(canvas, left, top, max(across - gap, 0.7), bar, share)
    for row in range(0, rows, _every(text_width(str(rows), LETTERS) + 12, across)):
        canvas.text((LEFT + (row + 0.5) * across, below + 4), str(row), LETTERS, GREY, anchor="ma")
    return canvas.finish()


def _every(wanted: float, each: float) -> int:
    """Every how many things of ``each`` pixels a label of ``wanted`` pixels has room."""
    return next((n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if n * each >= wanted), 10_000)


def _bar(canvas: Canvas, left: float, top: float, width: float, height: float, share: float) -> None:
    split = top + height * (1.0 - share)
    if share < 1.0:
        canvas.rectangle(left, top, left + width, split, REUSED)
    if share > 0.0:
        canvas.rectangle(left, split, left + width, top + height, FULL)


def _legend(canvas: Canvas) -> None:
    left = float(LEFT)
    entries: tuple[tuple[str, Colour], ...] = (("computed (height: share of the tokens)", FULL), ("reused", REUSED))
    for words, colour in entries:
        canvas.rectangle(left, 43, left + 16, 57, colour)
        canvas.text((left + 23, 50), words, LETTERS, anchor="lm")
        left += 23 + text_width(words, LETTERS) + 40


def _cells(report: dict[str, Any]) -> list[tuple[str, int, float]]:
    """(chunk, row of the run, computed share) of every step of every chunk."""
    offsets: dict[int, int] = {}
    cells, before, window_rows = [], 0, 0
    for call in report["calls"]:
        if call["window"] not in offsets:
            before += window_rows
            window_rows = 0
            offsets[call["window"]] = before
        window_rows = max(window_rows, call["row"] + 1)
        if call["kind"] == "denoise":
            share = call["computed"] / call["total"] if call["total"] else 1.0
            cells += [(name, before + call["row"], share) for name in call["chunks"] if not name.startswith("context")]
    return cells


def _share_by_step(report: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """Per chunk (one chunk a call) the computed share of its steps; where calls hold several, of the run's rows."""
    series: dict[str, list[tuple[float, float]]] = {}
    for call in report["calls"]:
        if call["kind"] == "denoise" and call["total"]:
            name = f"chunk {call['chunks'][0]}" if len(call["chunks"]) == 1 else f"window {call['window']}"
            series.setdefault(name, []).append((float(call["step"]), call["computed"] / call["total"]))
    if len(series) <= 7:
        return series
    by_step: dict[float, list[float]] = {}
    for values in series.values():
        for step, share in values:
            by_step.setdefault(step, []).append(share)
    return {f"mean of {len(series)} chunks": [(step, sum(v) / len(v)) for step, v in sorted(by_step.items())]}


def _seconds_by_call(report: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
    kinds = {"denoise": "steps", "context": "given frames", "refresh": "clean refresh"}
    series: dict[str, list[tuple[float, float]]] = {}
    for number, call in enumerate(report["calls"]):
        series.setdefault(kinds.get(call["kind"], call["kind"]), []).append((float(number), call["seconds"]))
    return series
