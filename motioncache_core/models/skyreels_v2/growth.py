"""How a SkyReels-V2 take grows: by whole chunks under a sliding window."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ...plan import Call, Chunk, Part, Plan, PlanError
from .plan import SamplingSettings, build_plan, pixel_length


@dataclass(frozen=True)
class SkyReelsV2Growth:
    """Plans of a take.

    Args:
        settings: ``frames`` is not used.
    """

    whole_last_row: ClassVar[bool] = False
    settings: SamplingSettings

    def plan(self, chunks: int) -> Plan:
        """See :class:`~motioncache_core.take.Growth`."""
        settings = self.settings
        if settings.ar_step < 1:
            raise PlanError(
                f"ar_step is {settings.ar_step}; in a take chunks follow one another, so it must be at least 1 "
                "(nearest: 1)"
            )
        latents = settings.start_latents + chunks * settings.chunk_frames
        return build_plan(replace(settings, frames=pixel_length(latents), sliding=True))

    def clean_call(self, plan: Plan, chunk: Chunk, oldest: int) -> Call:
        """See :class:`~motioncache_core.take.Growth`."""
        if chunk.number is None:
            planned = next(c for c in plan.calls if c.kind == "context" and c.parts[0].chunk == chunk.place)
            return replace(planned, reads=(max(planned.reads[0], oldest), chunk.stop))
        part = Part(chunk.place, chunk.start, chunk.stop, 0, 0.0, 0.0, -1)
        reads = next(call.reads for call in plan.calls if call.parts[0].chunk == chunk.place)
        reads = max(reads[0], oldest), chunk.stop
        return Call(-1, "refresh", 0, -1, (part,), plan.sigmas[-2], reads, writes=True, causal=True)
