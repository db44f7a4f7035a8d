"""Lets torchvision's Python parts work beside a CPU build of PyTorch.

The compiled part of the torchvision that registries serve wants CUDA libraries. Without it torchvision fails at import
with `operator torchvision::nms does not exist`, although ComfyUI uses only its transforms. Declaring the missing
operators (they stay without an implementation) is enough.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

_held = []


def declare_missing_ops() -> bool:
    """Declare `torchvision::nms` and `torchvision::qnms` where the compiled ones cannot be loaded.

    Returns True when they had to be declared, False when the real ones are there or torchvision is not installed.
    """
    import torch

    spec = importlib.util.find_spec("torchvision")
    if spec is None or _held or hasattr(torch.ops.torchvision, "nms"):
        return False
    for compiled in sorted(Path(spec.submodule_search_locations[0]).glob("_C*")):
        try:
            torch.ops.load_library(str(compiled))
            return False
        except OSError:
            continue
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _held.append(library)  # the declarations go away with the object
    return True
