"""The small SkyReels-V2 transformer: ComfyUI's Wan network, the fps layers, with a block-causal forward."""

from __future__ import annotations

import math

import torch
from torch import nn

WIDTH = 256  # ComfyUI takes one head per 128
LAYERS = 4
FFN = 352
TEXT_WIDTH = 4096


class TinySkyReels(nn.Module):
    """The network and what diffusion forcing asks of it; its state dict has the official keys of DF-1.3B-540P.

    Sources: the SkyReels-V2 paper (arXiv 2504.13074) for diffusion forcing; the layers are ComfyUI's `WanModel`.
    """

    def __init__(self, width: int = WIDTH, layers: int = LAYERS, ffn: int = FFN) -> None:
        super().__init__()
        import comfy.ldm.wan.model
        import comfy.ops

        self.net = comfy.ldm.wan.model.WanModel(
            model_type="t2v", dim=width, ffn_dim=ffn, num_heads=width // 128, num_layers=layers, text_dim=TEXT_WIDTH,
            dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init,
        )  # fmt: skip
        self.fps_embedding = nn.Embedding(2, width)
        self.fps_projection = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 6 * width))
        self._rope: dict[tuple[int, int, int], torch.Tensor] = {}

    def official_state(self) -> dict[str, torch.Tensor]:
        """The weights under their official names."""
        return {k.removeprefix("net."): v for k, v in self.state_dict().items()}

    def load_official(self, state: dict[str, torch.Tensor]) -> None:
        """Load weights with their official names; all must be there."""
        self.load_state_dict({k if k.startswith("fps_") else f"net.{k}": v.float() for k, v in state.items()})

    def forward(
        self, x: torch.Tensor, timestep: torch.Tensor, context: torch.Tensor, fps_index: torch.Tensor,
        chunks: tuple[int, ...],
    ) -> torch.Tensor:  # fmt: skip
        """Velocity of every latent frame; a frame sees its own chunk and the chunks before it.

        Args:
            x: [B, 16, F, H, W] latents, normalised.
            timestep: [B, F] in 0..1000.
            context: [B, T, 4096] prompt embeddings.
            fps_index: [B] 0 for 16 frames per second, 1 for 24.
            chunks: latent frames of each chunk; they sum up to F.
        """
        from comfy.ldm.flux.math import apply_rope1
        from comfy.ldm.wan.model import sinusoidal_embedding_1d

        net = self.net
        batch, _, frames, rows, columns = x.shape
        h = net.patch_embedding(x)
        grid = h.shape[2:]
        per_frame = grid[1] * grid[2]
        h = h.flatten(2).transpose(1, 2)
        key = (frames, rows, columns)
        if key not in self._rope:
            self._rope[key] = net.rope_encode(frames, rows, columns, device=x.device, dtype=torch.float32)
        rope = self._rope[key]
        ends = [sum(chunks[: i + 1]) * per_frame for i in range(len(chunks))]

        e = net.time_embedding(sinusoidal_embedding_1d(net.freq_dim, timestep.flatten()))
        e = e.view(batch, frames, -1)
        e0 = net.time_projection(e).unflatten(2, (6, net.dim))
        fps = self.fps_projection(self.fps_embedding(fps_index)).view(batch, 1, 6, net.dim)
        e0 = e0 + fps
        text = net.text_embedding(context)
        heads, size = net.num_heads, net.dim // net.num_heads

        def spread(v: torch.Tensor) -> torch.Tensor:  # [B, F, C] -> [B, L, C]
            return v.unsqueeze(2).expand(-1, -1, per_frame, -1).reshape(batch, -1, net.dim)

        for block in net.blocks:
            modulation = (block.modulation.unsqueeze(0) + e0).unbind(2)
            shift1, scale1, gate1, shift2, scale2, gate2 = (spread(m) for m in modulation)
            y = torch.addcmul(shift1, block.norm1(h), 1 + scale1)
            attention = block.self_attn
            q = apply_rope1(attention.norm_q(attention.q(y)).view(batch, -1, heads, size), rope).transpose(1, 2)
            k = apply_rope1(attention.norm_k(attention.k(y)).view(batch, -1, heads, size), rope).transpose(1, 2)
            v = attention.v(y).view(batch, -1, heads, size).transpose(1, 2)
            parts, start = [], 0
            for end in ends:
                parts.append(
                    nn.functional.scaled_dot_product_attention(q[:, :, start:end], k[:, :, :end], v[:, :, :end])
                )
                start = end
            y = torch.cat(parts, 2).transpose(1, 2).reshape(batch, -1, net.dim)
            h = torch.addcmul(h, attention.o(y), gate1)
            h = h + block.cross_attn(block.norm3(h), text)
            h = torch.addcmul(h, block.ffn(torch.addcmul(shift2, block.norm2(h), 1 + scale2)), gate2)
        shift, scale = (spread(m) for m in (net.head.modulation.unsqueeze(0) + e.unsqueeze(2)).unbind(2))
        h = net.head.head(torch.addcmul(shift, net.head.norm(h), 1 + scale))
        return net.unpatchify(h, grid)


def initialise(model: TinySkyReels, seed: int) -> None:
    """Set all weights; the head and the gates start small so that training starts near "no motion"."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                p.fill_(1.0)
            elif name.endswith("bias"):
                p.zero_()
            elif name.endswith("modulation"):
                p.normal_(0, 1 / math.sqrt(p.shape[-1]), generator=generator)
            elif "head.head" in name:
                p.normal_(0, 0.005, generator=generator)
            elif "fps_projection.2" in name:
                p.normal_(0, 0.002, generator=generator)
            elif "time_projection" in name:
                p.normal_(0, 0.02, generator=generator)
            elif "fps_embedding" in name or "time_embedding" in name:
                p.normal_(0, 0.02 if "fps" in name else 0.05, generator=generator)
            elif "text_embedding.0" in name:
                p.normal_(0, 0.02, generator=generator)
            else:
                p.normal_(0, 1 / math.sqrt(p[0].numel()), generator=generator)
        for block in model.net.blocks:
            block.modulation[:, 2].add_(0.5)  # gates: 0 would shut the branch off
            block.modulation[:, 5].add_(0.5)
