"""How a MAGI-1 take grows: by whole chunks, each entering with a stage of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ...plan import Call, Chunk, Part, Plan, PlanError
from .guidance import BRANCHES
from .plan import TEMPORAL, SamplingSettings, build_plan


@dataclass(frozen=True)
class Magi1Growth:
    """Plans of a take.

    Args:
        settings: ``frames`` is not used.
    """

    whole_last_row: ClassVar[bool] = True
    settings: SamplingSettings

    def plan(self, chunks: int) -> Plan:
        """See :class:`~motioncache_core.take.Growth`."""
        settings = self.settings
        if settings.attention != "chunk-wise":
            raise PlanError(f"attention is {settings.attention!r}; a take is made chunk by chunk: choose 'chunk-wise'")
        latents = (settings.given_chunks + chunks) * settings.chunk_frames - settings.start_latents
        return build_plan(replace(settings, frames=latents * TEMPORAL))

    def clean_call(self, plan: Plan, chunk: Chunk, oldest: int) -> Call:
        """See :class:`~motioncache_core.take.Growth`.

        Every branch that looks back makes its own: until a row is over, its other passes still read those of the text
        (here made without one, as a clean chunk's always are).
        """
        written = [part for call in plan.calls for part in call.parts if part.chunk == chunk.place]
        last = max(written, key=lambda part: (part.step < 0, part.step))
        made = {name for part in written for name, _ in part.branches}
        reads = max(last.reads[0], oldest), chunk.stop
        part = Part(
            chunk.place,
            chunk.start,
            chunk.stop,
            timestep=self.settings.clean_t,
            sigma=0.0,
            sigma_next=0.0,
            step=-1,
            reads=reads,
            branches=tuple((name, 0.0) for name, branch in BRANCHES.items() if branch.history and name in made),
            settled=chunk.start,
            stride=last.stride,
        )
        kind = "context" if chunk.number is None else "refresh"
        return Call(-1, kind, 0, -1, (part,), plan.sigmas[-2], reads, writes=True, causal=True)
