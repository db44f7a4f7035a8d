"""The runs of several guiders, one inside of the other, and whose MODEL is loaded while they last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from .sampler import OwnSampler
from .takes import Lane


class _Held(OwnSampler):
    """Holds a guider's run open while something is done inside of it."""

    def __init__(self, lane: Lane, inside: Callable[[], None]):
        self.lane, self.inside = lane, inside

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        *args: Any,
        **more: Any,
    ) -> Tensor:
        self.lane.model_wrap, self.lane.extra_args = model_wrap, extra_args
        try:
            self.inside()
        finally:
            self.lane.model_wrap, self.lane.extra_args, self.lane.relay = None, None, None
        return noise


def nested(lanes: list[Lane], inside: Callable[[], None], noise: Tensor) -> None:
    """Do something inside of the runs of all lanes' guiders."""
    lane, *others = lanes
    if others:
        inner, inside = inside, lambda: nested(others, inner, noise)
    lane.guider.sample(noise, noise, _Held(lane, inside), torch.tensor([1.0, 0.0]), seed=lane.stretch.seed)


def make_current(patcher: Any, shape: Sequence[int]) -> None:
    """See to it that a MODEL's own weights are those that are loaded; MODELs of one checkpoint share their place.

    Args:
        shape: of a call's latents, for the memory that its two branches need beside the weights.
    """
    model = patcher.model
    current = model.current_patcher
    stale = model.current_weight_patches_uuid != patcher.patches_uuid
    if stale or (current is not None and patched_otherwise(current, patcher)):
        needed = model.memory_required([2 * shape[0], *shape[1:]])
        comfy.model_management.load_models_gpu([patcher], memory_required=needed)
    model.current_patcher = patcher


def patched_otherwise(patcher: Any, other: Any) -> bool:
    """Whether two MODELs of one checkpoint differ in weights, or in what they put in place of its parts, of which no
    uuid tells.
    """
    objects = [{key: id(part) for key, part in one.object_patches.items()} for one in (patcher, other)]
    same_parts = objects[0] == objects[1] and patcher.injections == other.injections
    return patcher.patches_uuid != other.patches_uuid or not same_parts
