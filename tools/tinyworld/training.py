"""The training loop of a tiny model: optimisers, averaged weights, resuming, progress."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .muon import Muon
from .parallel import average_gradients

log = logging.getLogger("tiny_world")

SAVE_EVERY = 100
TELL_EVERY = 25


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
        mix: share of the clips that show one sprite, a slow one, two sprites.
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
    mix: tuple[float, float, float] = (0.5, 0.25, 0.25)
    drop: float = 0.12
    sprite_weight: float = 6.0
    first_weight: float = 3.0
    ema: float = 0.995


@dataclass(frozen=True)
class Training:
    """What is trained, and where it is kept.

    Args:
        name: for the log.
        model: its parameters; matrices in ``inside`` take orthogonalised momentum, all else AdamW.
        inside: whether a parameter of that name is inside the blocks.
        loss: (generator that follows from seed, step and process; step) -> loss of one random batch.
        state: file to go on from.
        export: (averaged weights, steps done) -> writes the finished file.
    """

    name: str
    model: nn.Module
    inside: Callable[[str], bool]
    loss: Callable[[torch.Generator, int], Tensor]
    state: Path
    export: Callable[[dict[str, Tensor], int], None]


def learning_rate(step: int, recipe: Recipe) -> float:
    """Share of the full learning rate in a step."""
    warm = min(1.0, (step + 1) / recipe.warm_up)
    left = (1 - step / recipe.steps) / (1 - recipe.decay_from)
    return warm * min(1.0, max(0.0, left))


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

    def keep(step: int) -> None:
        optimised = [optimiser.state_dict() for optimiser in optimisers]
        saved = {"model": model.state_dict(), "average": average, "step": step, "optimisers": optimised}
        torch.save(saved, training.state)

    losses: list[float] = []
    began = exported = time.monotonic()
    for step in range(start, recipe.steps):
        share = learning_rate(step, recipe)
        for optimiser, rate in zip(optimisers, rates, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * share
            optimiser.zero_grad(set_to_none=True)
        loss = training.loss(torch.Generator().manual_seed((seed * 1_000_003 + step) * 64 + rank), step)
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
        if rank == 0 and done % SAVE_EVERY == 0 and done < recipe.steps:
            keep(done)
        if rank == 0 and time.monotonic() - exported > export_every:
            exported = time.monotonic()
            training.export(average, done)
    if rank == 0:  # also where an earlier run made all steps: the finished file may be gone or be wanted elsewhere
        keep(max(start, recipe.steps))
        training.export(average, max(start, recipe.steps))
    return losses


@torch.no_grad()
def _average(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    for key, value in model.state_dict().items():
        average[key].lerp_(value, 1 - decay)
