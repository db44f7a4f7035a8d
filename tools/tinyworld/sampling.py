"""Plain sampling of the tiny model, to see what it has learnt: block-causal, all chunks in every step, Euler."""

from __future__ import annotations

import torch

from .forcing import CHUNKS, shifted
from .transformer import TinySkyReels


@torch.no_grad()
def sample(
    model: TinySkyReels, context: torch.Tensor, empty: torch.Tensor, seed: int, *, steps: int = 20, shift: float = 5.0,
    guidance: float = 2.0, ar_step: int = 0, size: int = 12, chunks: tuple[int, ...] = CHUNKS,
) -> torch.Tensor:  # fmt: skip
    """Latents [1, 16, F, size, size] for a prompt.

    Args:
        context: [T, 4096] prompt; `empty` likewise, for guidance.
        ar_step: how many steps a chunk starts after the one before it; 0 = together.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((1, 16, sum(chunks), size, size), generator=generator)
    sigmas = torch.cat([shifted(torch.linspace(0.999, 0, steps + 1)[:-1], shift), torch.zeros(1)])
    both = torch.stack([context, empty])
    repeats = torch.tensor(chunks)
    fps = torch.ones(2, dtype=torch.long)
    for row in range(steps + ar_step * (len(chunks) - 1)):
        place = torch.tensor([min(max(row - i * ar_step, 0), steps) for i in range(len(chunks))])
        after = torch.tensor([min(max(row + 1 - i * ar_step, 0), steps) for i in range(len(chunks))])
        now, then = (sigmas[p].repeat_interleave(repeats) for p in (place, after))
        t = (now * 1000).floor()[None].expand(2, -1)
        cond, uncond = model(x.expand(2, -1, -1, -1, -1), t, both, fps, chunks).chunk(2)
        velocity = uncond + guidance * (cond - uncond)
        x = x + (then - now)[None, None, :, None, None] * velocity
    return x
