"""What a MAGI-1 run leaves behind, noted from outside."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import torch
from torch import Tensor

from motioncache_core.events import Decision
from motioncache_core.models.magi1.adapter import Magi1Run
from motioncache_core.plan import Call

from ..compare import Rounded


@dataclass
class Recording:
    """What a run left behind, by row.

    Args:
        x: ``[1, C, F, h, w]`` latents of the active chunks after the row's step.
        velocities: of every call that steps.
        emitted: (chunk, latents) that became clean, given frames left out.
        decisions: of every chunk.
        tokens: patch embedding before the step, by chunk; ``passes``: passes of the network, by chunk.
        accumulators, weights, added, levels: policy's state after the step, by chunk; ``after``: its latents;
            ``kept``: what was left of the stored rows when the row began, by layer.
    """

    x: dict[int, Tensor] = field(default_factory=dict)
    velocities: dict[int, dict[int, Tensor]] = field(default_factory=lambda: defaultdict(dict))
    emitted: dict[int, tuple[int, Tensor]] = field(default_factory=dict)
    decisions: dict[int, dict[int, Decision]] = field(default_factory=lambda: defaultdict(dict))
    tokens: dict[int, dict[int, Tensor]] = field(default_factory=lambda: defaultdict(dict))
    passes: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    accumulators: dict[int, dict[int, Tensor | None]] = field(default_factory=lambda: defaultdict(dict))
    weights: dict[int, dict[int, Tensor]] = field(default_factory=lambda: defaultdict(dict))
    added: dict[int, dict[int, Tensor]] = field(default_factory=lambda: defaultdict(dict))
    after: dict[int, dict[int, Tensor]] = field(default_factory=lambda: defaultdict(dict))
    levels: dict[int, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))
    kept: dict[int, list[Tensor]] = field(default_factory=dict)

    def residuals(self) -> dict[int, dict[int, Rounded]]:
        """What every step added: a difference of latents."""
        return {
            row: {chunk: Rounded(value, _last_place(self.after[row][chunk])) for chunk, value in made.items()}
            for row, made in self.added.items()
        }


def _last_place(values: Tensor) -> Tensor:
    """One unit in the last place of float32 numbers."""
    return torch.nextafter(values.abs(), values.new_tensor(float("inf"))) - values.abs()


class RecordedRun(Magi1Run):
    """A run that notes the policy's state after every step."""

    recording: Recording

    def make_room(self, row: int, *sizes: int) -> dict[int, list[Tensor]]:
        kept = super().make_room(row, *sizes)
        if kept:
            self.recording.kept[row] = kept[0]
        return kept

    def stepped(self, call: Call, x: Tensor, after: Tensor, previous: Tensor | None) -> None:
        decisions = list(self._stepping)
        super().stepped(call, x, after, previous)
        for sample, decision in enumerate(decisions):
            self.recording.after[call.row][decision.chunk] = after[sample].clone()
            state = self.policy.state(decision.role, decision.chunk)
            self.recording.decisions[call.row][decision.chunk] = decision
            self.recording.tokens[call.row][decision.chunk] = self.policy.measured(state.latents, self.embed)
            self.recording.accumulators[call.row][decision.chunk] = state.accumulators
            self.recording.weights[call.row][decision.chunk] = state.weights
            self.recording.added[call.row][decision.chunk] = state.added
            self.recording.levels[call.row][decision.chunk] = state.level
