"""SkyReels-V2's policy that reuses nothing and writes down how much every step changes.

``tools.bench.harness.pack.load`` comes before this module.
"""

from __future__ import annotations

from collections.abc import Hashable

from motioncache.motioncache_core.config import CacheConfig, MotionSource
from motioncache.motioncache_core.distance import relative_l1
from motioncache.motioncache_core.events import Decision
from motioncache.motioncache_core.models.skyreels_v2.policy import SkyReelsV2Policy, StepInputs
from torch import Tensor

COMPUTE_ALL = CacheConfig(
    warmup_steps=0,
    chunk_phase_updates=0,
    chunk_threshold=0.0,
    token_threshold=0.0,
    motion_floor=0.0,
    distance="patch embedding",
)
"""For which the policy is made: all is computed, every step's input is kept, and motion is weighed after every step."""


class RecordingPolicy(SkyReelsV2Policy):
    """Computes everything.

    Attributes:
        steps: ((timestep before, timestep), relative changes) of every step that has one before it.
        motion: (role, chunk, step) -> ``[L]`` motion weights with floor 0, as that step would hand them on.
        renewed: (role, chunk, step) -> ``[L]`` how much the step changed what the blocks add to each token; only where
            motion is seen on the hidden state.
    """

    def __init__(self, motion_source: MotionSource = "published") -> None:
        super().__init__(COMPUTE_ALL.with_changes(motion_source=motion_source))
        self.steps: list[tuple[tuple[int, int], dict[str, float]]] = []
        self.motion: dict[tuple[Hashable, int, int], Tensor] = {}
        self.renewed: dict[tuple[Hashable, int, int], Tensor] = {}
        self._inputs: dict[tuple[Hashable, int], StepInputs] = {}
        self._earlier: dict[tuple[Hashable, int], tuple[StepInputs, Tensor]] = {}
        """Input and residual of the step before."""

    def decide(self, role: Hashable, chunk: int, inputs: StepInputs) -> Decision:
        self._inputs[role, chunk] = inputs
        return super().decide(role, chunk, inputs)

    def observe(self, decision: Decision, seen: Tensor, frames: int) -> None:
        if not self.wants_clean:
            self._note_changes(decision, seen)
        super().observe(decision, seen, frames)
        self.motion[decision.role, decision.chunk, decision.step] = decision.weights

    def _note_changes(self, decision: Decision, hidden: Tensor) -> None:
        key = decision.role, decision.chunk
        inputs = self._inputs[key]
        residual = (hidden - inputs.patches).float()
        if key in self._earlier:
            earlier, before = self._earlier[key]
            changes = {
                "residual": relative_l1(residual, before),
                "time embedding": relative_l1(inputs.time_embedding, earlier.time_embedding),
                "patch embedding": relative_l1(inputs.patches.float(), earlier.patches.float()),
            }
            self.steps.append(((earlier.timesteps[0], inputs.timesteps[0]), changes))
            self.renewed[(*key, decision.step)] = (residual - before).abs().mean(dim=1)
        self._earlier[key] = inputs, residual
