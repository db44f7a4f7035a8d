# ruff: noqa: F811 - fixtures of another file
"""A saved take goes on with the MODEL that it was made with; others are refused, or told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.nodes.test_storyboard import Board
from tests.nodes.test_takes import Files, board, files  # noqa: F401 - fixtures


def test_another_model_is_refused(board: Board, files: Files, magi: Any):
    files.save(board.more(board.begin(), 1))
    changed = board.mc.load()
    network = changed.model.diffusion_model
    with pytest.raises(ValueError, match=r"model is MAGI-1, but a.safetensors was made with SkyReels-V2"):
        files.load(magi.load())
    bias = network.head.modulation
    kept = bias.clone()
    try:
        bias.add_(1.0)
        with pytest.raises(ValueError, match="another checkpoint than the one that a.safetensors was made with"):
            files.load(changed)
    finally:
        bias.copy_(kept)
    files.load(changed)


@pytest.fixture
def merged(mc: Any) -> Iterator[Any]:
    """A MODEL as of a file that a LoRA was merged into: its large layers differ, its biases and norms do not."""
    model = mc.load("tiny_no_fps.safetensors")
    weight = model.model.diffusion_model.blocks[1].ffn[0].weight
    assert weight.numel() > mc.module("nodes.host.model_identity").PROBES
    kept = weight.clone()
    weight.mul_(1.1)
    yield mc.cached(model)
    weight.copy_(kept)


def test_a_checkpoint_with_other_large_layers_is_refused(board: Board, files: Files, merged: Any):
    files.save(board.more(board.begin(), 1))
    with pytest.raises(ValueError, match="another checkpoint than the one that a.safetensors was made with"):
        files.load(merged)


def test_a_take_of_two_checkpoints_goes_on_with_the_newest_parts(
    board: Board, files: Files, merged: Any, caplog: pytest.LogCaptureFixture
):
    files.save(board.more(board.more(board.begin(), 1), 1, model=merged))
    with pytest.raises(ValueError, match="another checkpoint than the one that a.safetensors was made with"):
        files.load(board.mc.cached())
    files.load(merged)
    assert "Chunks that are not finished were begun with another checkpoint than this MODEL has" in caplog.text
    caplog.clear()
    files.save(board.more(board.more(board.begin(), 1), 9, model=merged))
    files.load(merged)
    assert "not finished" not in caplog.text, "those of the other one are"


def with_lora(board: Board, scale: float) -> Any:
    """A MODEL with a LoRA in ComfyUI's form."""
    from comfy.weight_adapter.lora import LoRAAdapter

    model, key = board.mc.cached(), "diffusion_model.blocks.0.ffn.0.weight"
    rows, columns = model.model.state_dict()[key].shape
    up, down = torch.full((rows, 2), scale), torch.ones(2, columns)
    model.add_patches({key: LoRAAdapter(set(), (up, down, 1.0, None, None, None))})
    return model


def test_other_patches_are_told(board: Board, files: Files, caplog: pytest.LogCaptureFixture):
    lora = with_lora(board, 0.1)
    files.save(board.more(board.begin(model=lora), 1))
    files.load(lora)
    files.load(with_lora(board, 0.1))
    assert "other patches" not in caplog.text, "the same numbers loaded anew are the same LoRA"
    files.load(with_lora(board, 0.2))
    assert "other patches (LoRA)" in caplog.text, "one of the same layers, sizes and strength"
    caplog.clear()
    files.load(board.mc.cached())
    assert "other patches (LoRA)" in caplog.text
