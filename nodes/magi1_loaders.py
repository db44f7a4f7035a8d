"""Loading MAGI-1."""

from __future__ import annotations

import logging
from typing import Any

import comfy.utils
from comfy_api.latest import io

from ..motioncache_core.models.magi1.checkpoint import CheckpointError, read_layout, read_tensors
from .host.checked_inputs import wrong_value
from .host.magi1_model import WEIGHT_DTYPES, load_magi1
from .host.model_paths import UnknownFileError, fingerprint, model_choices, resolve_model
from .host.notify import show
from .host.versions import search_aliases

logger = logging.getLogger(__name__)


class MotionCacheLoadMagi1(io.ComfyNode):
    """A MAGI-1 checkpoint -> MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheLoadMagi1",
            display_name="Load MAGI-1",
            category="MotionCache",
            **search_aliases("MAGI", "autoregressive video", "checkpoint loader"),
            description=(
                "Loads MAGI-1 (4.5B or 24B, base, distilled or quantised) from models/diffusion_models: the official "
                "folder, its index, any of its shards, or one merged file. LoRA and offloading work on the MODEL."
            ),
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=model_choices(),
                    tooltip="A MAGI-1 checkpoint: one file, the first file of several, or a folder.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_DTYPES),
                    default="default",
                    tooltip="Precision the weights are kept in; fp8 halves their memory and costs some quality.",
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, model_name: str | None, weight_dtype: str | None = None) -> bool | str:
        """Judge the files by their headers when the graph is queued, before anything heavy loads."""
        problem = wrong_value(cls, weight_dtype=weight_dtype)
        if problem is not None:
            return problem
        if model_name is None:  # comes from another node
            return True
        try:
            read_layout(resolve_model(model_name))
        except (CheckpointError, UnknownFileError, OSError) as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, model_name: str | None, weight_dtype: str) -> Any:
        """Load again when a file has been replaced, or its configuration beside it."""
        if model_name is None:  # comes from another node
            return weight_dtype
        layout = read_layout(resolve_model(model_name))
        return [fingerprint(file) for file in layout.files], layout.distilled, layout.notices, weight_dtype

    @classmethod
    def execute(cls, model_name: str, weight_dtype: str) -> io.NodeOutput:
        layout = read_layout(resolve_model(model_name))
        notices = list(layout.notices)
        if layout.config.fp8 and weight_dtype.startswith("fp8"):
            notices.append(f"{layout.name} is quantised already; weight_dtype {weight_dtype} changes its other layers.")
        patcher = load_magi1(
            layout, read_tensors(layout, copy=getattr(comfy.utils, "DISABLE_MMAP", False)), weight_dtype
        )
        logger.info("Loaded %s", layout.summary())
        for notice in notices:
            logger.warning("%s", notice)
        # the summary too, so that a notice about an earlier choice does not stay on the node
        show(cls.hidden.unique_id if cls.hidden is not None else None, "\n".join([layout.summary(), *notices]))
        return io.NodeOutput(patcher)


NODES = [MotionCacheLoadMagi1]
