"""Training of the narrow Wan 2.1 video autoencoder on clips of the world.

The network is ComfyUI's own, at width 8. Its encoder is deterministic here: the log variance half is left at zero
and never used. Latents are kept near zero mean, unit variance and uncorrelated by a penalty, noise is added to them
before decoding so that a diffusion model's small errors do not show, and in the end the exact affine map to Wan's
statistics is folded into the two 1x1x1 convolutions around the latents.
"""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from .host import import_comfyui, wan_statistics
from .muon import Muon
from .parallel import average_gradients
from .world import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, Scene, Sprite, World, render, scenes

log = logging.getLogger("tiny_world")

WIDTH = 8
LATENT_NOISE = 0.12
POLISH_STREAMS = 8
POLISH_AVERAGE = 0.97  # decay of the averaged weights, which are kept
POLISH_RATES = (0.003, 1e-3)  # the same for the decoder alone
RATES = (0.01, 3e-3)  # learning rates of the convolutions (orthogonalised momentum) and of all else (AdamW)
PHASES = (  # (share of the steps, crop in pixels, frames, clips in a batch)
    (0.50, 48, 5, 2),
    (0.30, 64, 9, 1),
    (0.20, 64, 17, 1),
)


def build(width: int = WIDTH) -> torch.nn.Module:
    """A Wan 2.1 autoencoder of that width, as ComfyUI's stock VAE loader would build it, weights not set."""
    import comfy.ldm.wan.vae

    return comfy.ldm.wan.vae.WanVAE(
        dim=width, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[],
        temperal_downsample=[False, True, True], dropout=0.0,
    )  # fmt: skip


def initialise(vae: torch.nn.Module, seed: int) -> None:
    """Set all weights: residual branches start small, everything else keeps its input's variance."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in vae.named_parameters():
            if name.endswith("gamma"):
                p.fill_(1.0)
            elif name.endswith("bias"):
                p.zero_()
            else:
                fan_in = p[0].numel()
                gain = 1.4 if "residual" in name else 1.0
                if name.endswith(("residual.6.weight", "proj.weight")):
                    gain = 0.3
                p.normal_(0, gain / math.sqrt(fan_in), generator=generator)


def encode(vae: torch.nn.Module, video: torch.Tensor) -> torch.Tensor:
    """[B, 3, 1+4k, H, W] in -1..1 -> latents [B, 16, 1+k, H/8, W/8].

    Equal to the network's own frame-wise encode, but all frames after the first go through in one piece.
    """
    cache: list = [None] * _caches(vae.encoder)
    parts = [vae.encoder(video[:, :, :1], cache, [0])]
    if video.shape[2] > 1:
        parts.append(vae.encoder(video[:, :, 1:], cache, [0]))
    return vae.conv1(torch.cat(parts, 2)).chunk(2, 1)[0]


def decode(vae: torch.nn.Module, latents: torch.Tensor) -> torch.Tensor:
    """The inverse of `encode`, in the same way: [B, 16, 1+k, h, w] -> [B, 3, 1+4k, 8h, 8w]."""
    cache: list = [None] * _caches(vae.decoder)
    z = vae.conv2(latents)
    parts = [vae.decoder(z[:, :, :1], cache, [0])]
    if z.shape[2] > 1:
        parts.append(vae.decoder(z[:, :, 1:], cache, [0]))
    return torch.cat(parts, 2)


def _caches(module: torch.nn.Module) -> int:
    import comfy.ldm.wan.vae

    return comfy.ldm.wan.vae.count_conv3d(module) + 4


def clips(count: int, seed: int) -> torch.Tensor:
    """Short clips for training, uint8 [count, 17, 96, 96, 3]: one or two sprites of several sizes and speeds."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(count):
        sprites = tuple(_any_sprite(rng) for _ in range(1 if rng.random() < 0.6 else 2))
        world = World(frames=17, radius=rng.uniform(0.14, 0.22), travel=rng.uniform(0.05, 0.40), jitter=0.38)
        scene = Scene(BACKGROUNDS[i % len(BACKGROUNDS)], sprites)
        out.append((render(scene, int(rng.integers(2**31)), world).frames * 255).round().astype(np.uint8))
    return torch.from_numpy(np.stack(out))


def _any_sprite(rng: np.random.Generator) -> Sprite:
    shape = str(rng.choice(SHAPES, p=[0.65, 0.35]))
    return Sprite(str(rng.choice(list(COLOURS))), shape, str(rng.choice(list(MOTIONS))))


def train(rank: int, work: Path, steps: int, seed: int) -> None:
    """Train and write `work/vae_raw.safetensors`; goes on from `work/vae.pt` if that is there.

    Args:
        rank: number of this process, see `parallel.run`.
    """
    done, state = work / "vae_raw.safetensors", work / "vae.pt"
    import_comfyui()
    vae = build()
    initialise(vae, seed)
    faster_norms(vae)
    inside, rest = _matrices(vae)
    optimisers = [Muon(inside, lr=1.0), torch.optim.AdamW(rest, lr=1.0, betas=(0.9, 0.98), weight_decay=1e-4)]
    start = 0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        vae.load_state_dict(saved["model"])
        for optimiser, s in zip(optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(s)
        start = saved["step"]
        log.info("autoencoder: going on from step %d", start)
    data = clips(240, seed)
    began, shown = time.monotonic(), []
    for step in range(start, steps):
        rng = np.random.default_rng([seed, step, rank])
        generator = torch.Generator().manual_seed((seed * 1_000_003 + step) * 64 + rank)
        share = min(1.0, (step + 1) / 30) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for optimiser, rate in zip(optimisers, RATES, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * share
            optimiser.zero_grad(set_to_none=True)
        video = _batch(data, rng, step / steps)
        latents = encode(vae, video)
        noisy = latents + LATENT_NOISE * torch.randn(latents.shape, generator=generator)
        error = decode(vae, noisy) - video
        fidelity = error.abs().mean() + 2.0 * error.square().mean()
        loss = fidelity + 0.02 * _off_normal(latents)
        loss.backward()
        average_gradients(vae.parameters())
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
        shown.append(float(error.detach().square().mean()))
        if rank:
            continue
        if (step + 1) % 20 == 0:
            psnr = -10 * math.log10(sum(shown) / len(shown) / 4)
            pace = (time.monotonic() - began) / (step + 1 - start)
            log.info("autoencoder: step %d of %d, PSNR %.2f dB, %.2f s a step", step + 1, steps, psnr, pace)
            shown = []
        if (step + 1) % 50 == 0:
            kept = [o.state_dict() for o in optimisers]
            torch.save({"model": vae.state_dict(), "optimisers": kept, "step": step + 1}, state)
    if rank == 0:
        save_file({k: v.contiguous() for k, v in vae.state_dict().items()}, done)


def _matrices(module: torch.nn.Module) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The convolutions between hidden layers, and all other parameters."""
    inside = [p for p in module.parameters() if p.ndim >= 4 and p.shape[0] > 3 and p.shape[1] > 3]
    known = {id(p) for p in inside}
    return inside, [p for p in module.parameters() if id(p) not in known]


def _batch(data: torch.Tensor, rng: np.random.Generator, progress: float) -> torch.Tensor:
    share = 0.0
    crop, frames, count = PHASES[-1][1:]
    for phase in PHASES:
        share += phase[0]
        if progress < share:
            crop, frames, count = phase[1:]
            break
    out = []
    for _ in range(count):
        clip = data[int(rng.integers(len(data)))]
        t, y, x = (int(rng.integers(n - m + 1)) for n, m in zip(clip.shape[:3], (frames, crop, crop), strict=True))
        out.append(clip[t : t + frames, y : y + crop, x : x + crop])
    video = torch.stack(out).permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0
    return video.to(memory_format=torch.channels_last_3d)


def _off_normal(latents: torch.Tensor) -> torch.Tensor:
    """How far the latents are from zero mean, unit variance and uncorrelated channels."""
    flat = latents.transpose(0, 1).flatten(1)
    mean = flat.mean(1)
    centred = flat - mean[:, None]
    covariance = centred @ centred.T / flat.shape[1]
    return mean.square().mean() + (covariance - torch.eye(len(flat))).square().sum() / len(flat)


def faster_norms(vae: torch.nn.Module) -> None:
    """The same normalisation as ComfyUI's, written so that its gradient is quick on a CPU; for training only."""
    import comfy.ldm.wan.vae

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (x.square().mean(1, keepdim=True) + 1e-12).rsqrt() * self.gamma

    for module in vae.modules():
        if isinstance(module, comfy.ldm.wan.vae.RMS_norm):
            module.forward = forward.__get__(module)


def polish(rank: int, work: Path, whole: Path, out: Path, steps: int, seed: int) -> None:
    """Train the decoder alone on whole clips, so that late frames are as good as early ones; latents stay the same.

    Clips are decoded in pieces of two latent frames with the network's own caches handed on, a step for each piece.
    Goes on from `work/polish.pt` if that is there.

    Args:
        rank: number of this process, see `parallel.run`.
        whole: what `finish` wrote.
        out: where the final autoencoder goes.
    """
    import_comfyui()
    vae = build()
    vae.load_state_dict({k: v.float() for k, v in load_file(whole).items()})
    faster_norms(vae)
    vae.requires_grad_(False)
    decoder = vae.decoder.requires_grad_(True)
    inside, rest = _matrices(decoder)
    optimisers = [Muon(inside, lr=1.0), torch.optim.AdamW(rest, lr=1.0, betas=(0.9, 0.98), weight_decay=1e-4)]
    average = {k: v.clone() for k, v in decoder.state_dict().items()}
    state, first = work / "polish.pt", 0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        decoder.load_state_dict(saved["model"])
        for optimiser, s in zip(optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(s)
        average, first = saved["average"], saved["step"]
        log.info("decoder: going on from step %d", first)
    began, shown = time.monotonic(), []
    rng = np.random.default_rng([seed, 1, first, rank])
    streams: list = [None] * POLISH_STREAMS
    for step in range(first, steps):
        # Streams take turns, so that neighbouring steps see different scenes; each begins anew after a whole clip.
        place = step % POLISH_STREAMS
        if streams[place] is None:
            streams[place] = _stream(vae, rng, place if step - first < POLISH_STREAMS else 0)
        z, video, cache, start = streams[place]
        end = 1 if start == 0 else start + 2
        cache = [c.detach() if isinstance(c, torch.Tensor) else c for c in cache]
        share = min(1.0, (step - first + 1) / 20) * (1 - step / steps)
        for optimiser, rate in zip(optimisers, POLISH_RATES, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * share
            optimiser.zero_grad(set_to_none=True)
        decoded = decoder(z[:, :, start:end], cache, [0])
        error = decoded - video[:, :, max(0, 4 * start - 3) : 4 * end - 3]
        loss = error.abs().mean() + 2.0 * error.square().mean()
        loss.backward()
        average_gradients(decoder.parameters())
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
        with torch.no_grad():
            for k, v in decoder.state_dict().items():
                average[k].lerp_(v, 1 - min(POLISH_AVERAGE, (step + 1) / (step + 10)))
        streams[place] = (z, video, cache, end) if end < z.shape[2] else None
        shown.append(float(error.detach().square().mean()))
        if rank:
            continue
        if (step + 1) % 20 == 0:
            psnr = -10 * math.log10(sum(shown) / len(shown) / 4)
            pace = (time.monotonic() - began) / (step + 1 - first)
            log.info("decoder: step %d of %d, PSNR %.2f dB, %.2f s a step", step + 1, steps, psnr, pace)
            shown = []
        if (step + 1) % 60 == 0 or step + 1 == steps:
            kept = [o.state_dict() for o in optimisers]
            saved = {"model": decoder.state_dict(), "average": average, "optimisers": kept, "step": step + 1}
            torch.save(saved, state)
    if rank == 0:
        _save(vae, out, average)
        log.info("autoencoder: wrote %s", out)


@torch.no_grad()
def _stream(vae: torch.nn.Module, rng: np.random.Generator, skip: int) -> tuple:
    """A new batch of whole clips on its way through the decoder: latents, video, caches, next latent frame.

    Args:
        skip: pieces to decode at once without training, so that the streams are at different places of their clips.
    """
    video = _long_batch(rng)
    latents = encode(vae, video)
    spread = wan_statistics()[1].view(1, 16, 1, 1, 1)
    noise = torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32))
    z = vae.conv2(latents + LATENT_NOISE * spread * noise)
    cache: list = [None] * _caches(vae.decoder)
    start = 0
    for _ in range(skip):
        end = 1 if start == 0 else start + 2
        vae.decoder(z[:, :, start:end], cache, [0])
        start = end
    return z, video, cache, start


def _long_batch(rng: np.random.Generator) -> torch.Tensor:
    """Whole clips: one full picture or two crops, [B, 3, 57, H, W] in -1..1."""
    count, crop = (1, 96) if rng.random() < 0.25 else (2, 64)
    out = []
    for _ in range(count):
        sprites = tuple(_any_sprite(rng) for _ in range(1 if rng.random() < 0.75 else 2))
        world = World(radius=rng.uniform(0.16, 0.21), travel=rng.uniform(0.45, 0.65), jitter=rng.uniform(0, 0.3))
        clip = render(Scene(str(rng.choice(BACKGROUNDS)), sprites), int(rng.integers(2**31)), world).frames
        y, x = (int(rng.integers(96 - crop + 1)) for _ in range(2))
        out.append(torch.from_numpy(clip[:, y : y + crop, x : x + crop]))
    video = torch.stack(out).permute(0, 4, 1, 2, 3) * 2 - 1
    return video.contiguous(memory_format=torch.channels_last_3d)


@torch.no_grad()
def finish(raw: Path, out: Path, seed: int, count: int = 45) -> None:
    """Fold the map to Wan's latent statistics into the 1x1x1 convolutions and save in float16.

    Args:
        raw: what `train` wrote.
        count: whole clips, one of every scene, whose latents shall have the statistics.
    """
    vae = build()
    vae.load_state_dict(load_file(raw))
    total, square, places = torch.zeros(16, dtype=torch.float64), torch.zeros(16, dtype=torch.float64), 0
    for i, scene in enumerate(scenes(shapes=("ball",))[:count]):
        frames = torch.from_numpy(render(scene, seed + i).frames)
        z = encode(vae, frames.permute(3, 0, 1, 2)[None] * 2 - 1)[0].flatten(1).double()
        total, square, places = total + z.sum(1), square + z.square().sum(1), places + z.shape[1]
    mean = total / places
    std = (square / places - mean.square()).sqrt()
    wan_mean, wan_std = (s.double() for s in wan_statistics())
    gain = wan_std / std
    offset = wan_mean - gain * mean  # wanted latents = gain * z + offset
    weight, bias = vae.conv1.weight.double(), vae.conv1.bias.double()
    weight[:16] *= gain[:, None, None, None, None]
    bias[:16] = gain * bias[:16] + offset
    weight[16:], bias[16:] = 0.0, -12.0  # the log variance: as good as none
    inverse = vae.conv2.weight.double() / gain[None, :, None, None, None]
    vae.conv2.bias.copy_(vae.conv2.bias.double() - (inverse[:, :, 0, 0, 0] @ offset))
    vae.conv2.weight.copy_(inverse)
    vae.conv1.weight.copy_(weight)
    vae.conv1.bias.copy_(bias)
    _save(vae, out)


def _save(vae: torch.nn.Module, out: Path, decoder: dict[str, torch.Tensor] | None = None) -> None:
    state = vae.state_dict() | {f"decoder.{k}": v for k, v in (decoder or {}).items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.half().contiguous() for k, v in state.items()}, out,
        metadata={"format": "pt", "architecture": "Wan 2.1 VAE", "width": str(WIDTH)},
    )  # fmt: skip
    out.chmod(0o644)
