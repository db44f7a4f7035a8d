"""Inputs that the nodes of both families have alike."""

from __future__ import annotations

from comfy_api.latest import io

from .run_settings import KV_PRECISIONS
from .runs import PLACES
from .versions import advanced


def size_inputs(width: int, height: int) -> list[io.Input]:
    """Sides of the video, with their defaults."""
    return [
        io.Int.Input(name, default=pixels, min=16, max=8192, step=16, tooltip="In pixels.")
        for name, pixels in (("width", width), ("height", height))
    ]


def seed_input() -> io.Input:
    return io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True)


def store_inputs(harm: str) -> list[io.Input]:
    """Where and how keys and values are kept. ``harm``: what fp8 does to the picture."""
    return [
        advanced(
            io.Combo.Input(
                "kv_precision",
                options=list(KV_PRECISIONS),
                tooltip=f"Precision of the memory of earlier chunks. fp8 halves it and {harm}.",
            )
        ),
        advanced(
            io.Combo.Input(
                "kv_place",
                options=PLACES,
                tooltip="Where the memory of earlier chunks lives. CPU saves graphics memory and is slower.",
            )
        ),
    ]
