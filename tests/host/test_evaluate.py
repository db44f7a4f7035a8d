"""Comparing and sweeping in a real ComfyUI: known pictures, and the shipped workflow with the tiny world's model."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tools.host.environment import REPO
from tools.host.server import ComfyServer, PromptFailedError, PromptRefusedError

SMALL = {"frames": 29, "window": 29, "steps": 8, "chunk_size": 4, "ar_step": 2}


def read_float(source: list) -> dict[str, Any]:
    return {"class_type": "PreviewAny", "inputs": {"source": source}}


def flat(grey: int, frames: int, width: int = 64) -> dict[str, Any]:
    size = {"width": width, "height": 48, "batch_size": frames, "color": grey * 0x010101}
    return {"class_type": "EmptyImage", "inputs": size}


def test_flat_pictures_of_known_difference(comfy: ComfyServer) -> None:
    prompt = {
        "a": flat(51, 4),
        "b": flat(102, 3),
        "mask": {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 64, "height": 48}},
        "compare": {
            "class_type": "MotionCacheCompareVideos",
            "inputs": {"reference": ["a", 0], "compared": ["b", 0], "mask": ["mask", 0]},
        },
        "psnr": read_float(["compare", 2]),
        "ssim": read_float(["compare", 3]),
        "plot": {"class_type": "PreviewImage", "inputs": {"images": ["compare", 0]}},
    }
    run = comfy.run(prompt)
    assert float(run.outputs["psnr"]["text"][0]) == pytest.approx(-20 * math.log10(0.2), abs=1e-4)
    luminance = (2 * 0.2 * 0.4 + 1e-4) / (0.2**2 + 0.4**2 + 1e-4)
    assert float(run.outputs["ssim"]["text"][0]) == pytest.approx(luminance, abs=1e-4)
    (words,) = run.outputs["compare"]["text"]
    assert "reference has 4 frames and compared has 3; the first 3 were compared" in words
    with Image.open(run.files("plot")[0]) as picture:
        assert picture.size == (960, 660)

    prompt["b"] = flat(102, 3, width=80)
    with pytest.raises(PromptFailedError, match="reference is 64 x 48 and compared is 80 x 48"):
        comfy.run(prompt)


def test_a_sweep_refuses_words_that_are_no_report(comfy: ComfyServer) -> None:
    sweep = {"report": ["words", 0], "label": "", "x_axis": "seconds", "quality_name": "PSNR", "log_x": False}
    prompt = {
        "words": {"class_type": "PrimitiveString", "inputs": {"value": "12 model calls"}},
        "sweep": {"class_type": "MotionCacheSweep", "inputs": sweep},
    }
    with pytest.raises(PromptFailedError, match="report is not a sampler's report .it begins '12 model calls'"):
        comfy.run(prompt)
    del sweep["report"]
    with pytest.raises(PromptRefusedError, match="report"):
        comfy.run(prompt)


def test_the_workflow_compares_and_sweeps_two_runs(comfy: ComfyServer) -> None:
    saved = json.loads((REPO / "workflows" / "Compare cache settings.json").read_text(encoding="utf-8"))
    prompt = comfy.convert(saved)
    titles = {node["_meta"]["title"]: key for key, node in prompt.items()}
    plain, cached = titles["Without MotionCache"], titles["With MotionCache"]
    for key in (plain, cached):
        prompt[key]["inputs"].update(SMALL)
    seeds = [prompt[key]["inputs"]["seed"] for key in (plain, cached)]
    assert seeds[0] == seeds[1]
    compare = titles["Compare videos"]
    prompt |= {"psnr": read_float([compare, 2]), "reports": read_float([cached, 1])}
    run = comfy.run(prompt, timeout=1200)

    psnr = float(run.outputs["psnr"]["text"][0])
    assert 20 < psnr < 100, "alike, but not equal"
    assert f"mean PSNR {psnr:.2f} dB" in run.outputs[compare]["text"][0]
    summary = json.loads(run.outputs["reports"]["text"][0])["summary"]
    table = run.outputs[titles["All runs"]]["text"][0]
    assert "| without MotionCache | no cache, chunk-wise | 1.000 |" in table
    costs = f"{summary['computed_fraction']:.3f} | {summary['flops'] / 1e12:.3g} | {summary['seconds']:.1f}"
    assert f"| MotionCache | token-level | {costs} | {psnr:.4g} | yes |" in table
    assert summary["computed_fraction"] < 1
    for title in ("Frame by frame", "Worst frame", "Quality over cost"):
        with Image.open(run.files(titles[title])[0]) as picture:
            assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 20, title
