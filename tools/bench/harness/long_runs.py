"""A take that grows node by node, each node measured: seconds, peak memory, what is handed on.

``tools.bench.harness.pack.load`` comes before this module.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from motioncache.motioncache_core.config import Magi1CacheConfig
from motioncache.motioncache_core.presets import PRESETS
from motioncache.nodes.host.model_support import attach_config
from torch import Tensor

from tools import tiny_magi1
from tools.tinyworld import demo
from tools.tinyworld.prompts import embed
from tools.tinyworld.world import Scene, Sprite

from . import chains, magi1_runs
from .long_world import TAKE
from .machine import PeakMemory
from .tiny_world_runs import TinyWorld

SCENE = Scene("misty field", (Sprite("yellow", "ball", "none"),))
"""Nothing moves, so that the cache has as much to do in every chunk."""
PRESET = "balanced (measured on the tiny world, 20 steps)"
MAGI1_STEPS, MAGI1_SIZE = 16, 160
MAGI1_CACHE = Magi1CacheConfig(warmup_steps=2, chunk_phase_updates=2, chunk_threshold=0.002, token_threshold=0.004)
"""Settings that compute, compute partly and reuse on random weights."""

Row = dict[str, Any]
Grow = Callable[[Any, int], Any]
"""(take, chunks) -> the take with chunks more."""


def skyreels(world: TinyWorld, steps: int, keep: str) -> tuple[Any, Grow]:
    """A take of the demo workflow's settings, its MotionCache included, and the node that adds chunks."""
    model = world.model.clone()
    attach_config(model, PRESETS[PRESET])
    positive = [[embed(SCENE), {}]]

    def grow(take: Any, chunks: int) -> Any:
        return chains.more(take, positive, chunks, negative=world.negative, guidance=demo.SAMPLING["guidance"])

    return chains.begin_skyreels(model, **TAKE | {"steps": steps, "seed": 7, "keep": keep}), grow


def magi1(keep: str) -> tuple[Any, Grow]:
    """The same of a small MAGI-1 with random weights, distilled, under MotionCache."""
    model = magi1_runs.random_model(tiny_magi1.TINY, "fp32")
    attach_config(model, MAGI1_CACHE)
    scene = magi1_runs.Scene(1, MAGI1_SIZE // 8, MAGI1_SIZE // 8, MAGI1_STEPS)
    positive = magi1_runs.random_prompt(scene, tiny_magi1.TINY.text_dim)
    inputs = {"width": MAGI1_SIZE, "height": MAGI1_SIZE, "steps": MAGI1_STEPS, "guidance": chains.ONE_PASS}
    return chains.begin_magi1(model, **inputs, seed=7, keep=keep), lambda take, chunks: chains.more(
        take, positive, chunks
    )


@torch.inference_mode()
def grown(take: Any, grow: Grow, nodes: Iterable[int]) -> Iterator[Row]:
    """One row a node, then one of the node that finishes. ``nodes``: chunks of each.

    All takes are held until the end, as ComfyUI holds the outputs of all nodes of a graph.
    """
    takes = [take]
    for chunks in nodes:
        take, row = _measured(takes[-1], lambda take=takes[-1], chunks=chunks: grow(take, chunks))
        takes.append(take)
        yield {"chunks": chunks, **row, "held_bytes": held(takes)}
    before = takes[-1]
    take, row = _measured(before, lambda: chains.finish(before)[1])
    yield {"chunks": 0, **row, "held_bytes": held([*takes, take])}


def held(takes: Iterable[Any]) -> int:
    """Bytes that several takes hold together, what they share counted once."""
    storages: dict[int, int] = {}
    for take in takes:
        for tensor in (*take.finished, *_kept(take.parked), *(take.parked.tensors.values() if take.parked else ())):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(storages.values())


def _measured(before: Any, node: Callable[[], Any]) -> tuple[Any, Row]:
    """(take after a node, what the node took)."""
    memory = PeakMemory(before.model.load_device)
    with memory:
        started, cpu = time.perf_counter(), time.process_time()
        take = node()
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    known = 0 if before.report is None else len(before.report.calls)
    made = take.report.calls[known:]
    return take, {
        "all_chunks": take.chunks,
        "finished": len(take.finished),
        "calls": len(made),
        "steps": take.report.plan.steps,
        "computed_fraction": sum(c["computed"] for c in made) / max(1, sum(c["total"] for c in made)),
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu, 3),
        "seconds_in_calls": round(sum(call["seconds"] for call in made), 3),
        "peak_bytes": memory.bytes,
        "base_bytes": memory.before,
        **sizes(take),
    }


def sizes(take: Any) -> dict[str, int]:
    """Bytes of a take: keys and values; latents in flight, solvers and the cache's memory; finished chunks; trace."""
    parked = take.parked
    record = (t for entry in take.trace.entries for t in (entry.computed, entry.weights) if t is not None)
    return {
        "kv_bytes": _bytes(_kept(parked)),
        "state_bytes": 0 if parked is None else _bytes(parked.tensors.values()),
        "finished_bytes": _bytes(take.finished),
        "trace_bytes": _bytes(record),
    }


def _kept(parked: Any) -> Iterator[Tensor]:
    """Keys and values of a state at rest."""
    if parked is not None:
        yield from (tensor for page in parked.pages.values() for layers in page.values() for tensor in layers)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
