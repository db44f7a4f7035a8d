"""SkyReels-V2's policy for benchmarks: with its answers replaced by a fixed pattern, and with a clock.

``tools.bench.harness.pack.load`` comes before this module.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

from motioncache.motioncache_core.config import CacheConfig
from motioncache.motioncache_core.events import Decision
from motioncache.motioncache_core.models.skyreels_v2.policy import SkyReelsV2Policy, StepInputs
from torch import Tensor

from .pattern import Pattern, moving_region


class ReplayedPolicy(SkyReelsV2Policy):
    """The live policy does all its work in every step, so that it costs what it costs; its answer is replaced.

    Args:
        config: of the live policy.
        pattern: what is answered instead.
        grid: token rows and columns of a latent frame.
    """

    def __init__(self, config: CacheConfig, pattern: Pattern, grid: tuple[int, int]):
        super().__init__(config)
        self.pattern, self.grid = pattern, grid

    def decide(self, role: Hashable, chunk: int, inputs: StepInputs) -> Decision:
        decision = super().decide(role, chunk, inputs)
        outcome = self.pattern.outcomes[decision.step]
        decision.mask, decision.computed, decision.waited = None, decision.total if outcome == "full" else 0, False
        if outcome == "partial":
            branch = 0 if role[0] == "positive" else 1
            mask = moving_region(inputs.frames, *self.grid, self.pattern.share, decision.step, chunk, branch)
            decision.mask, decision.computed = mask.to(inputs.patches.device), int(mask.sum())
        return decision


class TimedPolicy(SkyReelsV2Policy):
    """The live policy, with the seconds that deciding took: distance, accumulation, vote, motion weights.

    Args:
        synchronise: waits until the device has done all it was given.
    """

    def __init__(self, config: CacheConfig, synchronise: Callable[[], None]):
        super().__init__(config)
        self.synchronise = synchronise
        self.seconds = 0.0

    def decide(self, role: Hashable, chunk: int, inputs: StepInputs) -> Decision:
        started = self._now()
        decision = super().decide(role, chunk, inputs)
        self.seconds += self._now() - started
        return decision

    def observe(self, decision: Decision, hidden: Tensor, frames: int) -> None:
        started = self._now()
        super().observe(decision, hidden, frames)
        self.seconds += self._now() - started

    def observe_context(self, role: Hashable, chunk: int, hidden: Tensor, frames: int) -> None:
        started = self._now()
        super().observe_context(role, chunk, hidden, frames)
        self.seconds += self._now() - started

    def _now(self) -> float:
        self.synchronise()
        return time.perf_counter()
