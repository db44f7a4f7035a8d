"""Golden cases of MAGI-1: what computes each kind, with which quirks."""

from __future__ import annotations

from ..check import Kind
from . import compression, manifests, sampling, schedule, text, transformer, vae

_SCHEDULE = frozenset({"t_schedule", "shift", "shortcut_mode", "window", "history_range", "clean_range", "clean_t"})
"""Where the times and key ranges come from that a call is given."""
_OF_ONE_PASS = frozenset({"distilled", "steps", "history_share", "nearly_clean_threshold"}) | {
    f"calls.{name}" for name in ("distill_interval", "nearly_clean_chunk")
}
"""Told of three passes too."""

KINDS = {
    "dit.forward": Kind(transformer.forward, told=frozenset({"steps", "chunks_in_video"})),
    "dit.calls": Kind(
        transformer.calls,
        quirks=frozenset({transformer.LEADING_CHUNK}),
        told=_SCHEDULE | _OF_ONE_PASS | {"calls.nearly_clean_flag_given", "calls.chunks_in_call"},
    ),
    "manifest": Kind(manifests.manifest, told=frozenset({"what"})),
    **compression.KINDS,
    **schedule.KINDS,
    **sampling.KINDS,
    **vae.KINDS,
    **text.KINDS,
}
