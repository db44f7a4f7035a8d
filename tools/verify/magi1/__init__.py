"""Golden cases of MAGI-1: what computes each kind, with which quirks."""

from __future__ import annotations

from ..check import Kind
from . import compression, manifests, sampling, schedule, text, transformer, vae

KINDS = {
    "dit.forward": Kind(transformer.forward),
    "dit.calls": Kind(transformer.calls, quirks=frozenset({transformer.LEADING_CHUNK})),
    "manifest": Kind(manifests.manifest),
    **compression.KINDS,
    **schedule.KINDS,
    **sampling.KINDS,
    **vae.KINDS,
    **text.KINDS,
}
