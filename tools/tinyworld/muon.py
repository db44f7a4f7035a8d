"""The optimiser of the matrices: orthogonalised momentum."""

from __future__ import annotations

import math

import torch

from .parallel import shared


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised by a Newton-Schulz iteration; matrices of one shape go together.

    A convolution counts as a matrix with a row for each output channel.

    Source: K. Jordan et al., "Muon", 2024, with the size-matched step of J. Liu et al., arXiv 2502.16982.
    """

    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[torch.Tensor]] = {}
            for p in group["params"]:
                shapes.setdefault((p.shape[0], p[0].numel()), []).append(p)
            for shape, params in shapes.items():
                updates = []
                for p in params:
                    state = self.state[p]
                    if "momentum" not in state:
                        state["momentum"] = torch.zeros_like(p)
                    state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                    updates.append(p.grad.lerp(state["momentum"], group["momentum"]).reshape(shape))
                for p, u in zip(params, shared(torch.stack(updates), orthogonal), strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(u.view_as(p), alpha=-group["lr"] * 0.2 * math.sqrt(max(shape)))


def orthogonal(matrices: torch.Tensor, rounds: int = 4) -> torch.Tensor:
    """Nearly the nearest orthogonal matrix of each: [N, A, B] -> [N, A, B]."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-9)
    for _ in range(rounds):
        gram = x @ x.transpose(1, 2)
        x = 3.4445 * x + torch.baddbmm(-4.7750 * gram, gram, gram, alpha=2.0315) @ x
    return x.transpose(1, 2) if tall else x
