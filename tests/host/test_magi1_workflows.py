"""The shipped MAGI-1 workflows run in a real ComfyUI, with tiny files under the names that they ask for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tools import tiny_magi1
from tools.host.environment import REPO
from tools.host.server import ComfyServer, PromptFailedError, PromptRefusedError, Run
from tools.workflow_sources import MAGI1_MODEL, MAGI1_VAE

NAMES = ["MAGI-1 text to video", "MAGI-1 image to video", "MAGI-1 video to video"]
STORY = "MAGI-1 several prompts"
PROMPT = "test prompt for magi.safetensors"
SAMPLER = "MotionCacheMagi1Sampler"
SMALL = {"width": 64, "height": 48, "frames": 48, "steps": 8}


@pytest.fixture(scope="module")
def files(comfy: ComfyServer) -> ComfyServer:
    """Tiny checkpoints under real names, given frames, and an encoded prompt in place of the 9 GB text encoder."""
    models = comfy.base / "models"
    variant = models / "diffusion_models" / Path(MAGI1_MODEL).parts[0]
    tiny_magi1.write_official(variant, tiny_magi1.transformer(), distilled=True)
    tiny_magi1.write_vae(models / "vae" / MAGI1_VAE.split("/")[0])
    cond = torch.randn(1, 8, 4096, generator=torch.Generator().manual_seed(5)) * 0.2
    metadata = {"format": "motioncache_prompt", "version": "1", "text": "a test"}
    (models / "motioncache_prompts").mkdir(parents=True, exist_ok=True)
    save_file({"entries.0.cond": cond}, models / "motioncache_prompts" / PROMPT, metadata)
    frames = np.zeros((26, 48, 64, 3), dtype=np.uint8)
    for number, frame in enumerate(frames):
        frame[:, number : number + 20] = 200
    Image.fromarray(frames[0]).save(comfy.base / "input" / "example.png")
    with av.open(str(comfy.base / "input" / "example.mp4"), "w") as video:
        stream = video.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in frames:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        video.mux(stream.encode())
    return comfy


def prompt_of(comfy: ComfyServer, name: str, **changes: Any) -> dict[str, Any]:
    """The workflow as a prompt, its text encoder replaced by a saved prompt, its video made small."""
    prompt = comfy.convert(json.loads((REPO / "workflows" / f"{name}.json").read_text(encoding="utf-8")))
    for key, node in list(prompt.items()):
        if node["class_type"] == "MotionCacheMagi1TextEncode":
            prompt[key] = {"class_type": "MotionCacheLoadPrompt", "inputs": {"prompt_name": PROMPT}}
        elif node["class_type"] == "CLIPLoader":
            del prompt[key]
        elif node["class_type"] == SAMPLER:
            node["inputs"].update({**SMALL, **changes})
    return prompt


def report_of(comfy: ComfyServer, prompt: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    sampler = next(k for k, n in prompt.items() if n["class_type"] == SAMPLER)
    run = comfy.run({**prompt, "full": {"class_type": "PreviewAny", "inputs": {"source": [sampler, 1]}}})
    return run, json.loads("".join(run.outputs["full"]["text"]))


def frame_count(path: Path) -> int:
    with av.open(str(path)) as video:
        return sum(1 for _ in video.decode(video=0))


@pytest.mark.parametrize("name", NAMES)
def test_magi1_workflow_makes_a_video(files: ComfyServer, name: str) -> None:
    run, report = report_of(files, prompt_of(files, name))
    video = next(path for path in run.files() if path.suffix == ".mp4")
    assert frame_count(video) == SMALL["frames"] + (24 if "video to" in name else 0)
    assert report["family"] == "magi1" and report["summary"]["cache"] == "token"
    assert report["config"]["warmup_steps"] == 1, "scaled from 64 steps to 8"
    kinds = {call["kind"] for call in report["calls"]}
    assert kinds == {"denoise", "refresh"} | ({"context"} if "video to" in name else set())
    assert report["summary"]["computed_fraction"] <= 1.0
    phases = {branch["phase"] for call in report["calls"] for branch in call["branches"]}
    assert "token" in phases


def test_illegal_values_are_refused_when_the_graph_is_queued(files: ComfyServer) -> None:
    with pytest.raises(PromptRefusedError, match=r"steps is 12; .* a multiple of 16"):
        files.run(prompt_of(files, NAMES[0], steps=12, window=16))


def test_a_story_changes_its_prompt_while_it_goes_on(files: ComfyServer) -> None:
    """The shipped graph: a prompt for chunks 1 and 2, one for 3 and 4, one for the rest."""
    shipped = json.loads((REPO / "workflows" / f"{STORY}.json").read_text(encoding="utf-8"))
    texts = [node["widgets_values"][0] for node in shipped["nodes"] if node["type"] == "MotionCacheMagi1TextEncode"]
    assert len(set(texts)) == 3
    prompt = prompt_of(files, STORY, frames=144)
    chain = {key: node for key, node in prompt.items() if node["class_type"] == "MotionCacheChunkPrompt"}
    assert [node["inputs"]["first_chunk"] for node in chain.values()] == [3, 5]
    run, report = report_of(files, prompt)
    assert frame_count(next(path for path in run.files() if path.suffix == ".mp4")) == 144
    assert chain.keys() <= set(run.executed)
    assert {chunk for call in report["calls"] for chunk in call["chunks"]} == set("012345")
    last = list(chain.values())[-1]
    last["inputs"]["first_chunk"] = 9
    with pytest.raises(
        PromptFailedError, match="the prompt for chunk 9 begins behind the end of the video, which has 6 chunks"
    ):
        files.run(prompt)
