"""Cases of the schedule: time tables, stages, and whole plans."""

from __future__ import annotations

from typing import Any

from motioncache_core.models.magi1.guidance import OnePass
from motioncache_core.models.magi1.plan import TEMPORAL, SamplingSettings, build_plan
from motioncache_core.models.magi1.schedule import intervals, stages, stride_of, time_table
from motioncache_core.plan import Call, Part, Plan

from ..check import Kind
from ..folder import Case

_FORMULAS = {
    "sd3": "u^2, then (u/shift) / (1 + (1/shift - 1) u)",
    "square": "u^2",
    "piecewise": "u < 0.875: u * 0.5/0.875, else 0.5 + (u - 0.875) * 4",
    "identity": "u",
}
_GRID = "12 steps: {0, 1/16, 1/8} (mode 16,16,8) or {0, 1/8, 3/16} plus k/4; else linspace(0, 1, steps + 1)"
_INTERVALS = "steps % 3 == 0: repeat (1,1,2) in mode 16,16,8, else (2,1,1); otherwise all 1"


def timesteps(case: Case) -> dict[str, list[float]]:
    """Times, and relative lengths of the steps."""
    s = case.settings
    case.expect(arithmetic="float32", formula=_FORMULAS[s["t_schedule"]], grid=_GRID, interval_rule=_INTERVALS)
    times = time_table(s["steps"], s["t_schedule"], s["shift"] or 1.0, s["shortcut_mode"])
    return {"t": list(times), "interval": list(intervals(s["steps"], s["shortcut_mode"]))}


def sequences(case: Case) -> dict[str, list[int]]:
    """First and one past the last active chunk of every stage, and how far they are."""
    s = case.settings
    made = stages(s["chunks"], s["window"], s["chunk_offset"])
    return {
        "chunk_start": [stage.first for stage in made],
        "chunk_end": [stage.stop for stage in made],
        "t_start": [stage.youngest for stage in made],
        "t_end": [stage.oldest + 1 for stage in made],
    }


def run(case: Case) -> dict[str, Any]:
    """Everything that a run hands to its model, step by step, told from the plan alone."""
    s = case.settings
    case.expect(nearly_clean_compare="float32 time against the double 0.3", model="returns zeros")
    settings = SamplingSettings(
        frames=(s["chunks"] * s["chunk_width"] - s["prefix_latent_frames"]) * TEMPORAL,
        steps=s["steps"],
        shift=s["shift"],
        curve=s["t_schedule"],
        shortcut=s["shortcut_mode"],
        chunk_frames=s["chunk_width"],
        window_chunks=s["window"],
        history_chunks=tuple(s["history_range"]),
        clean_chunks=s["clean_range"],
        clean_t=s["clean_t"],
        guidance=OnePass(threshold=s["nearly_clean_threshold"]),
        attention="staged window",
        start_latents=s["prefix_latent_frames"],
    )
    plan = build_plan(settings)
    times = time_table(s["steps"], s["t_schedule"], s["shift"], s["shortcut_mode"])
    told = _Told(plan, settings)
    steps = [told.step(row) for row in range(plan.calls[-1].row + 1)]
    emitted = [step["emits"] for step in steps if "emits" in step]
    return {
        "steps": steps,
        "emitted": [[emission["chunk_idx"], emission["latent_frames"]] for emission in emitted],
        "time_schedule": list(times),
        "total_forward_step": len(steps),
        "denoise_step_per_stage": told.inner_steps,
        "chunk_offset": settings.given_chunks,
    }


class _Told:
    """A plan in the words of the records."""

    def __init__(self, plan: Plan, settings: SamplingSettings):
        self.plan, self.settings = plan, settings
        self.window = plan.windows[0]
        self.inner_steps = settings.steps // settings.window_chunks
        self.intervals = intervals(settings.steps, settings.shortcut)

    def step(self, row: int) -> dict[str, Any]:
        calls = [call for call in self.plan.calls if call.row == row]
        (denoise,) = (call for call in calls if call.kind == "denoise")
        refresh = [part for call in calls if call.kind == "refresh" for part in call.parts]
        parts = [*refresh, *denoise.parts]
        stage, inner = divmod(row, self.inner_steps)
        first, stop = denoise.parts[0].chunk, denoise.parts[-1].chunk + 1
        done = [part.step if part.step >= 0 else self.plan.steps for part in parts]
        steps_behind = [part.step // self.inner_steps for part in denoise.parts]
        record: dict[str, Any] = {
            "step": row,
            "stage": stage,
            "idx": inner,
            "chunk_start": first,
            "chunk_end": stop,
            "t_start": min(steps_behind),
            "t_end": max(steps_behind) + 1,
            "fwd_extra_1st_chunk": bool(refresh),
            "slice_point": parts[0].chunk,
            "range_num": stop,
            "denoising_range_num": len(parts),
            "denoise_step_of_each_chunk": done,
            **self._shown(parts),
            "distill_nearly_clean_chunk": "text alone" in dict(denoise.parts[0].branches),
            "distill_interval": self._interval(denoise.parts[0], inner),
            "mask_chunk_of_row": self._texts(parts),
        }
        given = [call for call in calls if call.kind == "context"]
        if given:
            record["prefix_extraction"] = self._extraction(given)
        if self.window.context:
            record["prefix_frames_in_input"] = max(0, self.window.context - parts[0].start)
        return record | self._emission(denoise)

    def _shown(self, parts: list[Part]) -> dict[str, Any]:
        frames = self.plan.chunk_frames
        return {
            "timestep": [part.timestep for part in parts],
            "kv_range_chunks": [[part.reads[0] // frames, part.reads[1] // frames] for part in parts],
            "y_chunk_of_row": self._texts(parts),
        }

    def _texts(self, parts: list[Part]) -> list[int]:
        """Whose prompt every row carries, counted from 1, and -1 for the null text: with prompt, then without."""
        return [part.chunk + 1 if part.step >= 0 else -1 for part in parts] + [-1] * len(parts)

    def _extraction(self, calls: list[Call]) -> dict[str, Any]:
        parts = [part for call in calls for part in call.parts]
        return {"chunks": len(parts), **self._shown(parts), "distill_interval": self._interval(parts[0], 0)}

    def _interval(self, part: Part, inner: int) -> float:
        """Relative length of a stage's step; 0 if the plan tells the network another length."""
        interval = self.intervals[inner]
        return interval if part.stride == stride_of(self.plan.steps, interval) else 0.0

    def _emission(self, denoise: Call) -> dict[str, Any]:
        oldest = denoise.parts[0]
        if oldest.step != self.plan.steps - 1:
            return {}
        chunk = self.window.chunks[oldest.chunk]
        given = 0 if self.window.remakes_context else max(0, self.window.context - chunk.start)
        return {"emits": {"chunk_idx": chunk.number, "latent_frames": chunk.frames - given}}


KINDS = {
    "schedule.timesteps": Kind(timesteps),
    "schedule.sequences": Kind(sequences),
    "schedule.run": Kind(run),
}
