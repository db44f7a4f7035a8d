"""Runs of MAGI-1 with random weights through the pack's own sampler node, in this process.

What is timed is what the node does: guider, wrapper around the network, loop, report. Policy, plan and size of the
store may be handed in. ``tools.bench.harness.pack.load`` comes before this module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from motioncache.motioncache_core.config import Magi1CacheConfig
from motioncache.motioncache_core.models.magi1.adapter import Magi1Run
from motioncache.motioncache_core.models.magi1.architecture import ArchitectureConfig, expected_entries
from motioncache.motioncache_core.models.magi1.checkpoint import Layout
from motioncache.motioncache_core.models.magi1.plan import TEMPORAL, SamplingSettings, build_plan
from motioncache.motioncache_core.models.magi1.policy import Magi1Policy
from motioncache.motioncache_core.plan import Plan
from motioncache.nodes import magi1_sampling
from motioncache.nodes.host import magi1_session
from motioncache.nodes.host.magi1_inputs import ONE_PASS, THREE_PASS
from motioncache.nodes.host.magi1_model import load_magi1
from motioncache.nodes.host.model_support import attach_config

from .measured import Measured, timed
from .pack import defaults_of, handed_in

__all__ = ["ArchitectureConfig", "Sampling", "Scene", "random_model", "random_prompt", "sample"]

CHUNK_FRAMES = 6
WEIGHT_SPREAD = 0.02
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Scene:
    """What is sampled.

    Args:
        chunks: of 6 latent frames.
        height, width: of a latent frame.
        steps: of every chunk.
        window: chunks in work at once.
        text_tokens: of the prompt.
    """

    chunks: int
    height: int
    width: int
    steps: int
    window: int = 4
    text_tokens: int = 32

    @property
    def grid(self) -> tuple[int, int]:
        """Token rows and columns of a latent frame."""
        return self.height // 2, self.width // 2

    @property
    def tokens(self) -> int:
        """Of a chunk."""
        return CHUNK_FRAMES * self.grid[0] * self.grid[1]


PolicyMaker = Callable[[Magi1CacheConfig, Plan], Magi1Policy]


@dataclass(frozen=True)
class Sampling:
    """How it is sampled.

    Args:
        attention, clean_refresh: inputs of the sampler node.
        distilled: one pass a step, else three.
        cache: what the MotionCache node would hang on the MODEL, ``None`` for none.
        make_policy: makes what stands in for the node's policy.
        make_plan: makes what stands in for the node's plan.
        run_class: stands in for the run's memory.
    """

    attention: str = "chunk-wise"
    clean_refresh: bool = False
    distilled: bool = True
    cache: Magi1CacheConfig | None = None
    make_policy: PolicyMaker = Magi1Policy
    make_plan: Callable[[SamplingSettings], Plan] = build_plan
    run_class: type[Magi1Run] = Magi1Run


def random_model(architecture: ArchitectureConfig, dtype: str, seed: int = 0) -> Any:
    """A MODEL with normally distributed weights, as the pack's loader node makes it.

    Args:
        dtype: ``fp32``, ``bf16`` or ``fp16``; the embedders and the head stay float32.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for key, entry in expected_entries(architecture).items():
        stored = torch.float32 if entry.dtype == "float32" else DTYPES[dtype]
        tensors[key] = torch.randn(entry.shape, generator=generator).mul_(WEIGHT_SPREAD).to(stored)
    layout = Layout(
        path=Path(),
        name="random weights",
        kind="made here",
        tensors={},
        notices=(),
        config=architecture,
        distilled=None,
        official={},
    )
    return load_magi1(layout, tensors, "fp32" if dtype == "fp32" else "default")


def random_prompt(scene: Scene, text_width: int, seed: int = 1) -> Any:
    """CONDITIONING."""
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, scene.text_tokens, text_width, generator=generator) * 0.2, {}]]


def sample(model: Any, prompt: Any, scene: Scene, sampling: Sampling) -> Measured:
    """Sample a video once.

    Raises:
        RuntimeError: the latents are not finite.
    """
    if sampling.cache is not None:
        model = model.clone()
        attach_config(model, sampling.cache)
    stored: list[int] = []

    class NotedRun(sampling.run_class):
        """Tells how large its store is."""

        def allocate(self, tokens_per_frame: int, samples: int = 1) -> None:
            rows = sum(self.places.values()) * self.plan.chunk_frames * tokens_per_frame
            stored.append(self.kv.bytes_needed(self.kv.layers, rows, self.kv.width, samples, self.kv.dtype))
            super().allocate(tokens_per_frame, samples)

    inputs = defaults_of(magi1_sampling.MotionCacheMagi1Sampler) | {
        "width": scene.width * 8,
        "height": scene.height * 8,
        "frames": scene.chunks * CHUNK_FRAMES * TEMPORAL,
        "steps": scene.steps,
        "window": scene.window,
        "guidance": ONE_PASS if sampling.distilled else THREE_PASS,
        "clean_refresh": sampling.clean_refresh,
        "attention": sampling.attention,
    }

    def execute() -> tuple:
        return magi1_sampling.MotionCacheMagi1Sampler.execute(model, prompt, **inputs).args

    session = {"Magi1Policy": sampling.make_policy, "Magi1Run": NotedRun}
    with handed_in(magi1_sampling, build_plan=sampling.make_plan), handed_in(magi1_session, **session):
        made = timed(execute, model.load_device)
    return replace(made, kv_bytes=sum(stored))
