"""Diffusion-forcing training of the tiny transformer: noise levels, loss, what is written."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from .dataset import Dataset, load_or_encode
from .host import import_comfyui
from .training import Recipe, Training, run
from .transformer import TinySkyReels, initialise

log = logging.getLogger("tiny_world")

CHUNKS = (5,) * 5
SHORT_CHUNKS = CHUNKS[:3]
HISTORY_NOISE = 20
TRAIN_SHIFT = 5.0


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
    chance = torch.tensor(recipe.mix)[data.kind] / torch.bincount(data.kind, minlength=3)[data.kind]
    pick = torch.multinomial(chance, recipe.batch, replacement=True, generator=generator)
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

    def loss(generator: torch.Generator, step: int) -> torch.Tensor:
        chunks = SHORT_CHUNKS if step < recipe.short * recipe.steps else CHUNKS
        return loss_on(model, data, recipe, chunks, generator)

    def write(average: dict[str, torch.Tensor], step: int) -> None:
        export(average, out, step, seed)

    job = Training("transformer", model, lambda name: "blocks." in name, loss, work / "transformer.pt", write)
    run(rank, job, recipe, seed, export_every)


def export(average: dict[str, torch.Tensor], out: Path, step: int, seed: int) -> None:
    """Write weights under their official names in float16."""
    out.parent.mkdir(parents=True, exist_ok=True)
    state = {k.removeprefix("net."): v.half().contiguous() for k, v in average.items()}
    meta = {"format": "pt", "architecture": "SkyReels-V2 diffusion forcing", "steps": str(step), "seed": str(seed)}
    save_file(state, out, metadata=meta)
    out.chmod(0o644)
    log.info("transformer: wrote %s after %d steps", out, step)
