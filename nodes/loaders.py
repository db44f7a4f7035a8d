"""Loading models."""

from __future__ import annotations

import logging
from typing import Any

import comfy.utils
from comfy_api.latest import io

from ..motioncache_core.models.skyreels_v2.checkpoint import CheckpointError, fps_delta, read_layout, read_tensors
from .host.checked_inputs import wrong_value
from .host.model_info import SkyReelsV2Info, add_fps_patch, attach
from .host.model_paths import UnknownFileError, fingerprint_of, model_choices, resolve_model
from .host.notify import show
from .host.versions import search_aliases
from .host.wan_loading import WEIGHT_DTYPES, load_wan

logger = logging.getLogger(__name__)


class MotionCacheLoadSkyReelsV2(io.ComfyNode):
    """A SkyReels-V2 checkpoint in any layout -> MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheLoadSkyReelsV2",
            display_name="Load SkyReels-V2 (diffusion forcing)",
            category="MotionCache",
            **search_aliases("SkyReels", "diffusion forcing", "checkpoint loader", "long video"),
            description=(
                "Loads a SkyReels-V2 DF model from models/diffusion_models: official or diffusers folder, or a single "
                "file, in float32, bf16, fp16 or fp8. LoRA, offloading and stock samplers work on the MODEL."
            ),
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=model_choices(),
                    tooltip="A SkyReels-V2 DF checkpoint, as one file or as a downloaded repository folder.",
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
        """Judge the file by its headers when the graph is queued, before anything heavy loads."""
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
        """Load again when a file has been replaced."""
        return fingerprint_of(model_name, resolve_model), weight_dtype

    @classmethod
    def execute(cls, model_name: str, weight_dtype: str) -> io.NodeOutput:
        layout = read_layout(resolve_model(model_name))
        weights = read_tensors(layout, copy=getattr(comfy.utils, "DISABLE_MMAP", False))
        notices = list(layout.notices)
        if weights.weight_scales and weight_dtype.startswith("fp8"):
            notices.append(f"{layout.name} is scaled fp8 already; weight_dtype {weight_dtype} has no effect.")
        info = SkyReelsV2Info(layout.name, layout.config, fps_delta(weights.fps))
        patcher = load_wan(weights, layout.config, weight_dtype)
        attach(patcher, info)
        add_fps_patch(patcher, info)
        logger.info("Loaded %s", layout.summary())
        for notice in notices:
            logger.warning("%s", notice)
        # the summary too, so that a notice about an earlier choice does not stay on the node
        show(cls.hidden.unique_id if cls.hidden is not None else None, "\n".join([layout.summary(), *notices]))
        return io.NodeOutput(patcher)


NODES = [MotionCacheLoadSkyReelsV2]
