"""Cases of the shared functions: motion weights and distances."""

from __future__ import annotations

import torch
from torch import Tensor

from motioncache_core.config import CacheConfig
from motioncache_core.distance import polynomial, relative_l1, relative_l1_per_token
from motioncache_core.models.skyreels_v2.policy import SkyReelsV2Policy
from motioncache_core.motion import motion_weights

from ..folder import Case, CaseError

WEIGHT_NORMS = {"max_rescale": "min-max", "mean": "mean", "max": "max"}
"""The reference's names -> ours."""


def frame_diff(case: Case) -> dict[str, Tensor]:
    """Motion weights of a group, and the frame that is kept for the next group."""
    s = case.settings
    output = case.input("output")
    case.expect(batch=output.shape[0])
    frames = output.unflatten(1, (s["frames"], s["rows"] * s["columns"]))
    weights = motion_weights(
        frames,
        case.input("prev_last_frame") if s["has_previous_frame"] else None,
        first_of_video=s["group"] == 0,
        norm=WEIGHT_NORMS[s["weight_norm"]],
        floor=s["weight_floor"] or 0.0,
        quirks=case.quirks,
    )
    policy = SkyReelsV2Policy(CacheConfig())
    for sample, hidden in enumerate(output):
        policy.observe_context(sample, s["group"], hidden, s["frames"])
    kept = [policy.last_frames[(sample, s["group"])] for sample in range(len(output))]
    return {"weights": weights, "stored_last_frame": torch.cat(kept)}


def distance(case: Case) -> dict[str, Tensor]:
    """Polynomial of the time projection's relative change: one number, and one per token."""
    s = case.settings
    coefficients = coefficients_of(s)
    now, before = case.input("e0"), case.input("prev_e0")
    case.expect(
        teacache_coefficients_order="highest power first",
        distance_clamp=None,
        polynomial_dtype={"global": "float64", "per_token": "float32"},
        batch=now.shape[0],
        tokens=now.shape[2],
    )
    clamp = "negative_distance" not in case.quirks
    whole = polynomial(relative_l1(now, before), coefficients, clamp=clamp)
    return {
        "global": torch.tensor(whole, dtype=torch.float64),
        "per_token": polynomial(relative_l1_per_token(now, before), coefficients, clamp=clamp),
    }


def coefficients_of(settings: dict) -> tuple[float, ...]:
    """The polynomial, highest power first."""
    coefficients = tuple(settings["teacache_coefficients"])
    if not coefficients:
        raise CaseError("setting teacache_coefficients is empty")
    return coefficients
