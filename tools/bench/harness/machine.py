"""The machine that a benchmark ran on: what it is, who else used it meanwhile, and how much memory a run took."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

BUSY_SHARE = 0.1
"""Share of the machine's cores that others may use before a measurement counts as disturbed."""

_STATUS = Path("/proc/self/status")
_RESET_PEAK = Path("/proc/self/clear_refs")


def facts(device: torch.device) -> dict[str, Any]:
    """What the reader of a table needs to know of the machine; no paths, no names of people."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load_average": load if load is None else round(load, 2),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


class OthersMeter:
    """Cores that other processes kept busy while the meter ran (Linux; elsewhere not known)."""

    def __init__(self) -> None:
        self._wall = self._others = 0.0
        self._begun: tuple[float, float, float] | None = None

    def __enter__(self) -> OthersMeter:
        self._begun = (time.perf_counter(), time.process_time(), _busy_seconds())
        return self

    def __exit__(self, *_: object) -> None:
        wall, own, busy = self._begun
        self._wall += time.perf_counter() - wall
        self._others += _busy_seconds() - busy - (time.process_time() - own)

    @property
    def cores(self) -> float | None:
        """Mean over all measured stretches."""
        if not self._wall or not Path("/proc/stat").exists():
            return None
        return max(self._others / self._wall, 0.0)


def _busy_seconds() -> float:
    """Seconds that all cores together were busy since the machine started."""
    try:
        first = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()
    except OSError:
        return 0.0
    user, nice, system, _idle, _wait, irq, softirq, steal = (int(v) for v in first[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


@dataclass
class PeakMemory:
    """Memory that a run held at its peak, above what the process held before it (the weights), in bytes.

    On CUDA the allocator's peak; on Linux the peak of the resident set, whose mark is set back before every run;
    ``None`` where neither can be read. ``before``: what it held.
    """

    device: torch.device
    bytes: int | None = None
    before: int | None = None

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device)
        else:
            self.before = _reset_peak()
        return self

    def __exit__(self, *_: object) -> None:
        if self.before is None:
            return
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
        else:
            peak = _status_bytes("VmHWM")
        self.bytes = peak - self.before

    @staticmethod
    def what(device: torch.device) -> str:
        """What the number is, in words."""
        if device.type == "cuda":
            return "peak of PyTorch's CUDA allocator above the loaded weights"
        return "peak resident memory of the process in a run, less what it held before (the weights)"


def _reset_peak() -> int | None:
    """Give unused heap back, set the kernel's peak mark to what is held now, and return that."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        _RESET_PEAK.write_text("5", encoding="ascii")
        return _status_bytes("VmRSS")
    except (OSError, AttributeError):
        return None


def _status_bytes(field: str) -> int:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {field}")


def warnings(load_average: float | None, others: float | None, cores: int) -> list[str]:
    """Sentences for a measurement that cannot be trusted."""
    found = []
    if load_average is not None and load_average > 0.5 * cores:
        found.append(f"the machine was busy before the run: load average {load_average:.2f} on {cores} cores")
    if others is not None and others > BUSY_SHARE * cores:
        found.append(f"other processes used {others:.2f} of {cores} cores during the measured runs")
    return found
