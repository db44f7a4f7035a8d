"""A tiny MAGI-1 as its training writes it runs through the pack's nodes, as it was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tools.bench.harness.pack import defaults_of
from tools.tinyworld import magi1
from tools.tinyworld.magi1_evaluate import SAMPLING
from tools.tinyworld.prompts import SHIPPED
from tools.train_tiny_magi1 import FILE


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """(the exported file, the network that was exported), with prompts beside it."""
    import folder_paths

    folder = tmp_path_factory.mktemp("tiny_magi1")
    with torch.inference_mode(False):
        model = magi1.build()
        magi1.initialise(model, 3)
        for layer in model.videodit_blocks.layers:  # as if it had learnt something
            layer.self_attn_post_norm.weight.data.fill_(0.0)
        magi1.export(model.state_dict(), folder / FILE, 0, 3)
        model.load_state_dict({key: value.half().float() for key, value in model.state_dict().items()}, assign=True)
    magi1.write_prompts(folder / "prompts")
    folder_paths.add_model_folder_path("diffusion_models", str((folder / FILE).parent))
    folder_paths.add_model_folder_path("motioncache_prompts", str(folder / "prompts"))
    return folder / FILE, model.requires_grad_(False)


def test_a_node_is_taken_as_it_comes(magi: Any):
    made = defaults_of(magi.mc.module("nodes.magi1_sampling").MotionCacheMagi1Sampler)
    usual = {"width": 720, "height": 720, "frames": 96, "seed": 0, "steps": 0}
    assert made == magi.defaults | usual


def test_it_samples_a_saved_prompt_with_and_without_motioncache(magi: Any, written: tuple[Path, Any]):
    file, _ = written
    prompt = magi.mc.module("nodes.prompts").MotionCacheLoadPrompt
    positive = prompt.execute("red ball moves right (tiny MAGI-1).safetensors").args[0]
    made = magi.sample(magi.load(file.name), positive, **SAMPLING | {"steps": 8, "frames": 48})
    assert made.latents.shape == (1, 16, 12, 12, 12) and torch.isfinite(made.latents).all()
    cached = magi.cached(magi.load(file.name), chunk_threshold=0.3, token_threshold=0.3)
    found = magi.sample(cached, positive, **SAMPLING | {"steps": 8, "frames": 48})
    assert found.summary["computed_fraction"] < 1.0


def test_the_packs_network_gives_what_the_trained_one_gives(magi: Any, written: tuple[Path, Any]):
    """The same items, in training one call and in the pack's float32 network another."""
    file, model = written
    loaded = magi.load(file.name).model.diffusion_model
    items = magi.mc.module("motioncache_core.models.magi1.items")
    generator = torch.Generator().manual_seed(0)
    batch = magi1.Batch([], {}, {}, {})
    clean = torch.randn(16, 24, 12, 12, generator=generator)
    stage = magi1.stages(4, 4, 0)[4]
    magi1.add_clip(batch, clean, torch.ones(24, 12, 12), magi1.text_of(SHIPPED[0]), stage, generator)
    own = [
        items.Item(**{**vars(item), "reads": tuple(items.Fresh(read.item) for read in item.reads)})
        for item in batch.items
    ]
    expected, found = model(batch.items, magi1.attend), loaded(own, magi1.attend)
    for ours, theirs in zip(found, expected, strict=True):
        magi.mc.assert_near(ours, theirs, 1e-5)
