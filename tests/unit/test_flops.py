"""The count of operations: by hand, and against PyTorch's own counter on the real forwards."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from motioncache_core.flops import TransformerSize, pass_flops, prompt_flops
from motioncache_core.kv_cache import KVCache
from motioncache_core.models.skyreels_v2.adapter import BranchRow, NetworkRun, SkyReelsV2Adapter
from motioncache_core.models.skyreels_v2.plan import SamplingSettings, build_plan

SIZE = TransformerSize(width=2, ffn_width=3, layers=5, patch_values=4, text_tokens=7, text_width=11)


def test_a_pass_by_hand():
    # a token: 12 * 2^2 + 4 * 2 * 3 + 4 * 2 * (10 + 7) = 208; 5 layers of 3 tokens; patches of 6: 4 * 6 * 2 * 4
    assert pass_flops(SIZE, computed=3, total=6, context=10) == 5 * 3 * 208 + 192


def test_a_pass_with_another_prompt_by_hand():
    assert pass_flops(SIZE, 3, 6, 10, text_tokens=9) == 5 * 3 * (208 + 4 * 2 * 2) + 192


def test_a_reused_pass_is_only_embedding_and_head():
    assert pass_flops(SIZE, computed=0, total=6, context=0) == 192


def test_a_prompt_by_hand():
    # embedding 2 * 7 * (11 * 2 + 2 * 2) = 364, keys and values of 5 layers 4 * 7 * 4 * 5 = 560
    assert prompt_flops(SIZE) == 924
    assert prompt_flops(SIZE, text_tokens=14) == 2 * 924
    # one layer: 2 * 7 * 11 * 2 = 308
    assert prompt_flops(replace(SIZE, text_hidden=0)) == 308 + 560


@pytest.mark.parametrize("attention", ["chunk-wise", "vanilla full", "vanilla block-causal"])
def test_the_count_is_that_of_the_real_forward(wan, attend, attention: str):
    plan = build_plan(SamplingSettings(frames=25, steps=2, ar_step=2, chunk_frames=3, attention=attention))
    call = plan.calls[2]
    height, width, text_tokens = 6, 4, 5
    tokens, window = call.frames * 6, plan.stored_frames * 6
    size = TransformerSize(width=32, ffn_width=48, layers=2, patch_values=16 * 4, text_tokens=text_tokens, text_width=8)
    run = NetworkRun(KVCache(2, window, 32, torch.float32, torch.device("cpu")))
    timesteps = [part.timestep for part in call.parts for _ in range(part.start, part.stop)]
    adapter = SkyReelsV2Adapter(wan, attend)
    with FlopCounterMode(display=False) as counter:
        adapter.forward(
            torch.randn(1, 16, call.frames, height, width),
            torch.randn(1, text_tokens, 8),
            call,
            [BranchRow("role", "prompt")],
            run,
            [timesteps],
            [[1] * call.frames],
        )
    (made,), _ = run.take_notes()
    assert made.computed == made.total == tokens
    levels = len(set(timesteps))
    time_embedding = 2 * levels * (16 * 32 + 32 * 32 + 32 * 6 * 32)
    counted = pass_flops(size, made.computed, made.total, made.context) + prompt_flops(size)
    assert counter.get_total_flops() - time_embedding == pytest.approx(counted, rel=1e-9)
