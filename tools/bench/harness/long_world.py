"""Long videos of the tiny world's model, made by the sampler node in any way of going on, or by a chain of nodes.

``tools.bench.harness.pack.load`` comes before this module.
"""

from __future__ import annotations

import json
import time
from typing import Any

from motioncache.motioncache_core.models.skyreels_v2.plan import pixel_length
from motioncache.nodes import sampling
from torch import Tensor

from tools.tinyworld import demo
from tools.tinyworld.prompts import embed
from tools.tinyworld.world import Scene

from . import chains
from .pack import defaults_of
from .tiny_world_runs import FOLDER, Run, TinyWorld

AR_STEP, OVERLAP = 5, 17
"""Of the demo workflow."""
NOT_OF_A_TAKE = ("frames", "guidance", "overlap", "history")
TAKE = {name: value for name, value in demo.SAMPLING.items() if name not in NOT_OF_A_TAKE} | {"ar_step": AR_STEP}
"""Inputs of *Begin video* that make the same video as the demo."""


class LongWorld:
    """The shipped model and both forms of its autoencoder. ``steps``: of every chunk."""

    def __init__(self, steps: int):
        import nodes

        self.tiny, self.steps = TinyWorld(), steps
        self.vae = nodes.VAELoader().load_vae(next((FOLDER / "vae").glob("*.safetensors")).name)[0]

    def sample(self, scene: Scene, seed: int, chunks: int, **inputs: Any) -> Run:
        """One run of the sampler node."""
        values = defaults_of(sampling.MotionCacheAutoregressiveSampler) | demo.SAMPLING
        values |= {
            "frames": pixel_length(chunks * values["chunk_size"]),
            "overlap": OVERLAP,
            "ar_step": AR_STEP,
            "steps": self.steps,
            "seed": seed,
            "vae": self.vae,
        }
        started = time.perf_counter()
        latent, report, *_ = sampling.MotionCacheAutoregressiveSampler.execute(
            self.tiny.model, [[embed(scene), {}]], self.tiny.negative, **(values | inputs)
        ).args
        return Run(latent["samples"], time.perf_counter() - started, json.loads(report))

    def decode(self, latents: Tensor) -> Tensor:
        """See :meth:`.tiny_world_runs.TinyWorld.decode`."""
        return self.tiny.decode(latents)

    def chain(self, scene: Scene, seed: int, nodes: list[int], **inputs: Any) -> Tensor:
        """The same video by a chain of nodes. ``nodes``: chunks of each."""
        take = chains.begin_skyreels(self.tiny.model, **(TAKE | {"steps": self.steps, "seed": seed} | inputs))
        for chunks in nodes:
            take = chains.more(
                take, [[embed(scene), {}]], chunks, negative=self.tiny.negative, guidance=demo.SAMPLING["guidance"]
            )
        return chains.finish(take)[0]
