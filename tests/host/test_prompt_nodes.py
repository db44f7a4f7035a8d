"""Saving and loading prompts as nodes."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

from motioncache_core.prompts import load_prompt, save_prompt
from tools.host.server import ComfyServer, PromptRefusedError


@pytest.fixture
def folder(pack: ModuleType, tmp_path: Path) -> Iterator[Path]:
    """An empty folder that prompts are saved to and loaded from first."""
    import folder_paths

    importlib.import_module("motioncache.nodes.host.model_paths")
    folder_paths.add_model_folder_path("motioncache_prompts", str(tmp_path / "prompts"), is_default=True)
    yield tmp_path / "prompts"
    folder_paths.folder_names_and_paths["motioncache_prompts"][0].remove(str(tmp_path / "prompts"))


@pytest.fixture
def nodes(pack: ModuleType) -> ModuleType:
    return importlib.import_module("motioncache.nodes.prompts")


def conditioning() -> list:
    return [[torch.randn(1, 5, 4096), {"pooled_output": torch.randn(1, 8), "guidance": 2.0}]]


def test_a_saved_prompt_is_in_the_list_and_loads(nodes, folder):
    entries = conditioning()
    saved = nodes.MotionCacheSavePrompt.execute(entries, "walks/fox", False, "a fox")
    assert saved[0] is entries, "the conditioning passes through"
    assert saved.ui.as_dict() == {"text": ("Saved as walks/fox.safetensors",)}
    (name,) = [n for n in nodes.prompt_choices() if "fox" in n]
    assert name in nodes.MotionCacheLoadPrompt.define_schema().inputs[0].options
    loaded, text = nodes.MotionCacheLoadPrompt.execute(name).result
    assert text == "a fox"
    assert torch.equal(loaded[0][0], entries[0][0])
    assert torch.equal(loaded[0][1]["pooled_output"], entries[0][1]["pooled_output"])
    assert loaded[0][1]["guidance"] == 2.0


def test_names_are_numbered_or_overwritten(nodes, folder):
    for overwrite in (False, False, True):
        nodes.MotionCacheSavePrompt.execute(conditioning(), "fox", overwrite)
    assert sorted(path.name for path in folder.iterdir()) == ["fox.safetensors", "fox_2.safetensors"]


def test_a_replaced_prompt_is_loaded_again(nodes, folder):
    nodes.MotionCacheSavePrompt.execute(conditioning(), "fox", True)
    before = nodes.MotionCacheLoadPrompt.fingerprint_inputs("fox.safetensors")
    assert nodes.MotionCacheLoadPrompt.fingerprint_inputs("fox.safetensors") == before
    nodes.MotionCacheSavePrompt.execute(conditioning(), "fox", True)
    assert nodes.MotionCacheLoadPrompt.fingerprint_inputs("fox.safetensors") != before


def test_bad_names_are_refused_when_the_graph_is_queued(nodes, folder):
    nodes.MotionCacheSavePrompt.execute(conditioning(), "fox", True)
    assert "leads out of" in nodes.MotionCacheSavePrompt.validate_inputs("../fox")
    assert nodes.MotionCacheSavePrompt.validate_inputs("fox") is True
    assert nodes.MotionCacheSavePrompt.validate_inputs(None) is True
    answer = nodes.MotionCacheLoadPrompt.validate_inputs("foxx.safetensors")
    assert "prompt_name 'foxx.safetensors' was not found. Nearest: fox.safetensors" in answer
    assert "was not found" in nodes.MotionCacheLoadPrompt.validate_inputs("../../secret.safetensors")
    assert nodes.MotionCacheLoadPrompt.validate_inputs("fox.safetensors") is True
    assert nodes.MotionCacheLoadPrompt.validate_inputs(None) is True


def test_a_real_conditioning_with_an_area_is_refused_by_name(nodes, folder):
    from nodes import ConditioningSetArea

    with_area = ConditioningSetArea().append(conditioning(), 64, 64, 0, 0, 1.0)[0]
    with pytest.raises(ValueError, match="holds 'area' .tuple., which cannot be saved"):
        nodes.MotionCacheSavePrompt.execute(with_area, "area", False)


def test_a_graph_loads_and_saves_prompts(comfy: ComfyServer):
    folder = comfy.base / "models" / "motioncache_prompts"
    folder.mkdir(parents=True, exist_ok=True)
    cond = torch.randn(1, 6, 4096)
    metadata = {"format": "motioncache_prompt", "version": "1", "text": "two words"}
    save_file({"entries.0.cond": cond.half()}, folder / "graph.safetensors", metadata)
    prompt = {
        "1": {"class_type": "MotionCacheLoadPrompt", "inputs": {"prompt_name": "graph.safetensors"}},
        "2": {
            "class_type": "ConditioningSetTimestepRange",
            "inputs": {"conditioning": ["1", 0], "start": 0.0, "end": 0.5},
        },
        "3": {
            "class_type": "MotionCacheSavePrompt",
            "inputs": {"conditioning": ["2", 0], "filename": "sub/again", "overwrite": False, "text": ["1", 1]},
        },
    }
    assert comfy.run(prompt).outputs["3"]["text"] == ["Saved as sub/again.safetensors"]
    entries, text = load_prompt(folder / "sub" / "again.safetensors")
    assert text == "two words"
    assert torch.equal(entries[0][0], cond.half().float())
    assert (entries[0][1]["start_percent"], entries[0][1]["end_percent"]) == (0.0, 0.5)

    prompt["3"]["inputs"]["filename"] = "../escape"
    with pytest.raises(PromptRefusedError, match="leads out of"):
        comfy.run(prompt)
    save_prompt(folder / "other.safetensors", [[cond, {}]])
    options = comfy.object_info("MotionCacheLoadPrompt")["MotionCacheLoadPrompt"]["input"]["required"]["prompt_name"]
    assert {"graph.safetensors", "other.safetensors"} <= set(options[1]["options"])
