"""One timed run of a sampler node."""

from __future__ import annotations

import gc
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from .machine import PeakMemory


@dataclass(frozen=True)
class Measured:
    """One run.

    Args:
        seconds: wall-clock of the node.
        cpu_seconds: of this process's threads meanwhile; other processes disturb it less.
        peak_bytes: see ``PeakMemory``.
        kv_bytes: of stored keys and values, counted.
        report: the node's.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int | None
    kv_bytes: int
    report: dict[str, Any] = field(repr=False)

    @property
    def summary(self) -> dict[str, Any]:
        return self.report["summary"]

    @cached_property
    def branches(self) -> list[dict[str, Any]]:
        """What every branch did in every call, in order."""
        return [branch for call in self.report["calls"] for branch in call["branches"]]

    @property
    def phases(self) -> dict[str, int]:
        """How many of these lay in each phase."""
        counts = Counter(branch["phase"] for branch in self.branches)
        return {phase: counts[phase] for phase in ("warm-up", "chunk", "token")}


def timed(execute: Callable[[], tuple], device: torch.device, kv_bytes: int = 0) -> Measured:
    """Time a sampler node.

    Args:
        execute: runs it; the first two of its outputs are the LATENT and the report.
        kv_bytes: of stored keys and values.

    Raises:
        RuntimeError: the latents are not finite.
    """
    synchronise = synchroniser(device)
    # ComfyUI runs nodes in inference mode
    with torch.inference_mode(), PeakMemory(device) as peak:
        synchronise()
        started, cpu_started = time.perf_counter(), time.process_time()
        latent, report, *_ = execute()
        synchronise()
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    gc.collect()  # while the MODEL that this run's clones came from is alive: ComfyUI looks for it
    if not bool(torch.isfinite(latent["samples"]).all()):
        raise RuntimeError("the sampled latents are not finite; a measurement of them would mean nothing")
    return Measured(seconds, cpu_seconds, peak.bytes, kv_bytes, json.loads(report))


def synchroniser(device: torch.device) -> Callable[[], None]:
    """Function that waits until the device has done all it was given."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None


class Stopwatch:
    """Adds up the seconds spent inside of it.

    Args:
        synchronise: waits until the device has done all it was given.
    """

    def __init__(self, synchronise: Callable[[], None]):
        self.synchronise = synchronise
        self.seconds = 0.0
        self._started = 0.0

    def __enter__(self) -> None:
        self.synchronise()
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.synchronise()
        self.seconds += time.perf_counter() - self._started
