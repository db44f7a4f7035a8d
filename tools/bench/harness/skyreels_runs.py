"""Runs of SkyReels-V2 with random weights through the pack's own sampler node, in this process.

What is timed is what the node does: guider, wrapper around the network, loop, solver, report. Only the policy may be
handed in. ``tools.bench.harness.pack.load`` comes before this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from motioncache.motioncache_core.config import CacheConfig
from motioncache.motioncache_core.kv_cache import KVCache
from motioncache.motioncache_core.models.skyreels_v2.architecture import ArchitectureConfig, expected_keys
from motioncache.motioncache_core.models.skyreels_v2.checkpoint import Weights, fps_delta
from motioncache.motioncache_core.models.skyreels_v2.plan import pixel_length
from motioncache.motioncache_core.models.skyreels_v2.policy import SkyReelsV2Policy
from motioncache.nodes.host import session
from motioncache.nodes.host.model_info import SkyReelsV2Info, add_fps_patch, attach
from motioncache.nodes.host.model_support import attach_config
from motioncache.nodes.host.versions import inference_dtype
from motioncache.nodes.host.wan_loading import load_wan
from motioncache.nodes.sampling import MotionCacheAutoregressiveSampler

from .measured import Measured, timed
from .pack import handed_in

__all__ = ["ArchitectureConfig", "Sampling", "Scene", "random_model", "random_prompts", "sample"]

FPS = 24.0
GUIDANCE = 6.0
SHIFT = 8.0
WEIGHT_SPREAD = 0.02


@dataclass(frozen=True)
class Scene:
    """What is sampled.

    Args:
        chunks: chunks of the video, in one window.
        chunk_frames: latent frames of each.
        height, width: of a latent frame.
        steps: of every chunk.
        ar_step: steps a chunk stays behind the one before it.
        text_tokens: of each of the two prompts.
    """

    chunks: int
    chunk_frames: int
    height: int
    width: int
    steps: int
    ar_step: int
    text_tokens: int = 512

    @property
    def grid(self) -> tuple[int, int]:
        """Token rows and columns of a latent frame."""
        return self.height // 2, self.width // 2

    @property
    def frames(self) -> int:
        """Pixel frames."""
        return pixel_length(self.chunks * self.chunk_frames)


@dataclass(frozen=True)
class Sampling:
    """How it is sampled.

    Args:
        attention, clean_refresh: inputs of the sampler node.
        cache: what the MotionCache node would hang on the MODEL, ``None`` for none.
    """

    attention: str = "chunk-wise"
    clean_refresh: bool = False
    cache: CacheConfig | None = None


def random_model(architecture: ArchitectureConfig, dtype: str, seed: int = 0) -> Any:
    """A MODEL with normally distributed weights, as the pack's loader node makes it.

    Args:
        dtype: ``fp32``, ``bf16`` or ``fp16``.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for key, shape in expected_keys(architecture).items():
        values = torch.randn(shape, generator=generator).mul_(WEIGHT_SPREAD)
        scale_of_norm = len(shape) == 1 and key.endswith("weight")
        tensors[key] = values.add_(1.0) if scale_of_norm else values
    fps = {key: tensors.pop(key) for key in list(tensors) if key.startswith("fps_")}
    info = SkyReelsV2Info("random weights", architecture, fps_delta(fps))
    model = load_wan(Weights(tensors, fps, {}, {}, False), architecture, dtype)
    attach(model, info)
    add_fps_patch(model, info, FPS)
    return model


def random_prompts(scene: Scene, text_width: int, seed: int = 1) -> tuple[Any, Any]:
    """Positive and negative CONDITIONING."""
    generator = torch.Generator().manual_seed(seed)
    positive, negative = (torch.randn(1, scene.text_tokens, text_width, generator=generator) * 0.2 for _ in range(2))
    return [[positive, {}]], [[negative, {}]]


def sample(
    model: Any, prompts: tuple[Any, Any], scene: Scene, sampling: Sampling, policy: SkyReelsV2Policy | None = None
) -> Measured:
    """Sample a video once, guidance on.

    Args:
        policy: stands in for the one that the node would make from ``sampling.cache``.

    Raises:
        RuntimeError: the latents are not finite.
    """
    if sampling.cache is not None:
        model = model.clone()
        attach_config(model, sampling.cache)

    def execute() -> tuple:
        return MotionCacheAutoregressiveSampler.execute(
            model,
            *prompts,
            width=scene.width * 8,
            height=scene.height * 8,
            frames=scene.frames,
            fps=FPS,
            seed=0,
            steps=scene.steps,
            guidance=GUIDANCE,
            shift=SHIFT,
            chunk_size=scene.chunk_frames,
            ar_step=scene.ar_step,
            window=scene.frames,
            overlap=1,
            history_noise=20,
            attention=sampling.attention,
            clean_refresh=sampling.clean_refresh,
            solver="unipc",
            kv_precision="model",
            kv_place="GPU",
            history="latents",
        ).args

    own_policy = {} if policy is None else {"SkyReelsV2Policy": lambda config: policy}
    with handed_in(session, **own_policy):
        return timed(execute, model.load_device, _kv_bytes(model, scene, sampling))


def _kv_bytes(model: Any, scene: Scene, sampling: Sampling) -> int:
    if sampling.attention != "chunk-wise":
        return 0
    network = model.model.diffusion_model
    tokens = scene.chunks * scene.chunk_frames * scene.grid[0] * scene.grid[1]
    return KVCache.bytes_needed(len(network.blocks), tokens, network.dim, 2, inference_dtype(model.model))
