"""Cases of the schedule and of the solver."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from motioncache_core.models.skyreels_v2.schedule import (
    SIGMA_START,
    TRAIN_TIMESTEPS,
    chunk_sizes,
    rows,
    sigma_table,
    timestep_at,
    timesteps_of,
)
from motioncache_core.solvers import FlowUniPC

from ..folder import Case, CaseError


def timestep_matrix(case: Case) -> dict[str, Tensor]:
    """Timestep, position and step of every latent frame in every row, and the rows' base windows."""
    s = case.settings
    sizes, ready = chunk_sizes(s["latent_frames"], s["block"], s["ready_latent_frames"], case.quirks)
    schedule = rows(s["steps"], len(sizes), ready, s["ar_step"], s["window_latent_frames"] // s["block"])
    positions = [[row.position(chunk) for chunk in range(len(sizes))] for row in schedule]
    timesteps = timesteps_of(sigma_table(s["steps"], s["shift"]))
    case.expect(
        rows=len(schedule),
        columns=sum(sizes),
        blocks=len(sizes),
        window_blocks=s["window_latent_frames"] // s["block"],
        ready_blocks=ready,
    )

    def by_frame(by_chunk: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(by_chunk).repeat_interleave(torch.tensor(sizes), dim=1)

    return {
        "step_matrix": by_frame([[timestep_at(p, timesteps) for p in row] for row in positions]),
        "step_index": by_frame(positions),
        "step_update_mask": by_frame([[i in row.stepping for i in range(len(sizes))] for row in schedule]),
        "valid_interval": torch.tensor([[end * s["block"] for end in row.interval] for row in schedule]),
    }


def unipc_table(case: Case) -> dict[str, Tensor]:
    """Noise levels, integer timesteps and the first step."""
    s = case.settings
    case.expect(num_train_timesteps=TRAIN_TIMESTEPS)
    if abs(s.get("sigma_start", SIGMA_START) - SIGMA_START) > 1e-6:
        raise CaseError(f"setting sigma_start is {s['sigma_start']}; the core's levels start at {SIGMA_START:.3f}")
    sigmas = sigma_table(s["steps"], s["shift"])
    timesteps = timesteps_of(sigmas)
    return {
        "sigmas": torch.tensor(sigmas),
        "timesteps": torch.tensor(timesteps),
        "first_index": torch.tensor(first_step_index(timesteps, case.quirks)),
    }


def unipc_trajectory(case: Case) -> dict[str, Tensor]:
    """The sample after every step, from stored model outputs; stored as float32 whatever the sample's own dtype."""
    s = case.settings
    case.expect(
        solver="unipc",
        order=2,
        solver_type="bh2",
        predict="x0 = sample - sigma * model_output",
        lower_order_final=True,
        corrector_from_step=1,
    )
    sigmas = sigma_table(s["steps"], s["shift"])
    first = first_step_index(timesteps_of(sigmas), case.quirks)
    case.expect(first_index=first)
    solver = FlowUniPC(sigmas, case.quirks, first)
    sample = case.input("sample").to(getattr(torch, s["sample_dtype"]))
    outputs = case.input("model_outputs").to(getattr(torch, s["model_output_dtype"]))
    samples = []
    for sigma, velocity in zip(sigmas[first:], outputs, strict=False):
        sample = solver.step(sample - sigma * velocity, sample)
        samples.append(sample.float())
    return {"samples": torch.stack(samples)}


def first_step_index(timesteps: tuple[int, ...], quirks: frozenset[str] = frozenset()) -> int:
    """Where stepping starts: 0. Quirk ``first_index_skips``: 1 if the first two timesteps are equal."""
    repeats = len(timesteps) > 1 and timesteps[0] == timesteps[1]
    return int(repeats and "first_index_skips" in quirks)
