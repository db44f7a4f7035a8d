"""The transformer's training data: clips of the world as normalised latents, with their prompts and sprite places."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from . import vae as vae_module
from .host import wan_statistics
from .parallel import barrier, workers
from .prompts import embed
from .world import BACKGROUNDS, COLOURS, MOTIONS, Scene, pairs, render, scenes

log = logging.getLogger("tiny_world")


def known_scenes() -> list[Scene]:
    """The scenes with one sprite that the demo model is made for: all backgrounds, colours, motions and speeds (81)."""
    return scenes(shapes=("ball",))


def known_pairs() -> list[Scene]:
    """The scenes with two sprites that it is made for, in an order that mixes them."""
    every = pairs()
    return [every[i] for i in np.random.default_rng(11).permutation(len(every))]


def held_out(scene: Scene) -> bool:
    """True for the scenes that are never trained: one motion, at any speed, of every pair of background and colour.

    A scene with two sprites is held out if one of them makes it so.
    """
    b, motions, colours = BACKGROUNDS.index(scene.background), list(MOTIONS), list(COLOURS)
    return any((b + 2 * colours.index(s.colour) + motions.index(s.motion)) % len(motions) == 0 for s in scene.sprites)


def training_scenes(clips_per_scene: int) -> list[Scene]:
    """The scene of every training clip: each trained scene with one sprite so often, and as many with two."""
    alone = [s for s in known_scenes() if not held_out(s)] * clips_per_scene
    two = [s for s in known_pairs() if not held_out(s)]
    return alone + [two[i % len(two)] for i in range(len(alone))]


def to_video(frames: np.ndarray) -> torch.Tensor:
    """[F, H, W, 3] in 0..1 -> [1, 3, F, H, W] in -1..1, as the autoencoder takes it."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(3, 0, 1, 2)[None].float() * 2 - 1


def to_frames(video: torch.Tensor) -> np.ndarray:
    """The inverse of `to_video`, clamped."""
    return video[0].permute(1, 2, 3, 0).add(1).div(2).clamp(0, 1).numpy()


def load_vae(path: Path) -> torch.nn.Module:
    """The finished autoencoder, in float32."""
    model = vae_module.build()
    model.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    vae_module.faster_norms(model)
    return model.eval().requires_grad_(False)


@dataclass
class Dataset:
    """Clips as the transformer sees them.

    Attributes:
        latents: [N, 16, F, h, w] normalised.
        places: [N, F, h, w] share of each latent place that the sprite covers, its largest over the pixels and frames.
        scene: [N] index into `contexts`.
        contexts: [S, T, 4096] prompt embedding of every trained scene.
        empty: [T, 4096] the empty prompt.
    """

    latents: torch.Tensor
    places: torch.Tensor
    scene: torch.Tensor
    contexts: torch.Tensor
    empty: torch.Tensor


@torch.no_grad()
def load_or_encode(rank: int, work: Path, vae_path: Path, clips_per_scene: int, seed: int) -> Dataset:
    """The training clips, rendered and encoded once and kept in `work`; every process encodes its share of them."""
    jobs = training_scenes(clips_per_scene)
    distinct = list(dict.fromkeys(jobs))
    number = {scene: i for i, scene in enumerate(distinct)}
    share = work / f"latents_{rank}_of_{workers()}.safetensors"
    if not share.exists():
        model = load_vae(vae_path)
        mean, std = (s.view(1, 16, 1, 1, 1) for s in wan_statistics())
        latents, places, index = [], [], []
        began = time.monotonic()
        mine = list(range(len(jobs)))[rank :: workers()]
        for done, job in enumerate(mine, 1):
            clip = render(jobs[job], seed * 1_000_003 + job)
            latents.append(((vae_module.encode(model, to_video(clip.frames)) - mean) / std)[0].half())
            places.append(pool_coverage(torch.from_numpy(clip.coverage.max(0))).half())
            index.append(number[jobs[job]])
            if done % 40 == 0 and rank == 0:
                log.info("latents: %d of %d clips, %.0f s", done, len(mine), time.monotonic() - began)
        save_file({"latents": torch.stack(latents), "places": torch.stack(places), "scene": torch.tensor(index)}, share)
    barrier()
    parts = [load_file(p) for p in sorted(work.glob(f"latents_*_of_{workers()}.safetensors"))]
    latents, places, scene = (torch.cat([p[k] for p in parts]) for k in ("latents", "places", "scene"))
    contexts = torch.cat([embed(s) for s in distinct])
    return Dataset(latents.float(), places.float(), scene, contexts, embed(None)[0])


def pool_coverage(coverage: torch.Tensor) -> torch.Tensor:
    """Pixel coverage [1+4k, H, W] -> latent coverage [1+k, H/8, W/8], the largest value of each group."""
    first = torch.nn.functional.max_pool2d(coverage[:1], 8)
    if coverage.shape[0] == 1:
        return first
    rest = torch.nn.functional.max_pool3d(coverage[None, None, 1:], (4, 8, 8))[0, 0]
    return torch.cat([first, rest])
