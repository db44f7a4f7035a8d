"""Which tokens a run recomputed, kept as pictures: one per chunk and step, on the video's token grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .events import CallEvent, Decision
from .overlay import within_frames
from .plan import Part, Plan


@dataclass(frozen=True)
class TraceEntry:
    """One chunk's step.

    Args:
        start, stop: its latent frames in the video.
        step: of the chunk.
        computed: ``[F, h, w]`` uint8, 255 where every branch recomputed the token, 0 where none did.
        weights: ``[F, h, w]`` motion weights made in this step, mean over branches, float16; ``None`` without.
    """

    start: int
    stop: int
    step: int
    computed: Tensor
    weights: Tensor | None


@dataclass
class Trace:
    """Collects a run's events.

    Args:
        plan: of the run.
        rows, columns: tokens of a latent frame.
    """

    plan: Plan
    rows: int
    columns: int
    entries: list[TraceEntry] = field(default_factory=list)

    def extended(self, plan: Plan) -> Trace:
        """A trace of its own that goes on with a longer plan."""
        return Trace(plan, self.rows, self.columns, list(self.entries))

    def add(self, event: CallEvent) -> list[TraceEntry]:
        """Take up a call's decisions; a step without any counts as computed. Returns an entry per part that steps."""
        start = self.plan.windows[event.call.window].start
        known = len(self.entries)
        for part in event.call.parts:
            if part.step >= 0:
                decisions = [d for d in event.decisions if d.chunk in (part.chunk, -1)]
                computed = self._mean([self._computed(d, part) for d in decisions], part, 1.0)
                weights = [d.weights for d in decisions if d.weights is not None]
                self.entries.append(
                    TraceEntry(
                        start + part.start,
                        start + part.stop,
                        part.step,
                        (computed * 255).round().to(torch.uint8),
                        self._mean(weights, part, 0.0).half() if weights else None,
                    )
                )
        return self.entries[known:]

    def share_computed(self) -> Tensor:
        """``[latent frames, h, w]`` share of its steps in which each token was recomputed, 0..1."""
        total = torch.zeros(self.plan.latent_frames, self.rows, self.columns)
        steps = torch.zeros(self.plan.latent_frames, 1, 1)
        for entry in self.entries:
            total[entry.start : entry.stop] += entry.computed.float() / 255
            steps[entry.start : entry.stop] += 1
        return total / steps.clamp_min(1)

    def computed_at(self, step: int) -> Tensor:
        """``[latent frames, h, w]`` 1 where a token was recomputed in a chunk's step of that number."""
        picture = torch.zeros(self.plan.latent_frames, self.rows, self.columns)
        for entry in self.entries:
            if entry.step == step:
                picture[entry.start : entry.stop] = entry.computed.float() / 255
        return picture

    def motion(self, before: int | None = None) -> Tensor:
        """``[latent frames, h, w]`` motion, every frame from 0 to 1; 0 where no weights were made.

        Args:
            before: the weights that a chunk's step of that number was decided with; ``None``: mean over all steps.
        """
        total = torch.zeros(self.plan.latent_frames, self.rows, self.columns)
        count = torch.zeros(self.plan.latent_frames, 1, 1)
        for entry in self.entries:
            if entry.weights is None or (before is not None and entry.step >= before):
                continue
            own = slice(entry.start, entry.stop)
            if before is not None:  # later ones replace earlier ones
                total[own], count[own] = 0.0, 0.0
            total[own] += within_frames(entry.weights.float())
            count[own] += 1
        return within_frames(total / count.clamp_min(1))

    def _computed(self, decision: Decision, part: Part) -> Tensor:
        if decision.mask is not None:
            return decision.mask.float()
        return torch.full((self._tokens(part),), float(decision.computed > 0))

    def _mean(self, pictures: Sequence[Tensor], part: Part, empty: float) -> Tensor:
        shape = (part.stop - part.start, self.rows, self.columns)
        if not pictures:
            return torch.full(shape, empty)
        return torch.stack([picture.cpu().float() for picture in pictures]).mean(dim=0).view(shape)

    def _tokens(self, part: Part) -> int:
        return (part.stop - part.start) * self.rows * self.columns
