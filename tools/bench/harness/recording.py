"""SkyReels-V2's policy that reuses nothing and writes down how much every step changes.

``tools.bench.harness.pack.load`` comes before this module.
"""

from __future__ import annotations

from collections.abc import Hashable

from motioncache.motioncache_core.config import CacheConfig
from motioncache.motioncache_core.distance import relative_l1
from motioncache.motioncache_core.events import Decision
from motioncache.motioncache_core.models.skyreels_v2.policy import SkyReelsV2Policy, StepInputs
from torch import Tensor

COMPUTE_ALL = CacheConfig(chunk_threshold=0.0, token_threshold=0.0, distance="patch embedding")
"""For which the policy is made: the input of every step is kept, and all is computed."""


class RecordingPolicy(SkyReelsV2Policy):
    """Its ``steps`` hold ((timestep before, timestep), relative changes) of every step that has one before it."""

    def __init__(self) -> None:
        super().__init__(COMPUTE_ALL)
        self.steps: list[tuple[tuple[int, int], dict[str, float]]] = []
        self._inputs: dict[tuple[Hashable, int], StepInputs] = {}
        self._earlier: dict[tuple[Hashable, int], tuple[StepInputs, Tensor]] = {}
        """Input and residual of the step before."""

    def decide(self, role: Hashable, chunk: int, inputs: StepInputs) -> Decision:
        self._inputs[role, chunk] = inputs
        return super().decide(role, chunk, inputs)

    def observe(self, decision: Decision, seen: Tensor, frames: int) -> None:
        key = decision.role, decision.chunk
        inputs = self._inputs[key]
        residual = (seen - inputs.patches).float()
        if key in self._earlier:
            earlier, before = self._earlier[key]
            changes = {
                "residual": relative_l1(residual, before),
                "time embedding": relative_l1(inputs.time_embedding, earlier.time_embedding),
                "patch embedding": relative_l1(inputs.patches.float(), earlier.patches.float()),
            }
            self.steps.append(((earlier.timesteps[0], inputs.timesteps[0]), changes))
        self._earlier[key] = inputs, residual
        super().observe(decision, seen, frames)
