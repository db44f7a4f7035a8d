"""What MAGI-1's policy will do: its phases are known beforehand, its distances are not."""

from __future__ import annotations

import math

from ...config import Magi1CacheConfig
from ...decisions import phase_at
from ...forecast import COMPUTED, Expected, Forecast
from ...plan import Plan
from ...timeline import Lane


def forecast_of(plan: Plan, config: Magi1CacheConfig | None) -> Forecast:
    """What is expected of every step.

    Args:
        config: as it acts; ``None`` for none.
    """
    if config is None:
        return lambda lane, step: COMPUTED
    config = config.for_steps(plan.steps)
    chunk_phase = config.chunk_phase_updates if config.granularity == "token" else math.inf
    last = max(call.row for call in plan.calls)
    entries = {call.row for call in plan.calls for part in call.parts if part.step == 0} - {0}

    def expect(lane: Lane, step: int) -> Expected:
        phase, row = phase_at(step, config.warmup_start, config.warmup_steps, chunk_phase), lane.begin + step
        threshold = config.chunk_threshold if phase == "chunk" else config.token_threshold
        certain = row in (0, last) or phase == "warm-up" or step == 0 or threshold <= 0
        certain = certain or (config.recompute_on_entry and row in entries)
        return Expected(phase, "computed" if certain else "open")

    return expect
