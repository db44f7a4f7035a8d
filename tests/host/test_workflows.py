"""The shipped workflows run in a real ComfyUI, with tiny files under the names that they ask for."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from safetensors.torch import save_file

from tools import tiny_checkpoints as tiny
from tools.host.environment import REPO
from tools.host.server import ComfyServer, Run
from tools.make_workflows import WORKFLOWS, saved

MODEL = "Wan2_1-SkyReels-V2-DF-1_3B-540P_fp32.safetensors"
VAE = "wan_2.1_vae.safetensors"
PROMPT = "test prompt.safetensors"
SMALL = {
    "width": 64,
    "height": 48,
    "frames": 29,
    "window": 29,
    "overlap": 5,
    "steps": 12,
    "chunk_size": 2,
    "ar_step": 3,
}


@pytest.fixture(scope="module")
def files(comfy: ComfyServer) -> ComfyServer:
    """Tiny checkpoints under real names, and an encoded prompt in place of the 11 GB text encoder."""
    models = comfy.base / "models"
    for folder in ("diffusion_models", "vae", "motioncache_prompts"):
        (models / folder).mkdir(parents=True, exist_ok=True)
    save_file(tiny.transformer(), models / "diffusion_models" / MODEL)
    save_file(tiny.vae(), models / "vae" / VAE)
    cond = torch.randn(1, 8, 4096, generator=torch.Generator().manual_seed(5)) * 0.2
    metadata = {"format": "motioncache_prompt", "version": "1", "text": "a test"}
    save_file({"entries.0.cond": cond}, models / "motioncache_prompts" / PROMPT, metadata)
    image = torch.zeros(48, 64, 3, dtype=torch.uint8)
    image[:, 20:40] = 200
    from PIL import Image

    Image.fromarray(image.numpy()).save(comfy.base / "input" / "example.png")
    return comfy


def prompt_of(comfy: ComfyServer, name: str, **changes: Any) -> dict[str, Any]:
    """The workflow as a prompt, its text encoder replaced by a saved prompt, its video made small."""
    prompt = comfy.convert(json.loads((REPO / "workflows" / f"{name}.json").read_text(encoding="utf-8")))
    for key, node in list(prompt.items()):
        if node["class_type"] == "CLIPTextEncode":
            prompt[key] = {"class_type": "MotionCacheLoadPrompt", "inputs": {"prompt_name": PROMPT}}
        elif node["class_type"] == "CLIPLoader":
            del prompt[key]
        elif node["class_type"] == "MotionCacheAutoregressiveSampler":
            node["inputs"].update({**SMALL, **changes})
    return prompt


def report_of(comfy: ComfyServer, prompt: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    sampler = next(k for k, n in prompt.items() if n["class_type"] == "MotionCacheAutoregressiveSampler")
    run = comfy.run({**prompt, "full": {"class_type": "PreviewAny", "inputs": {"source": [sampler, 1]}}})
    return run, json.loads("".join(run.outputs["full"]["text"]))


def frame_count(path: Path) -> int:
    with av.open(str(path)) as video:
        return sum(1 for _ in video.decode(video=0))


@pytest.mark.parametrize("name", ["SkyReels-V2 text to video", "SkyReels-V2 image to video"])
def test_skyreels_workflow_makes_a_video(files: ComfyServer, name: str) -> None:
    run, report = report_of(files, prompt_of(files, name))
    video = next(path for path in run.files() if path.suffix == ".mp4")
    assert frame_count(video) == SMALL["frames"]
    assert report["config"]["warmup_steps"] == 4 and report["summary"]["cache"] == "token"
    given = {call["kind"] for call in report["calls"]}
    assert given == ({"denoise", "context"} if "image" in name else {"denoise"})


def test_the_first_frame_of_image_to_video_is_the_image(files: ComfyServer) -> None:
    """A tiny random VAE keeps no pictures, but equal latents decode to equal frames, but for the file's compression."""
    prompt = prompt_of(files, "SkyReels-V2 image to video")
    sampler = next(k for k, n in prompt.items() if n["class_type"] == "MotionCacheAutoregressiveSampler")
    prompt[sampler]["inputs"]["seed"] = 1
    first = report_of(files, prompt)[0]
    prompt[sampler]["inputs"]["seed"] = 2
    second = report_of(files, prompt)[0]

    def frames(run: Run) -> list[Any]:
        path = next(path for path in run.files() if path.suffix == ".mp4")
        with av.open(str(path)) as video:
            return [frame.to_ndarray(format="rgb24").astype(int) for frame in video.decode(video=0)]

    one, two = frames(first), frames(second)
    assert 3 * abs(one[0] - two[0]).mean() < abs(one[-1] - two[-1]).mean()


def test_shipped_files_are_what_the_tool_writes(comfy: ComfyServer) -> None:
    info = comfy.object_info()
    for name in WORKFLOWS:
        shipped = json.loads((REPO / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
        assert shipped == json.loads(json.dumps(saved(name, info))), name


def test_every_workflow_has_a_picture_for_the_template_browser() -> None:
    names = {path.stem for path in (REPO / "workflows").glob("*.json")}
    assert names == set(WORKFLOWS)
    assert names == {path.stem for path in (REPO / "workflows").glob("*.jpg")}


def test_every_workflow_has_an_id_of_its_own() -> None:
    """By which a page tells the graphs apart that it has had open."""
    files = [json.loads(path.read_text(encoding="utf-8")) for path in (REPO / "workflows").glob("*.json")]
    ids = {str(uuid.UUID(file["id"])) for file in files}
    assert len(ids) == len(files) and ids == {file["id"] for file in files}


def test_names_of_workflows_are_words_and_files_anywhere() -> None:
    for name in WORKFLOWS:
        assert not set(name) & set('<>:"/\\|?*_') and name == name.strip(" .") and name[0].isupper(), name
