"""Runs of the tiny world's trained model through the pack's own nodes, in this process.

``tools.bench.harness.pack.load`` comes before this module.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from motioncache.motioncache_core.config import CacheConfig
from motioncache.nodes import loaders, sampling
from motioncache.nodes.host.model_support import attach_config
from torch import Tensor

from tools.host.environment import REPO
from tools.tinyworld import demo
from tools.tinyworld import vae as tiny_vae
from tools.tinyworld.dataset import load_vae
from tools.tinyworld.prompts import embed
from tools.tinyworld.world import Scene

from .pack import defaults_of

FOLDER = REPO / "tiny_world"
VANILLA = "vanilla block-causal"
CHUNK_WISE = "chunk-wise"
EASYCACHE_RANGE = (0.15, 0.95)
"""Defaults of ComfyUI's node for where in the run it acts."""


@dataclass(frozen=True)
class Sampling:
    """How a run samples.

    Args:
        attention, clean_refresh: inputs of the sampler node.
        together: all chunks begin at once (``ar_step`` 0), whatever the benchmark's ``ar_step``.
        cache: what the MotionCache node would hang on the MODEL, ``None`` for none.
        easycache: reuse threshold of ComfyUI's own EasyCache node, ``None`` without it.
    """

    attention: str = CHUNK_WISE
    clean_refresh: bool = False
    together: bool = False
    cache: CacheConfig | None = None
    easycache: float | None = None


@dataclass(frozen=True)
class Run:
    """What a run made.

    Args:
        latents: ``[1, 16, F, h, w]`` as the node gives them.
        seconds: wall-clock of the node.
        report: the node's.
    """

    latents: Tensor = field(repr=False)
    seconds: float = 0.0
    report: dict[str, Any] = field(default_factory=dict, repr=False)


class TinyWorld:
    """The shipped model and autoencoder, loaded once."""

    def __init__(self) -> None:
        (checkpoint,) = (FOLDER / "diffusion_models").glob("*skyreels*.safetensors")
        self.model = loaders.MotionCacheLoadSkyReelsV2.execute(checkpoint.name, "default").args[0]
        self.decoder = load_vae(next((FOLDER / "vae").glob("*.safetensors")))
        self.negative = [[embed(None), {}]]

    @torch.inference_mode()
    def sample(self, scene: Scene, seed: int, steps: int, ar_step: int, how: Sampling, **inputs: Any) -> Run:
        """Make a scene's video once, as the demo does but for ``how`` and further ``inputs`` of the sampler node."""
        started = time.perf_counter()
        node = sampling.MotionCacheAutoregressiveSampler
        given = {
            **defaults_of(node),
            **demo.SAMPLING,
            "seed": seed,
            "steps": steps,
            "ar_step": 0 if how.together else ar_step,
            "attention": how.attention,
            "clean_refresh": how.clean_refresh,
            **inputs,
        }
        latent, report, *_ = node.execute(self._patched(how), [[embed(scene), {}]], self.negative, **given).args
        return Run(latent["samples"], time.perf_counter() - started, json.loads(report))

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """``[1, 16, F, h, w]`` -> frames ``[1 + 4 (F - 1), 8 h, 8 w, 3]`` in 0..1."""
        return tiny_vae.decode(self.decoder, latents)[0].movedim(0, -1).add(1).div(2).clamp(0, 1)

    def _patched(self, how: Sampling) -> Any:
        model = self.model
        if how.cache is not None:
            model = model.clone()
            attach_config(model, how.cache)
        if how.easycache is not None:
            from comfy_extras.nodes_easycache import EasyCacheNode

            model = EasyCacheNode.execute(model, how.easycache, *EASYCACHE_RANGE, False).args[0]
        return model
