"""The picture of a report: where bars lie, how large it may grow, and that its letters can be read."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch

from motioncache_core import report_plot as module
from motioncache_core.config import CacheConfig
from motioncache_core.drawing import Canvas
from motioncache_core.events import CallEvent, Decision, Pass
from motioncache_core.flops import TransformerSize
from motioncache_core.models.skyreels_v2.plan import SamplingSettings, build_plan
from motioncache_core.report import Report
from motioncache_core.report_plot import FULL, REUSED, report_plot, timeline_plot

SIZE = TransformerSize(width=2, ffn_width=3, layers=5, patch_values=4, text_tokens=7, text_width=11)
ROLE = ("positive", 0, 0)


def report_of(chunks: int, steps: int = 6) -> dict[str, Any]:
    """Even steps are computed, odd ones reused; the last chunk reuses nothing."""
    settings = SamplingSettings(
        frames=4 * (2 * chunks - 1) + 1, steps=steps, ar_step=2, chunk_frames=2, window_frames=29, sliding=True
    )
    plan = build_plan(settings)
    report = Report(plan, CacheConfig(), SIZE)
    for call in plan.calls:
        (part,) = call.parts
        done = 12 if part.step % 2 == 0 or part.chunk == chunks - 1 else 0
        decision = Decision(ROLE, part.chunk, part.step, "token", 12, done, distance=0.1)
        report.add(CallEvent(call, (Pass(ROLE, done, 12, 1.0),), (decision,), 0.1, torch.empty(0)))
    return report.to_json()


def letters_of(monkeypatch: pytest.MonkeyPatch, report: dict[str, Any]) -> list[tuple[tuple[float, float], str, int]]:
    """(spot, text, size) of everything that is written."""
    written = []
    write = Canvas.text

    def text(self: Canvas, spot: Any, words: str, size: int = 14, *more: Any, **named: Any) -> None:
        written.append((spot, words, size))
        write(self, spot, words, size, *more, **named)

    monkeypatch.setattr(Canvas, "text", text)
    report_plot(report)
    return written


@pytest.mark.parametrize("chunks", [1, 3, 40, 600])
def test_the_picture_stays_small_and_every_letter_readable(monkeypatch: pytest.MonkeyPatch, chunks: int) -> None:
    report = report_of(chunks)
    picture = report_plot(report)
    assert picture.shape[1:] == (960, 3) and picture.shape[0] <= 1200
    written = letters_of(monkeypatch, report)
    assert min(size for _, _, size in written) >= 16
    names = [(spot, words) for spot, words, _ in written if words.startswith("chunk ") and spot[0] == module.LEFT - 8]
    assert names[0][1] == "chunk 0"
    heights = [spot[1] for spot, _ in names]
    assert all(later - earlier >= 16 for earlier, later in zip(heights, heights[1:], strict=False)), "not on each other"


@pytest.mark.parametrize("chunks", [3, 40, 300])
def test_bars_lie_where_the_report_says(chunks: int) -> None:
    steps = 6
    picture = timeline_plot(report_of(chunks, steps)).astype(int)
    high = min(module.LANE, module.MOST_LANES_HEIGHT / chunks)
    across = (960 - module.LEFT - 16) / ((chunks - 1) * 2 + steps)
    seen = set()
    for chunk in {0, chunks // 2, chunks - 1}:
        for step in range(steps):
            x = int(module.LEFT + (2 * chunk + step + 0.4) * across)
            y = int(module.TOP + (chunk + 0.4) * high)
            expected = FULL if step % 2 == 0 or chunk == chunks - 1 else REUSED
            if across >= 2:
                assert np.abs(picture[y, x] - expected).max() < 40, (chunk, step)
                seen.add(expected)
    colours = {tuple(c) for c in picture.reshape(-1, 3).tolist()}
    assert {FULL, REUSED} <= (seen or colours)


def test_a_report_of_600_chunks_is_drawn_in_seconds(record_property: Any) -> None:
    report = report_of(600, 20)
    begun = time.process_time()
    report_plot(report)
    seconds = time.process_time() - begun
    record_property("ms for 600 chunks of 20 steps", round(1000 * seconds))
    assert seconds < 20
