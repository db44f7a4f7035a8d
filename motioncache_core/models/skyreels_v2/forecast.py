"""What SkyReels-V2's policy will do, as far as the noise levels alone decide it.

With the distance of the time embedding (its layers at hand) or of a table, a chunk's distances are the same in every
run: the real policy is asked, and its decisions in the chunk phase are exact. In the token phase, and with the distance
of the patch embedding, the picture decides: then only bounds are known. Exact means in float32; a run in less precision
may differ where a distance lies within rounding of the threshold.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...config import CacheConfig
from ...forecast import COMPUTED, Expected, Forecast
from ...plan import Plan
from .policy import SkyReelsV2Policy, StepInputs
from .schedule import timesteps_of

ROLE = "forecast"


def needs_time_layers(config: CacheConfig | None) -> bool:
    """Whether an exact forecast takes the checkpoint's time layers."""
    return config is not None and config.distance == "time embedding"


def is_exact(plan: Plan, config: CacheConfig | None, modulation: Tensor | None) -> bool:
    """Whether the chunk phase's pattern follows from what is known."""
    if config is None:
        return True
    return plan.chunk_wise and (config.distance == "table" or (needs_time_layers(config) and modulation is not None))


def forecast_of(plan: Plan, config: CacheConfig | None, modulation: Tensor | None = None) -> Forecast:
    """What is expected of every step; the same for all chunks.

    Args:
        config: as it acts, with coefficients resolved; ``None`` for none.
        modulation: ``[steps, 6, C]`` of the run's timesteps (:meth:`TimeLayers.projections`), if it is known.
    """
    if config is None:
        return lambda lane, step: COMPUTED
    steps = _exact(plan, config, modulation) if is_exact(plan, config, modulation) else _bounds(plan.steps, config)
    return lambda lane, step: steps[step]


def _exact(plan: Plan, config: CacheConfig, modulation: Tensor | None) -> list[Expected]:
    """Asks the policy, with a chunk of one token a frame of which nothing but its noise level is known."""
    policy, expected = SkyReelsV2Policy(config), []
    for step, timestep in enumerate(timesteps_of(plan.sigmas)):
        level = torch.zeros(1, 6, 1) if modulation is None else modulation[step : step + 1]
        decision = policy.decide(ROLE, 0, StepInputs((timestep,), level, torch.zeros(1, 1), frames=1))
        if decision.phase == "token":
            what = "computed" if config.token_threshold <= 0 or config.max_reuse_ratio == 0 else "open"
        else:
            what = "computed" if decision.computed else "reused"
        expected.append(Expected(decision.phase, what, decision.distance))
        policy.observe(decision, torch.zeros(1, 1), frames=1)
    return expected


def _bounds(steps: int, config: CacheConfig) -> list[Expected]:
    """The earliest phase of every step: each waiting step in the chunk phase makes that phase longer."""
    first_token = config.warmup_steps + 1 + config.chunk_phase_updates
    expected = []
    for step in range(steps):
        if step <= config.warmup_steps:
            expected.append(Expected("warm-up", "computed"))
        elif config.granularity != "token" or step < first_token:
            expected.append(Expected("chunk", "computed" if config.chunk_threshold <= 0 else "open"))
        else:
            certain = config.token_threshold <= 0 and config.chunk_threshold <= 0
            expected.append(Expected("token", "computed" if certain else "open"))
    return expected
