"""What MAGI-1's policy will do: its phases are known beforehand, its distances are not."""

from __future__ import annotations

from ...config import Magi1CacheConfig
from ...forecast import COMPUTED, Expected, Forecast
from ...plan import Plan
from ...timeline import Lane
from .policy import Phases


def forecast_of(plan: Plan, config: Magi1CacheConfig | None) -> Forecast:
    """What is expected of every step.

    Args:
        config: as it acts; ``None`` for none.
    """
    if config is None:
        return lambda lane, step: COMPUTED
    config = config.for_steps(plan.steps)
    phases = Phases(config, plan)

    def expect(lane: Lane, step: int) -> Expected:
        phase = phases.of(step)
        threshold = config.chunk_threshold if phase == "chunk" else config.token_threshold
        certain = phases.fixed(step, lane.begin + step) is not None or step == 0 or threshold <= 0
        return Expected(phase, "computed" if certain else "open")

    return expect
