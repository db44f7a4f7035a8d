"""Saving while decoding, in a real ComfyUI: the file beside the stock nodes' one, the VIDEO output, the stop button."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tools.host.server import ComfyServer, PromptFailedError, PromptInterruptedError

VAE = "tiny_world_wan_vae.safetensors"
WIDTH, HEIGHT = 96, 64


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def save_long(samples: list, **changes: Any) -> dict[str, Any]:
    inputs = {"samples": samples, "vae": ["vae", 0], "fps": 12.0, "filename_prefix": "video/long", "crf": 23}
    return node("MotionCacheSaveLongVideo", **(inputs | changes))


def flat(colour: int, frames: int) -> dict[str, Any]:
    return node("EmptyImage", width=WIDTH, height=HEIGHT, batch_size=frames, color=colour)


def empty_video(frames: int) -> dict[str, Any]:
    return node("EmptyHunyuanLatentVideo", width=WIDTH, height=HEIGHT, length=frames, batch_size=1)


def frames_of(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_the_file_is_that_of_the_stock_nodes_and_goes_on_as_video(comfy: ComfyServer) -> None:
    """A red scene cuts to a green one; one chain decodes at once and saves, ours does both bit by bit."""
    prompt = {
        "vae": node("VAELoader", vae_name=VAE),
        "red": flat(0xE04030, 9),
        "green": flat(0x30C060, 8),
        "scenes": node("ImageBatch", image1=["red", 0], image2=["green", 0]),
        "latent": node("VAEEncode", pixels=["scenes", 0], vae=["vae", 0]),
        "images": node("VAEDecode", samples=["latent", 0], vae=["vae", 0]),
        "video": node("CreateVideo", images=["images", 0], fps=12.0),
        "stock": node("SaveVideo", video=["video", 0], filename_prefix="video/stock", format="auto", codec="auto"),
        "ours": save_long(["latent", 0]),
        "again": node("SaveVideo", video=["ours", 0], filename_prefix="video/again", format="auto", codec="auto"),
    }
    run = comfy.run(prompt, timeout=900)
    (ours,), (stock,), (again,) = (run.files(key) for key in ("ours", "stock", "again"))
    assert ours.parent == comfy.base / "output" / "video"
    assert ours.name == "long_00001_.mp4"
    shown = frames_of(ours)
    assert shown.shape == (17, HEIGHT, WIDTH, 3)
    assert np.array_equal(shown, frames_of(stock))
    assert np.array_equal(shown, frames_of(again))
    red, green = shown[:8].mean(axis=(0, 1, 2)), shown[-6:].mean(axis=(0, 1, 2))
    assert red.argmax() == 0 and green.argmax() == 1
    assert run.outputs["ours"]["animated"] == [True] == run.outputs["stock"]["animated"]
    with av.open(str(ours)) as container:
        assert json.loads(container.metadata["prompt"])["ours"]["class_type"] == "MotionCacheSaveLongVideo"
    bar = [event["value"] for event in run.events("progress") if event["node"] == "ours"]
    assert bar == [3, 5]


def test_other_latents_are_refused_on_the_node(comfy: ComfyServer) -> None:
    prompt = {
        "vae": node("VAELoader", vae_name=VAE),
        "latent": node("EmptyLatentImage", width=WIDTH, height=HEIGHT, batch_size=1),
        "ours": save_long(["latent", 0]),
    }
    with pytest.raises(PromptFailedError, match=r"shape \[1, 4, 8, 12\]; a video is") as raised:
        comfy.run(prompt)
    assert raised.value.node_id == "ours"


def test_the_stop_button_leaves_a_video_that_plays(comfy: ComfyServer) -> None:
    prompt = {
        "vae": node("VAELoader", vae_name=VAE),
        "latent": empty_video(4001),
        "ours": save_long(["latent", 0], filename_prefix="stopped"),
    }
    seen = len(comfy.messages("progress"))
    prompt_id = comfy.queue(prompt)
    deadline = time.monotonic() + 120
    while not [m for m in comfy.messages("progress")[seen:] if m["data"]["prompt_id"] == prompt_id]:
        assert time.monotonic() < deadline, comfy.log(40)
        time.sleep(0.05)
    comfy.interrupt()
    with pytest.raises(PromptInterruptedError):
        comfy.wait(prompt_id)
    (partial,) = (comfy.base / "output").glob("stopped_*")
    assert partial.name == "stopped_00001_partial.mp4"
    frames = frames_of(partial)
    assert 9 <= len(frames) < 4001
    assert f"Stopped after {len(frames)} frames" in comfy.log()
    assert str(partial) in comfy.log()
