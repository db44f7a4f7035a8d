"""The training loop of a tiny model: optimisers, averaged weights, resuming, progress."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .forcing import Recipe, learning_rate
from .muon import Muon
from .parallel import average_gradients

log = logging.getLogger("tiny_world")

SAVE_EVERY = 100
TELL_EVERY = 25


@dataclass(frozen=True)
class Training:
    """What is trained, and where it is kept.

    Args:
        name: for the log.
        model: its parameters; matrices in ``inside`` take orthogonalised momentum, all else AdamW.
        inside: whether a parameter of that name is inside the blocks.
        loss: of one random batch, from a generator that follows from seed, step and process.
        state: file to go on from.
        export: (averaged weights, steps done) -> writes the finished file.
    """

    name: str
    model: nn.Module
    inside: Callable[[str], bool]
    loss: Callable[[torch.Generator], Tensor]
    state: Path
    export: Callable[[dict[str, Tensor], int], None]


def run(rank: int, training: Training, recipe: Recipe, seed: int, export_every: float = 600.0) -> list[float]:
    """Train and export the averaged weights, also every ``export_every`` seconds on the way.

    Args:
        rank: number of this process, see ``parallel.run``; only the first one logs and saves.

    Returns:
        This process's loss of every step that was made.
    """
    model = training.model
    matrices = [p for n, p in model.named_parameters() if training.inside(n) and p.ndim == 2]
    known = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in known]
    optimisers = [Muon(matrices, lr=1.0), torch.optim.AdamW(rest, lr=1.0, betas=(0.9, 0.98), weight_decay=0.01)]
    rates = [recipe.rate, recipe.rate * recipe.adam_share]
    average = {k: v.clone() for k, v in model.state_dict().items()}
    start = 0
    if training.state.exists():
        saved = torch.load(training.state, weights_only=True)
        model.load_state_dict(saved["model"])
        average, start = saved["average"], saved["step"]
        for optimiser, own in zip(optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(own)
        log.info("%s: going on from step %d", training.name, start)
    losses: list[float] = []
    began = exported = time.monotonic()
    for step in range(start, recipe.steps):
        share = learning_rate(step, recipe)
        for optimiser, rate in zip(optimisers, rates, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * share
            optimiser.zero_grad(set_to_none=True)
        loss = training.loss(torch.Generator().manual_seed((seed * 1_000_003 + step) * 64 + rank))
        loss.backward()
        average_gradients(model.parameters())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
        _average(average, model, min(recipe.ema, (step + 1) / (step + 10)))
        losses.append(loss.item())
        done = step + 1
        if rank == 0 and done % TELL_EVERY == 0:
            recent = losses[-TELL_EVERY:]
            log.info(
                "%s: step %d of %d, loss %.4f, rate share %.2f, %.2f s a step",
                training.name, done, recipe.steps, sum(recent) / len(recent), share,
                (time.monotonic() - began) / (done - start),
            )  # fmt: skip
        if rank == 0 and (done % SAVE_EVERY == 0 or done == recipe.steps):
            optimised = [optimiser.state_dict() for optimiser in optimisers]
            torch.save(
                {"model": model.state_dict(), "average": average, "step": done, "optimisers": optimised}, training.state
            )
        if rank == 0 and (time.monotonic() - exported > export_every or done == recipe.steps):
            exported = time.monotonic()
            training.export(average, done)
    return losses


@torch.no_grad()
def _average(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    for key, value in model.state_dict().items():
        average[key].lerp_(value, 1 - decay)
