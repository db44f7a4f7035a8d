"""Golden cases of SkyReels-V2 with MotionCache: what computes each kind, with which quirks."""

from __future__ import annotations

from ..check import Kind
from . import chunkwise, manifests, sampling, schedule, transformer, units

_WHAT = frozenset({"what"})
_FRAME_RATE = frozenset({"fps_wrong_order"})

_TIMES = frozenset({"frames_of_a_block_share_t"})
_SUMMARIES = frozenset({"counts", "model_calls", "smallest_margin_to_threshold", "event_value_columns", "noise_seed"})
"""Sums of the stored events, which of their columns are values, and how the stored noise was drawn."""

KINDS = {
    "timestep_matrix": Kind(
        schedule.timestep_matrix, quirks=frozenset({"trailing_frames_dropped", "ready_frames_floored"})
    ),
    "unipc_table": Kind(schedule.unipc_table, quirks=frozenset({"first_index_skips"})),
    "unipc_trajectory": Kind(schedule.unipc_trajectory, quirks=frozenset({"scheduler_alias", "first_index_skips"})),
    "transformer.full": Kind(transformer.forward, quirks=_FRAME_RATE, told=_TIMES | {"block"}),
    "transformer.causal": Kind(transformer.forward, quirks=_FRAME_RATE, told=_TIMES | {"block"}),
    "transformer.chunkwise": Kind(
        chunkwise.forward, quirks=_FRAME_RATE, restrictions=("only frames whose update_mask is true",)
    ),
    "unit.frame_diff": Kind(
        units.frame_diff, quirks=frozenset({"no_previous_frame_is_floor"}), told=frozenset({"branch"})
    ),
    "unit.distance": Kind(units.distance, quirks=frozenset({"negative_distance"}), told=frozenset({"perturbation"})),
    "run.motioncache": Kind(
        sampling.run,
        quirks=frozenset(
            {
                "scheduler_alias",
                "stale_previous_frames",
                "condition_group_not_remembered",
                "no_previous_frame_is_floor",
                "negative_distance",
            }
        ),
        restrictions=(sampling.LAST_WINDOW_ONLY,),
        told=_SUMMARIES,
    ),
    "manifest.keys": Kind(manifests.keys, told=_WHAT),
    "manifest.map": Kind(manifests.names, told=_WHAT),
    "manifest.facts": Kind(manifests.facts, told=_WHAT),
}
