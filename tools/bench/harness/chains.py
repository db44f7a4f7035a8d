"""Takes made by the pack's own storyboard nodes, in this process, as an artist would chain them.

``tools.bench.harness.pack.load`` comes before this module.
"""

from __future__ import annotations

from typing import Any

from motioncache.nodes import begin, storyboard
from motioncache.nodes.host.magi1_inputs import ONE_PASS
from torch import Tensor

from .pack import defaults_of

__all__ = ["ONE_PASS", "begin_magi1", "begin_skyreels", "finish", "more"]


def begin_skyreels(model: Any, **inputs: Any) -> Any:
    """A take of SkyReels-V2, nothing made yet. ``inputs``: of the node, its defaults where left out."""
    return _execute(begin.MotionCacheBeginVideo, model=model, **inputs)[0]


def begin_magi1(model: Any, **inputs: Any) -> Any:
    """The same of MAGI-1."""
    return _execute(begin.MotionCacheBeginMagi1Video, model=model, **inputs)[0]


def more(take: Any, positive: Any, chunks: int, **inputs: Any) -> Any:
    """The take with chunks more."""
    return _execute(storyboard.MotionCacheGenerateChunks, take=take, positive=positive, chunks=chunks, **inputs)[0]


def finish(take: Any) -> tuple[Tensor, Any]:
    """(``[B, 16, F, h, w]`` latents of the whole video, the finished take)."""
    latent, _, _, _, take = _execute(storyboard.MotionCacheFinishVideo, take=take)
    return latent["samples"], take


def _execute(node: Any, **inputs: Any) -> tuple:
    return node.execute(**{**defaults_of(node), **inputs}).args
