"""Loading MAGI-1's VAE."""

from __future__ import annotations

import logging
from typing import Any

import comfy.model_management
import comfy.utils
from comfy_api.latest import io

from ..motioncache_core.models.magi1.vae_checkpoint import read_vae_layout, read_vae_tensors
from ..motioncache_core.safetensors_file import CheckpointError
from .host.magi1_paths import resolve_vae, vae_choices
from .host.magi1_vae import Magi1ComfyVae, preferred_dtype
from .host.model_paths import UnknownFileError, fingerprint_of
from .host.notify import show
from .host.versions import search_aliases

logger = logging.getLogger(__name__)


class MotionCacheLoadMagi1VAE(io.ComfyNode):
    """MAGI-1's VAE, as a folder or a file -> VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheLoadMagi1VAE",
            display_name="Load MAGI-1 VAE",
            category="MotionCache",
            **search_aliases("MAGI", "VAE loader"),
            description=(
                "Loads MAGI-1's VAE from models/vae: the official folder or its safetensors file. VAE Encode and VAE "
                "Decode, plain or tiled, take it; all of them work in MAGI-1's own tiles."
            ),
            inputs=[
                io.Combo.Input(
                    "vae_name",
                    options=vae_choices(),
                    tooltip="MAGI-1's VAE, as a downloaded folder (config.json beside the weights) or as one file.",
                ),
            ],
            outputs=[io.Vae.Output(display_name="VAE")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, vae_name: str | None) -> bool | str:
        """Judge the file by its header when the graph is queued."""
        if vae_name is None:  # comes from another node
            return True
        try:
            read_vae_layout(resolve_vae(vae_name))
        except (CheckpointError, UnknownFileError, OSError) as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, vae_name: str | None) -> Any:
        """Load again when a file has been replaced."""
        return fingerprint_of(vae_name, resolve_vae)

    @classmethod
    def execute(cls, vae_name: str) -> io.NodeOutput:
        layout = read_vae_layout(resolve_vae(vae_name))
        dtype = preferred_dtype(comfy.model_management.vae_device())
        tensors = read_vae_tensors(layout, dtype, copy=getattr(comfy.utils, "DISABLE_MMAP", False))
        vae = Magi1ComfyVae(tensors, layout.config, dtype)
        logger.info("Loaded %s", layout.summary())
        show(cls.hidden.unique_id if cls.hidden is not None else None, layout.summary())
        return io.NodeOutput(vae)


NODES = [MotionCacheLoadMagi1VAE]
