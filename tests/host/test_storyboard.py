"""Storyboards in a real ComfyUI: an edit makes only what follows it again, takes outlive the process, graphs run."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.host.test_magi1_workflows import PROMPT as MAGI1_PROMPT
from tests.host.test_magi1_workflows import files as magi1_files  # noqa: F401 - a fixture
from tests.host.test_workflows import MODEL
from tests.host.test_workflows import PROMPT as SKYREELS_PROMPT
from tests.host.test_workflows import files as skyreels_files  # noqa: F401 - a fixture
from tools.host.environment import REPO, Environment
from tools.host.server import ComfyServer, PromptFailedError, PromptInterruptedError
from tools.storyboard_workflows import WORKFLOWS

PROMPTS = ("storyboard one.safetensors", "storyboard two.safetensors")
TAKES = "motioncache_takes"
BEGIN = {
    "width": 64,
    "height": 48,
    "fps": 24.0,
    "seed": 3,
    "steps": 12,
    "shift": 8.0,
    "chunk_size": 2,
    "ar_step": 4,
    "window": 29,
    "history_noise": 20,
    "clean_refresh": False,
    "solver": "unipc",
    "kv_precision": "model",
    "kv_place": "GPU",
    "keep": "as computed",
    "continue_frames": 17,
}
PART = {
    "guidance": 6.0,
    "noise": "continue",
    "seed": 0,
    "cache": "as the MODEL says",
    "threshold": -1.0,
    "autosave": "",
    "chunks": 1,
}
PARTS = ("part_1", "part_2", "part_3", "part_4")
CHUNK = 2
"""Latent frames."""


@pytest.fixture(scope="module")
def host(skyreels_files: ComfyServer) -> ComfyServer:  # noqa: F811
    """With two encoded prompts."""
    folder = skyreels_files.base / "models" / "motioncache_prompts"
    for number, name in enumerate(PROMPTS):
        cond = torch.randn(1, 8, 4096, generator=torch.Generator().manual_seed(20 + number)) * 0.2
        save_file({"entries.0.cond": cond}, folder / name, {"format": "motioncache_prompt", "version": "1", "text": ""})
    return skyreels_files


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def sources() -> dict[str, Any]:
    return {
        "model": node("MotionCacheLoadSkyReelsV2", model_name=MODEL, weight_dtype="default"),
        "cached": node("MotionCacheApply", model=["model", 0], **CACHE),
        "one": node("MotionCacheLoadPrompt", prompt_name=PROMPTS[0]),
        "two": node("MotionCacheLoadPrompt", prompt_name=PROMPTS[1]),
    }


CACHE: dict[str, Any] = {
    "preset": "custom",
    "warmup_steps": 2,
    "chunk_threshold": 0.05,
    "token_threshold": 0.1,
    "motion_floor": 0.6,
    "min_update_ratio": 0.0,
}


def part(take: str, prompt: str = "one", **changes: Any) -> dict[str, Any]:
    return node(
        "MotionCacheGenerateChunks", take=[take, 0], positive=[prompt, 0], negative=["two", 0], **PART | changes
    )


def end(prompt: dict[str, Any], take: str, name: str = "a") -> dict[str, Any]:
    finish = node("MotionCacheFinishVideo", take=[take, 0], autosave="")
    return {**prompt, "finish": finish, "save": node("SaveLatent", samples=["finish", 0], filename_prefix=name)}


def chain(**changes: Any) -> dict[str, Any]:
    """Four parts; ``changes``: the prompt of each."""
    prompt = {**sources(), "begin": node("MotionCacheBeginVideo", model=["cached", 0], **BEGIN)}
    for before, name in zip(("begin", *PARTS), PARTS, strict=False):
        prompt[name] = part(before, changes.get(name, "one"))
    return end(prompt, PARTS[-1])


def latents(host: ComfyServer, run: Any) -> Tensor:
    (path,) = [path for path in run.files("save") if path.suffix == ".latent"]
    return load_file(path)["latent_tensor"]


def default_of(entry: list[Any]) -> Any:
    """Of an input in the host's object info."""
    options = entry[1] if len(entry) > 1 else {}
    choices = entry[0] if isinstance(entry[0], list) else options.get("options", [])
    return options.get("default", choices[0] if choices else None)


@pytest.fixture(scope="module")
def complete(defaults: dict[str, Any], host: ComfyServer) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Fills in what an API prompt must name: the default of every input that is left out."""

    def fill(prompt: dict[str, Any]) -> dict[str, Any]:
        filled = {}
        for key, one in prompt.items():
            spec = defaults[one["class_type"]]["input"].get("required", {})
            values = {name: default_of(entry) for name, entry in spec.items() if name not in one["inputs"]}
            filled[key] = {**one, "inputs": {**values, **one["inputs"]}}
        return filled

    return fill


@pytest.fixture(scope="module")
def defaults(host: ComfyServer) -> dict[str, Any]:
    return host.object_info()


def test_an_edit_makes_only_what_follows_again(host: ComfyServer, complete: Any) -> None:
    host.free()
    first = host.run(complete(chain()))
    assert set(PARTS) <= set(first.executed)
    second = host.run(complete(chain(part_3="two")))
    assert set(second.executed) == {"part_3", "part_4", "finish", "save"}
    before, after = latents(host, first), latents(host, second)
    assert before.shape == after.shape == (1, 16, 4 * CHUNK, 6, 8)
    assert torch.equal(before[:, :, : 2 * CHUNK], after[:, :, : 2 * CHUNK])
    assert not torch.equal(before[:, :, 2 * CHUNK :], after[:, :, 2 * CHUNK :])
    third = host.run(complete(chain()))
    assert torch.equal(latents(host, third), before)


def saved(prompt: dict[str, Any], take: str, name: str) -> dict[str, Any]:
    keep = node("MotionCacheSaveTake", take=[take, 0], filename=name, overwrite=True, with_memory=True)
    return {**prompt, "keep": keep}


def gone_on(name: str, **changes: Any) -> dict[str, Any]:
    """Two parts more from a saved take."""
    prompt = {**sources(), "loaded": node("MotionCacheLoadTake", take_name=f"{name}.safetensors", model=["cached", 0])}
    prompt["part_3"] = part("loaded", changes.get("part_3", "one"))
    prompt["part_4"] = part("part_3")
    return end(prompt, "part_4")


def test_a_saved_take_goes_on_in_a_fresh_process(
    host: ComfyServer, complete: Any, environment: Environment, tmp_path: Path
) -> None:
    plain, other = (host.run(complete(saved(chain(part_3=p), "part_2", "middle"))) for p in ("one", "two"))
    for folder in ("models", f"output/{TAKES}"):
        shutil.copytree(host.base / folder, tmp_path / folder)
    with ComfyServer(tmp_path, environment=environment) as fresh:
        first = fresh.run(complete(gone_on("middle")))
        assert torch.equal(latents(fresh, first), latents(host, plain))
        second = fresh.run(complete(gone_on("middle", part_3="two")))
        assert set(second.executed) == {"part_3", "part_4", "finish", "save"}
        assert torch.equal(latents(fresh, second), latents(host, other))


def test_an_interrupt_keeps_what_was_finished(host: ComfyServer, complete: Any) -> None:
    straight = host.run(complete(end({**chain(), "part_4": part("part_3", chunks=20)}, "part_4")))
    prompt = {**chain(), "part_4": part("part_3", chunks=20, autosave="kept", autosave_memory=True)}
    prompt["part_1"]["inputs"]["seed"] = 1  # not used, but makes the nodes run again
    file = host.folders["output"] / TAKES / "kept.safetensors"
    file.unlink(missing_ok=True)
    queued = host.queue(complete(prompt))
    ends = time.monotonic() + 200
    while not file.exists() and time.monotonic() < ends:
        time.sleep(0.02)
    host.interrupt()
    with pytest.raises(PromptInterruptedError):
        host.wait(queued)
    loaded = node("MotionCacheLoadTake", take_name="kept.safetensors", model=["cached", 0])
    run = host.run(complete(end({**sources(), "loaded": loaded}, "loaded")))
    assert torch.equal(latents(host, run), latents(host, straight))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw[:-50] + bytes([raw[-50] ^ 1]) + raw[-49:], "checksum does not fit"),
        (lambda raw: (2**32).to_bytes(8, "little") + raw[8:], "claims a header of 4294967296 bytes"),
        (lambda raw: raw.replace(b'"version":"3"', b'"version":"4"'), "has version '4'"),
    ],
)
def test_damaged_takes_are_refused_quickly(host: ComfyServer, complete: Any, change: Any, message: str) -> None:
    host.run(complete(saved(chain(), "part_1", "damaged")))
    file = host.folders["output"] / TAKES / "damaged.safetensors"
    file.write_bytes(change(file.read_bytes()))
    started = time.monotonic()
    with pytest.raises(PromptFailedError, match=message):
        host.run(complete(gone_on("damaged")))
    assert time.monotonic() - started < 30


SMALL: dict[str, dict[str, Any]] = {
    "MotionCacheBeginVideo": {"width": 64, "height": 48, "steps": 12, "chunk_size": 2, "ar_step": 4, "window": 29},
    "MotionCacheBeginMagi1Video": {"width": 64, "height": 48, "steps": 8},
}
TEXTS = ("CLIPTextEncode", "MotionCacheMagi1TextEncode")


def small(host: ComfyServer, name: str, chunks: int) -> dict[str, Any]:
    """A shipped workflow as a prompt: text encoders replaced by saved prompts, everything small."""
    prompt = host.convert(json.loads((REPO / "workflows" / f"{name}.json").read_text(encoding="utf-8")))
    saved_prompt = MAGI1_PROMPT if name.startswith("MAGI-1") else SKYREELS_PROMPT
    for key, one in list(prompt.items()):
        if one["class_type"] in TEXTS:
            prompt[key] = node("MotionCacheLoadPrompt", prompt_name=saved_prompt)
        elif one["class_type"] == "CLIPLoader":
            del prompt[key]
        elif one["class_type"] == "MotionCacheGenerateChunks":
            one["inputs"]["chunks"] = chunks
        one["inputs"].update(SMALL.get(one["class_type"], {}))
    return prompt


@pytest.mark.parametrize("name", [name for name in WORKFLOWS if "no download" not in name])
def test_shipped_storyboards_make_videos(
    skyreels_files: ComfyServer,  # noqa: F811
    magi1_files: ComfyServer,  # noqa: F811
    name: str,
) -> None:
    prompt = small(skyreels_files, name, chunks=1)
    run = skyreels_files.run(prompt)
    videos = [path for path in run.files() if path.suffix == ".mp4"]
    assert len(videos) == (2 if "two endings" in name else 1)
    family = "magi1" if name.startswith("MAGI-1") else "skyreels_v2"
    parts = 3 if "storyboard" in name else 2 if "two endings" in name else 1
    given = "image" if "from image" in name else "video" if "continuation" in name else ""
    # SkyReels-V2: chunks of 2 latent frames here, 4 video frames each, but the first latent frame of all, which is one
    frames = 24 * parts if family == "magi1" else 4 * (2 * parts - 1) + 1
    frames += {"magi1": {"video": 24}, "skyreels_v2": {"image": 4, "video": 20}}[family].get(given, 0)
    for path in videos:
        with av.open(str(path)) as video:
            assert sum(1 for _ in video.decode(video=0)) == frames
