"""SkyReels-V2's policy for benchmarks: with its answers replaced by a fixed pattern, and with a clock.

``tools.bench.harness.pack.load`` comes before this module.
"""

from __future__ import annotations

from collections.abc import Hashable

from motioncache.motioncache_core.config import CacheConfig
from motioncache.motioncache_core.events import Decision
from motioncache.motioncache_core.models.skyreels_v2.policy import SkyReelsV2Policy, StepInputs
from torch import Tensor

from .measured import Stopwatch
from .pattern import Pattern, replay


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
        branch = 0 if role[0] == "positive" else 1
        replay(decision, self.pattern, inputs.frames, self.grid, branch, inputs.patches.device)
        return decision


class TimedPolicy(SkyReelsV2Policy):
    """The live policy, with a watch for what deciding takes: distance, accumulation, vote, motion weights."""

    def __init__(self, config: CacheConfig, watch: Stopwatch):
        super().__init__(config)
        self.watch = watch

    def decide(self, role: Hashable, chunk: int, inputs: StepInputs) -> Decision:
        with self.watch:
            return super().decide(role, chunk, inputs)

    def observe(self, decision: Decision, hidden: Tensor, frames: int) -> None:
        with self.watch:
            super().observe(decision, hidden, frames)

    def observe_context(self, role: Hashable, chunk: int, hidden: Tensor, frames: int) -> None:
        with self.watch:
            super().observe_context(role, chunk, hidden, frames)
