"""Nodes in this process, with ComfyUI's own objects, on a checkpoint of 2 layers of width 128.

A run here is 64 x 48 pixels, that is 4 x 3 tokens a latent frame.
"""

from __future__ import annotations

import gc
import importlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tools import tiny_checkpoints, tiny_magi1

pytest.register_assert_rewrite("tests.nodes.early_ends")

WIDTH, HEIGHT = 64, 48
DEFAULTS: dict[str, Any] = {
    "width": WIDTH,
    "height": HEIGHT,
    "frames": 25,
    "fps": 24.0,
    "seed": 1,
    "steps": 6,
    "guidance": 6.0,
    "shift": 8.0,
    "chunk_size": 3,
    "ar_step": 2,
    "window": 57,
    "overlap": 9,
    "attention": "chunk-wise",
    "history_noise": 20,
    "clean_refresh": False,
    "solver": "unipc",
    "kv_precision": "model",
    "kv_place": "GPU",
    "history": "latents",
}
OBJECT_INPUTS = (
    "fps",
    *("chunk_size", "ar_step", "window", "overlap", "attention"),
    *("history_noise", "clean_refresh", "solver", "kv_precision", "kv_place"),
)
RUN_CLASSES = {"Session", "NetworkRun", "KVCache", "RunState", "SkyReelsV2Policy", "ChunkState", "_Relay", "FlowUniPC"}
RUN_CLASSES |= {"Magi1Session", "Magi1Run", "Magi1Policy", "Magi1Guider", "Euler"}
"""Classes of the pack of which a run makes objects."""


@dataclass
class Video:
    """What the sampler node gave."""

    latents: Tensor
    report: dict[str, Any]
    decisions: Any

    @property
    def summary(self) -> dict[str, Any]:
        return self.report["summary"]

    @property
    def outcomes(self) -> list[tuple]:
        """(chunk, step, role, phase, outcome, tokens) of every decision."""
        return [
            (*call["chunks"], call["step"], b["role"], b["phase"], b["outcome"], b["computed"])
            for call in self.report["calls"]
            for b in call["branches"]
        ]

    @property
    def timeless(self) -> dict[str, Any]:
        """The report without its times."""
        report = json.loads(json.dumps(self.report))
        del report["seconds_by_chunk"], report["summary"]["seconds"]
        for call in report["calls"]:
            del call["seconds"]
        return report


@dataclass
class Nodes:
    """The pack's nodes and what to put into them."""

    pack: ModuleType
    positive: list
    negative: list
    loaded: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def prompt(seed: int, tokens: int = 8) -> list:
        """A CONDITIONING."""
        return [[torch.randn(1, tokens, 4096, generator=torch.Generator().manual_seed(seed)) * 0.2, {}]]

    @staticmethod
    def assert_near(found: Tensor, expected: Tensor, share: float) -> None:
        """Within a share of the largest expected value."""
        assert found.shape == expected.shape
        assert float((found - expected).abs().max() / expected.abs().max()) <= share

    def module(self, name: str) -> ModuleType:
        return importlib.import_module(f"{self.pack.__name__}.{name}")

    def load(self, name: str = "tiny.safetensors", weight_dtype: str = "default") -> Any:
        """A MODEL of the tiny checkpoint; a clone, as another loader node in the graph would not share options."""
        key = f"{name} {weight_dtype}"
        if key not in self.loaded:
            loader = self.module("nodes.loaders").MotionCacheLoadSkyReelsV2
            self.loaded[key] = loader.execute(name, weight_dtype).args[0]
        return self.loaded[key].clone()

    def config(self, **changes: Any) -> Any:
        """Settings that compute, compute partly and reuse on these weights."""
        settings = {
            "warmup_steps": 1,
            "chunk_phase_updates": 1,
            "chunk_threshold": 0.05,
            "token_threshold": 0.1,
            "motion_floor": 0.2,
            "distance": "patch embedding",
            "vote": None,
            "min_update_ratio": 0.0,
        }
        return self.module("motioncache_core.config").CacheConfig(**(settings | changes))

    def cached(self, model: Any = None, **changes: Any) -> Any:
        """A MODEL with settings on it."""
        patched = (model or self.load()).clone()
        self.module("nodes.host.model_support").attach_config(patched, self.config(**changes))
        return patched

    def sample(
        self, model: Any = None, *, positive: list | None = None, negative: list | None = None, **inputs
    ) -> Video:
        node = self.module("nodes.sampling").MotionCacheAutoregressiveSampler
        made = node.execute(
            model or self.load(), positive or self.positive, negative or self.negative, **(DEFAULTS | inputs)
        ).args
        return Video(made[0]["samples"], json.loads(made[1]), made[3])

    def plan(self, **inputs: Any) -> Any:
        values = DEFAULTS | inputs
        module = self.module("motioncache_core.models.skyreels_v2.plan")
        settings = module.SamplingSettings(
            frames=values["frames"],
            steps=values["steps"],
            shift=values["shift"],
            chunk_frames=values["chunk_size"],
            ar_step=values["ar_step"],
            window_frames=values["window"],
            overlap_frames=values["overlap"],
            history_noise=values["history_noise"],
            attention=values["attention"],
            clean_refresh=values["clean_refresh"],
            start_latents=values.get("start_latents", 0),
        )
        return module.build_plan(settings)

    def sampler(self, **inputs: Any) -> Any:
        """The SAMPLER object."""
        values = DEFAULTS | inputs
        node = self.module("nodes.sampling").MotionCacheAutoregressiveSamplerObject
        return node.execute(**{name: values[name] for name in OBJECT_INPUTS}).args[0]

    def custom(self, guider: Any, latent: Tensor | None = None, mask: Tensor | None = None, **inputs: Any) -> tuple:
        """(output, denoised output) of the stock SamplerCustomAdvanced with our SAMPLER and the plan's SIGMAS."""
        from comfy_extras.nodes_custom_sampler import RandomNoise, SamplerCustomAdvanced

        values = DEFAULTS | inputs
        plan = self.plan(**inputs)
        if latent is None:
            latent = torch.zeros(1, 16, plan.latent_frames, values["height"] // 8, values["width"] // 8)
        samples = {"samples": latent} | ({} if mask is None else {"noise_mask": mask})
        sigmas = inputs.get("sigmas", torch.tensor(plan.sigmas))
        noise = RandomNoise.execute(values["seed"]).args[0]
        output = SamplerCustomAdvanced.execute(noise, guider, self.sampler(**inputs), sigmas, samples).args
        return output[0]["samples"], output[1]["samples"]


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    """As ComfyUI runs nodes."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="session")
def _model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import folder_paths

    folder = tmp_path_factory.mktemp("models")
    weights = tiny_checkpoints.transformer()
    save_file(weights, folder / "tiny.safetensors")
    save_file(tiny_checkpoints.without_fps(weights), folder / "tiny_no_fps.safetensors")
    folder_paths.add_model_folder_path("diffusion_models", str(folder))
    return folder


@pytest.fixture(scope="session")
def _nodes(pack: ModuleType, _model_folder: Path) -> Nodes:
    import nodes  # noqa: F401 - ComfyUI's; its extras import it

    return Nodes(pack, Nodes.prompt(0), Nodes.prompt(1))


@pytest.fixture
def mc(_nodes: Nodes) -> Nodes:
    """The pack's nodes."""
    return _nodes


@pytest.fixture(scope="session")
def plain(_nodes: Nodes) -> Video:
    """The default run without a cache."""
    with torch.inference_mode():
        return _nodes.sample()


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Models that were asked to be loaded; none is."""
    import comfy.model_management

    asked: list[Any] = []
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", lambda models, **more: asked.extend(models))
    return asked


@pytest.fixture
def left_behind(pack: ModuleType) -> Iterator[Callable[[], list[str]]]:
    """Names of what a run must not leave: objects of its state that are alive, beyond those before the test."""

    def found() -> list[Any]:
        own = pack.__name__ + "."
        kinds = [o for o in gc.get_objects() if type(o).__name__ in RUN_CLASSES]
        return [o for o in kinds if type(o).__module__.startswith(own)]

    gc.collect()
    assert not found(), "left by an earlier test"
    gc.disable()  # it would hide circles of references, which keep the memory of a run for an unknown time
    yield lambda: sorted(type(o).__name__ for o in found())
    gc.enable()


MAGI1_BASE = "4.5B_base/inference_weight/model-00001-of-00002.safetensors"
MAGI1_DEFAULTS: dict[str, Any] = {
    "width": 64,
    "height": 48,
    "frames": 48,
    "seed": 1,
    "steps": 8,
    "shift": 3.0,
    "window": 4,
    "guidance": "auto (by model)",
    "clean_refresh": True,
    "attention": "chunk-wise",
    "steady_oldest": True,
    "kv_precision": "model",
    "kv_place": "GPU",
    "continue_from": "last frames",
    "continue_frames": 24,
    "aspect": "fit",
}
MAGI1_MIXED = {"warmup_steps": 1, "chunk_phase_updates": 2, "chunk_threshold": 0.01, "token_threshold": 0.02}
"""Settings that compute, compute partly and reuse on these weights."""


class Magi:
    """The nodes for MAGI-1 and what to put into them. ``mc``: the fixture of that name."""

    defaults = MAGI1_DEFAULTS

    def __init__(self, mc: Nodes):
        self.mc = mc
        self.positive = mc.prompt(0)
        self.loaded: dict[str, Any] = {}

    def load(self, name: str = MAGI1_BASE, weight_dtype: str = "default") -> Any:
        key = f"{name} {weight_dtype}"
        if key not in self.loaded:
            loader = self.mc.module("nodes.magi1_loaders").MotionCacheLoadMagi1
            self.loaded[key] = loader.execute(name, weight_dtype).args[0]
        return self.loaded[key].clone()

    def chunk_prompts(self, *prompts: tuple[int, list]) -> Any:
        """What a chain of nodes makes of (first chunk, CONDITIONING) pairs."""
        node = self.mc.module("nodes.magi1_prompts").MotionCacheChunkPrompt
        schedule = None
        for first_chunk, conditioning in prompts:
            (schedule,) = node.execute(conditioning, first_chunk, schedule).args
        return schedule

    def cached(self, model: Any = None, **changes: Any) -> Any:
        """A MODEL with settings on it."""
        patched = (model or self.load()).clone()
        settings = MAGI1_MIXED | {"motion_floor": 0.2} | changes
        config = self.mc.module("motioncache_core.config").Magi1CacheConfig(**settings)
        self.mc.module("nodes.host.model_support").attach_config(patched, config)
        return patched

    def sample(self, model: Any = None, positive: list | None = None, **inputs: Any) -> Any:
        node = self.mc.module("nodes.magi1_sampling").MotionCacheMagi1Sampler
        made = node.execute(model or self.load(), positive or self.positive, **(self.defaults | inputs)).args
        return Video(made[0]["samples"], json.loads(made[1]), made[3])


@pytest.fixture(scope="session")
def _magi(_nodes: Any, tmp_path_factory: pytest.TempPathFactory) -> Magi:
    import folder_paths

    folder = tmp_path_factory.mktemp("magi1")
    tiny_magi1.write_all(folder)
    folder_paths.add_model_folder_path("diffusion_models", str(folder))
    return Magi(_nodes)


@pytest.fixture
def magi(_magi: Magi) -> Magi:
    """The pack's nodes for MAGI-1."""
    return _magi
