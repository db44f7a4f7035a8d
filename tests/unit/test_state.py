"""A run stopped after any call, saved to a file and taken up again ends bit-equal."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from motioncache_core import state as saved
from motioncache_core.config import CacheConfig
from motioncache_core.events import CallEvent
from motioncache_core.kv_cache import KVCache
from motioncache_core.loop import RunState, clean_prediction, run
from motioncache_core.models.skyreels_v2.adapter import BranchRow, NetworkRun, SkyReelsV2Adapter
from motioncache_core.models.skyreels_v2.plan import SamplingSettings, build_plan
from motioncache_core.models.skyreels_v2.policy import STATE_CLASSES, SkyReelsV2Policy

SETTINGS = SamplingSettings(
    frames=25, steps=7, chunk_frames=2, ar_step=2, window_frames=17, overlap_frames=5, clean_refresh=True
)
CACHE = CacheConfig(
    warmup_steps=1,
    chunk_phase_updates=1,
    chunk_threshold=0.02,
    token_threshold=0.4,
    distance="patch embedding",
    vote=None,
    min_update_ratio=0.0,
)


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    q, k, v = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    import comfy.ops
    from comfy.ldm.wan.model import WanModel

    torch.manual_seed(0)
    sizes = {"dim": 32, "ffn_dim": 48, "text_dim": 8, "num_heads": 1, "num_layers": 2}
    made = WanModel(**sizes, operations=comfy.ops.manual_cast, dtype=torch.float32, device="cpu")
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made.eval()


class Sampling:
    """Plan, adapter and one branch on a tiny network."""

    def __init__(self, network: torch.nn.Module):
        self.plan = build_plan(SETTINGS)
        self.adapter = SkyReelsV2Adapter(network, attention)
        self.context = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(1))
        self.memory = NetworkRun(KVCache(2, self.plan.stored_frames * 4, 32, torch.float32, torch.device("cpu")))
        self.memory.policy = SkyReelsV2Policy(CACHE)
        self.state = RunState.new(self.plan, 1, 16, 4, 4, torch.device("cpu"))

    def go(self, calls: int | None = None) -> list[str]:
        """Run on, at most so many calls; the outcomes of the steps."""
        outcomes = []
        for event in run(self.plan, self.state, self.memory, self.call, seed=3):
            if isinstance(event, CallEvent):
                outcomes += [decision.outcome for decision in event.decisions]
                if calls is not None and event.call.index + 1 == calls:
                    break
        return outcomes

    def call(self, call, x: torch.Tensor) -> torch.Tensor:
        timesteps = [part.timestep for part in call.parts for _ in range(part.start, part.stop)]
        rows, rates = [BranchRow(("positive", 0, 0), "prompt")], [[1] * len(timesteps)]
        with torch.inference_mode():
            velocity = self.adapter.forward(x, self.context, call, rows, self.memory, [timesteps], rates)
        return clean_prediction(call, x, velocity)

    def save(self, path: Path) -> None:
        tensors, data = saved.export({"state": self.state, **self.memory.memory()}, STATE_CLASSES)
        tensors = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
        save_file(tensors, path, {"state": json.dumps(data)})

    def load(self, path: Path) -> None:
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            data = json.loads(file.metadata()["state"])
        parts = saved.restore(load_file(path), data, STATE_CLASSES)
        self.state = parts.pop("state")
        self.memory.recall(parts)


def test_a_run_goes_on_where_it_stopped(network: torch.nn.Module, tmp_path: Path) -> None:
    whole = Sampling(network)
    outcomes = whole.go()
    assert {"full", "partial", "reused"} == set(outcomes)
    calls = len(whole.plan.calls)
    for stop in range(1, calls, 5):
        first = Sampling(network)
        before = first.go(stop)
        first.save(tmp_path / "state.safetensors")
        second = Sampling(network)
        second.load(tmp_path / "state.safetensors")
        assert before + second.go() == outcomes
        assert torch.equal(second.state.video, whole.state.video), f"stopped after call {stop} of {calls}"


def test_what_has_no_form_is_refused() -> None:
    with pytest.raises(TypeError, match="bytes cannot be part"):
        saved.export({"a": b"1"})
    with pytest.raises(ValueError, match="NetworkRun"):
        saved.restore({}, {"class": "NetworkRun", "fields": {"dict": []}})
    with pytest.raises(ValueError, match="tensor_7"):
        saved.restore({}, {"tensor": "tensor_7"})


def test_collections_keep_their_kind() -> None:
    value = {"roles": {("positive", 0), ("negative", 0)}, "counts": Counter({("a", 1): 2.5}), (1, 2): [None, (3,)]}
    found = saved.restore(*saved.export(value))
    assert found == value and isinstance(found["counts"], Counter)
    assert json.loads(json.dumps(saved.export(value)[1])) == saved.export(value)[1]
