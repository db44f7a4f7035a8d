"""The demo shows what it asks for: a sprite that moves as the prompt says over the right background, partly reused."""

from __future__ import annotations

import json

import av
import numpy as np
import pytest
from safetensors import safe_open

from tools.demo import WORKFLOW, Rendered, render
from tools.host.server import ComfyServer
from tools.tinyworld.world import Scene, measure, scenes

PROMPTS = WORKFLOW.parent.parent / "tiny_world" / "prompts"


@pytest.fixture(scope="module")
def demo(comfy: ComfyServer) -> Rendered:
    return render(comfy)


def asked_scene() -> Scene:
    """The scene of the prompt that the workflow loads, by the words saved with it."""
    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    node = next(n for n in workflow["nodes"] if n["type"] == "MotionCacheLoadPrompt" and n["title"] == "Prompt")
    with safe_open(PROMPTS / node["widgets_values"][0], "pt") as file:
        text = file.metadata()["text"]
    return next(scene for scene in scenes() if scene.text == text)


def test_the_video_shows_what_was_asked(demo: Rendered) -> None:
    with av.open(str(demo.video)) as video:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]) / 255.0
    assert len(frames) == 97
    seen = measure(frames.astype(np.float32), asked_scene())
    assert seen.direction_right, f"{seen.angle_error:.0f} degrees off"
    assert seen.colour_right
    assert seen.background_psnr >= 20.0


def test_the_report_tells_full_partial_and_reused_steps(demo: Rendered) -> None:
    summary = demo.report["summary"]
    assert 0.2 < summary["computed_fraction"] < 1.0
    assert all(summary["branch_steps"][outcome] > 0 for outcome in ("full", "partial", "reused"))
    assert summary["flops"] < summary["flops_without_reuse"]
    assert "% of the work was computed" in demo.summary
