"""How the tiny world's demo samples: one place for the shipped workflows and for the benchmarks."""

from __future__ import annotations

from typing import Any

STEPS = 20
SAMPLING: dict[str, Any] = {"width": 96, "height": 96, "frames": 97, "guidance": 2.0, "shift": 5.0}
"""Inputs of the sampler node that are not as it comes."""
