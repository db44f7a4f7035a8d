"""What travels with a SkyReels-V2 MODEL: its sizes and its frame-rate term, as one frozen object.

The frame-rate term is a constant of a run that is added to the time projection of every frame. ComfyUI's own forward
gets it as an ordinary weight patch on the time projection's bias (stock samplers; 24 frames a second unless set);
our forward adds it in float32 instead, on a clone without that patch. Never both.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ...motioncache_core.models.skyreels_v2.architecture import ArchitectureConfig

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

OPTION = "motioncache_skyreels_v2"
"""Key in ``model_options["transformer_options"]``."""

FPS_PATCH_KEY = "diffusion_model.time_projection.1.bias"
DEFAULT_FPS = 24


@dataclass(frozen=True, eq=False)
class SkyReelsV2Info:
    """Frozen facts about a loaded model; the same object in all clones of the MODEL.

    Args:
        name: what to call it.
        architecture: its sizes.
        fps_delta: float32 ``[2, 6*dim]`` on the CPU (row 0: 16 frames a second, row 1: other rates), or None for a
            model without frame-rate layers.
    """

    name: str
    architecture: ArchitectureConfig
    fps_delta: torch.Tensor | None = None
    # The rows as objects of their own: a patch holds one of them and is recognised by it.
    _rows: tuple[torch.Tensor, ...] = field(init=False, repr=False, default=())

    def __post_init__(self) -> None:
        if self.fps_delta is not None:
            expected = (2, 6 * self.architecture.dim)
            if tuple(self.fps_delta.shape) != expected:
                raise ValueError(f"fps_delta has shape {tuple(self.fps_delta.shape)}, expected {expected}")
            object.__setattr__(self, "_rows", tuple(row.clone() for row in self.fps_delta.float()))

    def __copy__(self) -> SkyReelsV2Info:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> SkyReelsV2Info:
        """ComfyUI deep-copies model_options whenever a MODEL is cloned; this object is not changed by anyone."""
        return self

    def fps_term(self, fps: float) -> torch.Tensor | None:
        """The term for this frame rate, float32 ``[6*dim]`` on the CPU, or None."""
        return self._rows[0 if fps == 16 else 1] if self._rows else None

    def owns(self, patch: tuple) -> bool:
        """Whether an entry of ``patcher.patches[FPS_PATCH_KEY]`` is this model's frame-rate patch."""
        value = patch[1]
        if not isinstance(value, tuple) or len(value) != 2 or value[0] != "diff":
            return False
        return any(value[1][0] is row for row in self._rows)


def attach(patcher: ModelPatcher, info: SkyReelsV2Info) -> None:
    """Let the information travel with this MODEL and its clones."""
    patcher.model_options.setdefault("transformer_options", {})[OPTION] = info


def model_info(patcher: ModelPatcher) -> SkyReelsV2Info | None:
    """The attached information, or None for a MODEL of another loader."""
    info = patcher.model_options.get("transformer_options", {}).get(OPTION)
    return info if isinstance(info, SkyReelsV2Info) else None


def add_fps_patch(patcher: ModelPatcher, info: SkyReelsV2Info, fps: float = DEFAULT_FPS) -> None:
    """Give ComfyUI's own forward the term for this frame rate, in place; replaces the one that is there.

    Nothing happens for a model without frame-rate layers.
    """
    term = info.fps_term(fps)
    if term is None:
        return
    patches = patcher.patches.get(FPS_PATCH_KEY, [])
    places = [i for i, patch in enumerate(patches) if info.owns(patch)]
    if not places:
        patcher.add_patches({FPS_PATCH_KEY: ("diff", (term,))})
        return
    if all(patches[i][1][1][0] is term for i in places):
        return
    replaced = [(p[0], ("diff", (term,)), *p[2:]) if i in places else p for i, p in enumerate(patches)]
    patcher.patches[FPS_PATCH_KEY] = replaced
    _mark(patcher, f"frame-rate term {0 if fps == 16 else 1}")


def without_fps_patch(patcher: ModelPatcher) -> ModelPatcher:
    """A clone without exactly the frame-rate patch; LoRA on the same layer stays."""
    clone = patcher.clone()
    info = model_info(clone)
    patches = clone.patches.get(FPS_PATCH_KEY, [])
    kept = [patch for patch in patches if info is None or not info.owns(patch)]
    if len(kept) == len(patches):
        return clone
    if kept:
        clone.patches[FPS_PATCH_KEY] = kept
    else:
        del clone.patches[FPS_PATCH_KEY]
    _mark(clone, "no frame-rate term")
    return clone


def for_own_forward(patcher: ModelPatcher, fps: float) -> tuple[ModelPatcher, torch.Tensor | None]:
    """The MODEL to run our forward on, and the float32 ``[6*dim]`` term to add to the time projection there.

    For a merged MODEL (another model's weights mixed in on that layer) the term cannot be taken out of the mixture:
    the patch then stays, at this frame rate, and the term is None.
    """
    info = model_info(patcher)
    if info is None:
        return patcher.clone(), None
    others = [patch for patch in patcher.patches.get(FPS_PATCH_KEY, []) if not info.owns(patch)]
    if any(patch[2] != 1.0 or isinstance(patch[1], list) for patch in others):
        clone = patcher.clone()
        add_fps_patch(clone, info, fps)
        return clone, None
    return without_fps_patch(patcher), info.fps_term(fps)


def _mark(patcher: ModelPatcher, change: str) -> None:
    """Tell ComfyUI that the patches differ, by an id that is the same whenever the change is the same.

    A random id would make ComfyUI load all weights anew in every run.
    """
    patcher.patches_uuid = uuid.uuid5(patcher.patches_uuid, change)
