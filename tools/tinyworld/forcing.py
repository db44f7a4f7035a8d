"""Diffusion-forcing training of the tiny transformer: noise levels, loss, optimiser, checkpoints."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from .dataset import Dataset, load_or_encode
from .host import import_comfyui
from .muon import Muon
from .parallel import average_gradients
from .transformer import TinySkyReels, initialise

log = logging.getLogger("tiny_world")

CHUNKS = (5,) * 5
SHORT_CHUNKS = CHUNKS[:3]
HISTORY_NOISE = 20
TRAIN_SHIFT = 5.0


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Args:
        steps: optimiser steps.
        short: share of the steps, at the beginning, that see the first three chunks of a clip only; they cost half.
        batch: clips in a step, of every worker.
        rate: learning rate of the matrices inside the blocks (orthogonalised momentum) and, times `adam_share`, of all
            the rest (AdamW).
        warm_up: steps until the full learning rate.
        decay_from: share of the steps after which the learning rate falls to zero, linearly.
        drop: share of the prompts replaced by the empty one.
        sprite_weight: loss weight of a latent place that a sprite covers; elsewhere it is 1.
        first_weight: loss weight of the first latent frame, which stands for one picture and looks unlike the others.
        ema: decay of the averaged weights, which are the ones that are kept.
    """

    steps: int = 2600
    short: float = 0.4
    batch: int = 3
    rate: float = 5e-3
    adam_share: float = 0.3
    warm_up: int = 60
    decay_from: float = 0.65
    drop: float = 0.12
    sprite_weight: float = 6.0
    first_weight: float = 3.0
    ema: float = 0.995


def noise_levels(batch: int, chunks: int, generator: torch.Generator) -> torch.Tensor:
    """Sigma of every chunk, [B, chunks], in 0..1.

    A third of the clips have an independent level in every chunk. The others stand somewhere in a sampling run whose
    chunks start one after the other, from all at once to strictly in turn; a chunk that is through is clean, has the
    small noise of a history, or is left a little noisy as by a run that never refreshes its finished chunks.
    """

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    free = uniform(batch, chunks)
    delay = uniform(batch, 1) ** 1.5
    stand = uniform(batch, 1) * (1 + delay * (chunks - 1))
    staged = 1 - (stand - delay * torch.arange(chunks))
    level = torch.where(uniform(batch, 1) < 0.35, free, staged)
    level = torch.where((level > 1) & (uniform(batch, chunks) < 0.5), free, level)  # not started: nobody sees it
    sigma = shifted(level.clamp(0, 1), TRAIN_SHIFT)
    kind = uniform(batch, chunks)
    through = torch.where(kind < 0.4, 0.0, torch.where(kind < 0.7, HISTORY_NOISE / 1000, 0.3 * uniform(batch, chunks)))
    history = (level <= 0) | ((uniform(batch, chunks) < 0.12) & (torch.arange(chunks) < chunks - 1))
    sigma = torch.where(history, through, sigma)
    return (sigma * 1000).round().clamp(0, 999) / 1000


def shifted(u: torch.Tensor, shift: float) -> torch.Tensor:
    """Flow shift of a noise level: s·u / (1 + (s - 1)·u)."""
    return shift * u / (1 + (shift - 1) * u)


def loss_on(
    model: TinySkyReels, data: Dataset, recipe: Recipe, chunks: tuple[int, ...], generator: torch.Generator
) -> torch.Tensor:
    """Weighted mean square error of the velocity on one random batch of the first `chunks` of clips."""
    pick = torch.randint(len(data.latents), (recipe.batch,), generator=generator)
    clean, places = data.latents[pick, :, : sum(chunks)], data.places[pick, : sum(chunks)]
    context = data.contexts[data.scene[pick]].clone()
    context[torch.rand(recipe.batch, generator=generator) < recipe.drop] = data.empty
    fps = (torch.rand(recipe.batch, generator=generator) < 0.85).long()
    repeats = torch.tensor(chunks)
    sigma = noise_levels(recipe.batch, len(chunks), generator).repeat_interleave(repeats, 1)
    noise = torch.randn(clean.shape, generator=generator)
    spread = sigma[:, None, :, None, None]
    noisy = (1 - spread) * clean + spread * noise
    velocity = model(noisy, sigma * 1000, context, fps, chunks)
    error = (velocity - (noise - clean)).square().mean(1)
    weight = 1 + (recipe.sprite_weight - 1) * places
    weight[:, 0] *= recipe.first_weight
    weight = weight * (sigma * 10).clamp(0, 1)[:, :, None, None]  # nearly clean frames hold no noise to be found
    weight = torch.where(sigma[:, :, None, None] < 0.03, 0.0, weight)
    return (error * weight).sum() / weight.sum().clamp(min=1)


def learning_rate(step: int, recipe: Recipe) -> float:
    """Share of the full learning rate in a step."""
    warm = min(1.0, (step + 1) / recipe.warm_up)
    left = (1 - step / recipe.steps) / (1 - recipe.decay_from)
    return warm * min(1.0, max(0.0, left))


def train(
    rank: int, recipe: Recipe, work: Path, seed: int, out: Path, vae_path: Path, clips_per_scene: int,
    begin_with: Path | None = None, export_every: float = 600.0,
) -> None:  # fmt: skip
    """Train and export the averaged weights to `out`, also every `export_every` seconds on the way.

    Goes on from `work/transformer.pt` if that is there; the random numbers of a step follow from seed and step.

    Args:
        rank: number of this process, see `parallel.run`.
        vae_path: the finished autoencoder; the training clips are encoded with it, once.
        clips_per_scene: see `training_scenes`.
        begin_with: an exported transformer to begin with, else new weights.
    """
    import_comfyui()
    data = load_or_encode(rank, work, vae_path, clips_per_scene, seed)
    model = TinySkyReels()
    if begin_with is None:
        initialise(model, seed)
    else:
        model.load_official(load_file(begin_with))
    inside = [p for n, p in model.named_parameters() if "blocks." in n and p.ndim == 2]
    known = {id(p) for p in inside}
    rest = [p for p in model.parameters() if id(p) not in known]
    optimisers = [Muon(inside, lr=1.0), torch.optim.AdamW(rest, lr=1.0, betas=(0.9, 0.98), weight_decay=0.01)]
    full = [recipe.rate, recipe.rate * recipe.adam_share]
    average = {k: v.clone() for k, v in model.state_dict().items()}
    state, start = work / "transformer.pt", 0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"])
        average = saved["average"]
        for optimiser, s in zip(optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(s)
        start = saved["step"]
        log.info("transformer: going on from step %d", start)

    def keep(step: int) -> None:
        torch.save(
            {"model": model.state_dict(), "average": average, "step": step,
             "optimisers": [o.state_dict() for o in optimisers]}, state,
        )  # fmt: skip

    began = exported = time.monotonic()
    shown: list[float] = []
    for step in range(start, recipe.steps):
        generator = torch.Generator().manual_seed((seed * 1_000_003 + step) * 64 + rank)
        share = learning_rate(step, recipe)
        for optimiser, rate in zip(optimisers, full, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * share
            optimiser.zero_grad(set_to_none=True)
        chunks = SHORT_CHUNKS if step < recipe.short * recipe.steps else CHUNKS
        loss = loss_on(model, data, recipe, chunks, generator)
        loss.backward()
        average_gradients(model.parameters())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
        decay = min(recipe.ema, (step + 1) / (step + 10))
        with torch.no_grad():
            for k, v in model.state_dict().items():
                average[k].lerp_(v, 1 - decay)
        if rank:
            continue
        shown.append(loss.item())
        if (step + 1) % 25 == 0:
            pace = (time.monotonic() - began) / (step + 1 - start)
            log.info(
                "transformer: step %d of %d, loss %.4f, rate share %.2f, %.2f s a step",
                step + 1, recipe.steps, sum(shown) / len(shown), share, pace,
            )  # fmt: skip
            shown = []
        if (step + 1) % 100 == 0:
            keep(step + 1)
        if time.monotonic() - exported > export_every:
            exported = time.monotonic()
            export(average, out, step + 1, seed)
    if rank == 0:
        keep(recipe.steps)
        export(average, out, recipe.steps, seed)


def export(average: dict[str, torch.Tensor], out: Path, step: int, seed: int) -> None:
    """Write weights under their official names in float16."""
    out.parent.mkdir(parents=True, exist_ok=True)
    state = {k.removeprefix("net."): v.half().contiguous() for k, v in average.items()}
    meta = {"format": "pt", "architecture": "SkyReels-V2 diffusion forcing", "steps": str(step), "seed": str(seed)}
    save_file(state, out, metadata=meta)
    out.chmod(0o644)
    log.info("transformer: wrote %s after %d steps", out, step)
