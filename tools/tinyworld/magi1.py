"""A tiny MAGI-1 of the tiny world: the pack's own network, trained in the staged window that it is sampled in.

It is of the distilled kind: one pass a step without guidance, told the length of its steps. Its latents are those of
the world's Wan autoencoder, which have 16 channels as MAGI-1's; a clip's 24 latent frames are 4 chunks of 6. The stock
VAE Decode with that autoencoder makes them visible (24 latent frames give 93 video frames, as Wan's do).

Latents are 0.18215 times the autoencoder's, as MAGI-1 takes its own, and about 0.4 large; so they drown in noise
earlier than MAGI-1's own. ``SHIFT`` makes up for that: with 1.2, chunks are at the signal-to-noise ratios that MAGI-1
has with 3.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from motioncache_core.models.magi1.architecture import NULL_CAPTION, ArchitectureConfig
from motioncache_core.models.magi1.items import Fresh, Item
from motioncache_core.models.magi1.plan import SamplingSettings
from motioncache_core.models.magi1.schedule import Stage, as_float32, sight, stages
from motioncache_core.models.magi1.transformer import Magi1Transformer

from . import prompts, training
from .dataset import Dataset, load_or_encode
from .host import import_comfyui, wan_statistics
from .world import Scene

log = logging.getLogger("tiny_world")

CONFIG = ArchitectureConfig(
    dim=160, ffn_dim=480, num_heads=5, num_groups=1, num_layers=4, head_dim=32, text_dim=64, text_tokens=16
)
"""1.2 million numbers, 2.4 MB. Text is the world's, cut to 64 channels: 4096 would take three quarters of them."""
SCALE = 0.18215
"""Of MAGI-1's latent format."""
SHIFT = 1.2
SHIFTS = (1.0, 3.0)
"""Trained with shifts between these."""
STEPS = (8, 16, 32, 64)
"""Step counts that it is told about."""
WINDOW = SamplingSettings()
NOT_REFRESHED = 0.3
"""Share of clips whose finished chunk is seen as in its last noisy step."""
STEADIED = 0.3
"""Share of clips whose cleanest chunk is also passed without history."""


def build(config: ArchitectureConfig = CONFIG) -> Magi1Transformer:
    """The pack's network in float32, with layers that keep gradients."""
    import comfy.ops

    return Magi1Transformer(config, comfy.ops.disable_weight_init, torch.float32)


def initialise(model: Magi1Transformer, seed: int) -> None:
    """Set all weights; the head and what the blocks add start small."""
    generator = torch.Generator().manual_seed(seed)
    bands = torch.logspace(0, math.log10(0.05), model.config.head_dim // 8)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name == "rope.bands":
                p.copy_(bands)
            elif name.endswith("bias"):
                p.fill_(0.5 if "ada_modulate" in name else 0.0)  # gates
            elif "post_norm" in name:
                p.fill_(-0.6)  # stored one too small
            elif name.endswith("layer_norm.weight"):
                p.fill_(1.0)
            elif "norm" in name:
                p.zero_()
            elif "null_caption" in name:
                p.normal_(0, 1, generator=generator)
            elif "final_linear" in name:
                p.normal_(0, 0.005, generator=generator)
            else:
                p.normal_(0, 1 / math.sqrt(p[0].numel()), generator=generator)


def to_model_units(latents: Tensor) -> Tensor:
    """Latents normalised by Wan's statistics, ``[N, 16, F, h, w]`` -> what the network sees of them."""
    mean, std = (s.view(1, 16, 1, 1, 1) for s in wan_statistics())
    return (latents * std + mean) * SCALE


def text_of(scene: Scene | None) -> Tensor:
    """``[8, 64]`` prompt of a scene."""
    return narrowed(prompts.embed(scene)[0])


def narrowed(context: Tensor) -> Tensor:
    """``[..., 4096]`` -> ``[..., 64]``: the first channels; words keep vectors of their own."""
    return context[..., : CONFIG.text_dim].contiguous()


@dataclass
class Batch:
    """Items of one call of the network and what they should give.

    Args:
        items: of all clips.
        targets: item -> velocity ``[16, 6, h, w]``.
        weights: item -> ``[6, h, w]`` of its error.
        times: item -> its time.
    """

    items: list[Item]
    targets: dict[int, Tensor]
    weights: dict[int, Tensor]
    times: dict[int, float]


def time_at(place: float, shift: float) -> float:
    """MAGI-1's time with a share of the steps done."""
    return as_float32(place**2 / shift / (1 + (1 / shift - 1) * place**2))


def add_clip(
    batch: Batch, clean: Tensor, weight: Tensor, text: Tensor, stage: Stage, generator: torch.Generator
) -> None:
    """A clip somewhere in a stage of its run: active chunks, and the finished one before them.

    Args:
        clean: ``[16, F, h, w]``, F a multiple of 6.
        weight: ``[F, h, w]``.
        text: ``[L, 64]``.
    """

    def uniform() -> float:
        return float(torch.rand((), generator=generator))

    frames, window = WINDOW.chunk_frames, WINDOW.window_chunks
    shift = SHIFTS[0] + (SHIFTS[1] - SHIFTS[0]) * uniform()
    steps = STEPS[int(torch.randint(len(STEPS), (), generator=generator))]
    inner, noise = uniform(), torch.randn(clean.shape, generator=generator)
    places: dict[int, int] = {}

    def add(chunk: int, t: float, reads: tuple[Fresh, ...], seen: Tensor | None) -> int:
        own = slice(chunk * frames, (chunk + 1) * frames)
        noisy = clean[:, own] * t + noise[:, own] * (1 - t)
        batch.items.append(Item(noisy, t, seen, chunk * frames, reads, step_length=steps / 2))
        return len(batch.items) - 1

    def wanted(place: int, chunk: int, t: float) -> None:
        own = slice(chunk * frames, (chunk + 1) * frames)
        batch.targets[place] = clean[:, own] - noise[:, own]
        batch.weights[place], batch.times[place] = weight[own], t

    if stage.first:
        finished, at = stage.first - 1, len(batch.items)
        noisy = uniform() < NOT_REFRESHED
        t = time_at(1 - 1 / steps, shift) if noisy else as_float32(WINDOW.clean_t)
        places[finished] = add(finished, t, (Fresh(at),), text if noisy else None)
    for chunk in range(stage.first, stage.stop):
        quarter = stage.oldest - (chunk - stage.first)
        t = time_at((quarter + inner) / window, shift)
        places[chunk] = len(batch.items)
        first, last = sight(chunk, WINDOW.history_chunks[quarter])
        reads = tuple(Fresh(places[c]) for c in range(first, last) if c in places)
        wanted(add(chunk, t, reads, text), chunk, t)
    if uniform() < STEADIED:
        t = batch.times[places[stage.first]]
        wanted(add(stage.first, t, (Fresh(len(batch.items)),), text), stage.first, t)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Plain attention with gradients."""
    q, k, v = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def random_batch(data: Dataset, recipe: training.Recipe, generator: torch.Generator) -> Batch:
    """Clips of ``data`` (in the network's units), each in a random stage; two in three see all four chunks in work."""
    frames = WINDOW.chunk_frames
    chunks = data.latents.shape[2] // frames
    every = stages(chunks, WINDOW.window_chunks, 0)
    batch = Batch([], {}, {}, {})
    for pick in torch.randint(len(data.latents), (recipe.batch,), generator=generator).tolist():
        stage = every[int(torch.randint(len(every), (), generator=generator))]
        weight = 1 + (recipe.sprite_weight - 1) * data.places[pick]
        weight[0] *= recipe.first_weight
        used = slice(chunks * frames)
        text = data.contexts[data.scene[pick]]
        add_clip(batch, data.latents[pick, :, used], weight[used], text, stage, generator)
    return batch


def loss_on(model: Magi1Transformer, batch: Batch) -> Tensor:
    """Weighted mean square error of the velocity, in the units of normalised latents."""
    scale = (wan_statistics()[1] * SCALE).view(16, 1, 1, 1)
    mean_scale = float(scale.mean())
    velocities = model(batch.items, attend)
    error, total = torch.zeros(()), 0.0
    for place, target in batch.targets.items():
        t = batch.times[place]
        level = (1 - t) + t * mean_scale  # what the noisy latents' size would be divided by
        weight = batch.weights[place] * min((1 - t) * 10, 1.0)  # nearly clean chunks hold no noise to be found
        error = error + ((velocities[place] - target) / scale * level).square().mean(0).mul(weight).sum()
        total += float(weight.sum())
    return error / max(total, 1.0)


def train(
    rank: int, recipe: training.Recipe, work: Path, seed: int, out: Path, vae_path: Path, clips_per_scene: int
) -> list[float]:
    """Train and export; goes on from ``work/magi1.pt``. Returns the loss of every step made."""
    import_comfyui()
    data = load_or_encode(rank, work, vae_path, clips_per_scene, seed)
    data.latents, data.contexts = to_model_units(data.latents), narrowed(data.contexts)
    model = build()
    initialise(model, seed)

    def loss(generator: torch.Generator, step: int) -> Tensor:
        return loss_on(model, random_batch(data, recipe, generator))

    def write(average: dict[str, Tensor], step: int) -> None:
        export(average, out, step, seed)

    job = training.Training("magi1", model, lambda name: ".layers." in name, loss, work / "magi1.pt", write)
    return training.run(rank, job, recipe, seed)


def export(average: dict[str, Tensor], out: Path, step: int, seed: int) -> None:
    """Write weights under their official names in float16."""
    out.parent.mkdir(parents=True, exist_ok=True)
    state = {k.replace(f"{NULL_CAPTION}.weight", NULL_CAPTION): v.half().contiguous() for k, v in average.items()}
    meta = {"format": "pt", "architecture": "MAGI-1, distilled kind", "steps": str(step), "seed": str(seed)}
    save_file(state, out, metadata=meta)
    out.chmod(0o644)
    log.info("magi1: wrote %s after %d steps", out, step)


def write_prompts(folder: Path) -> None:
    """Write the world's prompts at this model's text width, in the saved-prompt format."""
    folder.mkdir(parents=True, exist_ok=True)
    for scene in prompts.SHIPPED:
        path = folder / f"{prompts.file_name(scene)} (tiny MAGI-1).safetensors"
        meta = {"format": "motioncache_prompt", "version": "1", "text": scene.text}
        save_file({"entries.0.cond": text_of(scene)[None].half()}, path, metadata=meta)
        path.chmod(0o644)
