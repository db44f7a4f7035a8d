"""Cases of the transformer: one forward with inner tensors, and sequences of calls on one KV store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from motioncache_core.kv_cache import KVCache
from motioncache_core.models.magi1.guidance import OnePass, ThreePass
from motioncache_core.models.magi1.items import Fresh, Item, Placed, Writes, reads_of_range

from ..folder import Case, CaseError
from .network import Recorder, build, dtype_of, ranges

HISTORY = "history"
"""Role of the stored keys and values."""

LEADING_CHUNK = "leading_chunk_is_network_output"


@dataclass(frozen=True)
class Passes:
    """The items of a call by pass: places in the call's list, key ranges, and what the original calls its window."""

    items: list[Item]
    places: list[list[int]]
    key_ranges: list[Tensor]
    windows: list[dict[str, int]]


def forward(case: Case) -> dict[str, Any]:
    """One forward of several chunks without a store."""
    case.expect(kv_cache=False, distilled=False, extra_clean_chunk=False)
    settings = case.settings
    recorder = Recorder(build(case))
    x, y, mask, times = (case.input(name) for name in ("x", "y", "xattn_mask", "t"))
    chunks = _chunks(x, settings["chunk_width"])
    texts = [row[0][keep[0] > 0] for row, keep in zip(y, mask, strict=True)]
    items = _lane(chunks, times[0].tolist(), texts, settings["first_chunk"], case.input("kv_range"), 0)
    items = [replace(item, text_dropped=settings["text_dropped"]) for item in items]
    out = torch.cat(recorder.run(items, None), dim=1).unsqueeze(0)
    first = settings["first_chunk"]
    window = {"first": first, "end": first + len(items), "count": settings["chunks_in_call"]}
    meta = ranges(items, case.input("kv_range"), window)
    return recorder.tensors(range(len(items))) | {"out": out, "velocity": out, "meta": meta}


def calls(case: Case) -> dict[str, Any]:
    """A sequence of calls on one store, with guidance or the distilled path."""
    settings = case.settings
    case.expect(
        nearly_clean_compare="float32 time against the double 0.3",
        calls_order="as listed, one K/V cache; * in a name is the call",
        cache_rows="absolute token rows; written when prefix_extraction, extra_clean_chunk or first_chunk > 0, with "
        "three passes by the history pass only",
    )
    recorder = Recorder(build(case))
    config = recorder.network.config
    named = {name: reference.names() for name, reference in case.outputs.items()}
    per_chunk = settings["chunk_width"] * case.input("x")["prefix"][0, 0, 0].numel() // 4
    rows = per_chunk * settings["chunks_in_video"]
    kv = KVCache(config.num_layers, rows, config.kv_dim, dtype_of(case), torch.device("cpu"))
    result: dict[str, dict[str, Tensor]] = {name: {} for name in ("out", "passes", "meta", "kv")}
    for call in settings["calls"]:
        name = call["name"]
        given = {key: case.input(key)[name] for key in ("x", "timestep", "y", "mask", "kv_range")}
        passes = _passes(given, call, settings, per_chunk)
        velocities = recorder.run(passes.items, kv)
        result["out"][name] = _combined(given, call, settings, passes, velocities, case.quirks)
        for number, places in enumerate(passes.places):
            alone = number == 2
            kept = recorder.tensors(places)
            kept["velocity"] = _joined([velocities[i] for i in places], alone)
            if alone:  # the original runs the chunks as samples with one rotary table
                kept["emb_condition"] = kept["emb_condition"].transpose(0, 1)
                kept["emb_rope"] = kept["emb_rope"][:per_chunk]
            meta = ranges([passes.items[i] for i in places], passes.key_ranges[number], passes.windows[number])
            kept |= {f"meta_{key}": value for key, value in meta.items()}
            result["passes"] |= {f"{name}*{number}.{key}": value for key, value in kept.items()}
            result["meta"] |= {f"{name}*{number}*{key}": value for key, value in meta.items()}
        written = call["kv_rows_written"]
        for layer in range(config.num_layers):
            if f"{name}*{layer}" in named["kv"]:
                result["kv"][f"{name}*{layer}"] = _stored(kv, layer, written, config.num_groups)
    return {name: {key: value for key, value in result[name].items() if key in named[name]} for name in result}


def _chunks(x: Tensor, width: int) -> list[Tensor]:
    return list(x[0].split(width, dim=1))


def _lane(
    chunks: Sequence[Tensor],
    times: Sequence[float],
    texts: Sequence[Tensor],
    first_chunk: int,
    key_ranges: Tensor,
    offset: int,
) -> list[Item]:
    """Chunks of a window in one pass; ``offset``: place of the first in the call's list."""
    width, per_chunk = chunks[0].shape[1], chunks[0][0].numel() // 4
    lane = [
        Placed(offset + i, (first_chunk + i) * per_chunk, (first_chunk + i + 1) * per_chunk) for i in range(len(chunks))
    ]
    return [
        Item(chunk, time, text, (first_chunk + i) * width, reads_of_range(*bounds, lane, HISTORY))
        for i, (chunk, time, text, bounds) in enumerate(zip(chunks, times, texts, key_ranges.tolist(), strict=True))
    ]


def _passes(given: dict[str, Tensor], call: dict[str, Any], settings: dict[str, Any], per_chunk: int) -> Passes:
    """All passes of a call, as one list of items."""
    chunks, times = _chunks(given["x"], settings["chunk_width"]), given["timestep"][0].tolist()
    texts = [row[0][keep[0] > 0] for row, keep in zip(given["y"], given["mask"], strict=True)]
    with_text, null = texts[: len(chunks)], texts[len(chunks) :]
    first, end = call["first_chunk"], call["end_chunk"]
    writes = call["prefix_extraction"] or call["extra_clean_chunk"] or first > 0
    window = {"first": first, "end": end, "count": len(chunks)}
    bounds = given["kv_range"]
    lane = _lane(chunks, times, with_text, first, bounds, 0)
    if settings["cfg_passes"] == 1:
        lane = [replace(item, step_length=_step_length(call, settings)) for item in lane]
        lane = _writing(lane, first, per_chunk) if writes else lane
        if call["nearly_clean_chunk"]:
            cleanest = lane[int(call["extra_clean_chunk"])]
            again = replace(cleanest, start=end * settings["chunk_width"], reads=(Fresh(len(lane)),), writes=None)
            lane.append(again)
            behind = bounds.new_tensor([[end * per_chunk, (end + 1) * per_chunk]])
            bounds, window = torch.cat([bounds, behind]), window | {"count": len(lane)}
        return Passes(lane, [list(range(len(lane)))], [bounds], [window])
    if settings["cfg_passes"] != 3:
        raise CaseError(f"setting cfg_passes is {settings['cfg_passes']!r}; known are 1 and 3")
    history = _lane(chunks, times, null, first, bounds, len(chunks))
    history = [replace(item, text_dropped=True) for item in history]
    history = _writing(history, first, per_chunk) if writes else history
    alone = [
        replace(item, start=0, reads=(Fresh(2 * len(chunks) + i),), writes=None)
        for i, item in enumerate(history[int(call["extra_clean_chunk"]) :])
    ]
    items = [*lane, *history, *alone]
    places = [list(range(len(chunks))), list(range(len(chunks), 2 * len(chunks)))]
    places.append(list(range(2 * len(chunks), len(items))))
    own = torch.tensor([[i * per_chunk, (i + 1) * per_chunk] for i in range(len(alone))], dtype=bounds.dtype)
    return Passes(items, places, [bounds, bounds, own], [window, window, {"first": 0, "end": 1, "count": 1}])


def _writing(lane: list[Item], first: int, per_chunk: int) -> list[Item]:
    return [replace(item, writes=Writes(HISTORY, (first + i) * per_chunk)) for i, item in enumerate(lane)]


def _step_length(call: dict[str, Any], settings: dict[str, Any]) -> float | None:
    """What a distilled model is told about the length of its steps."""
    if not settings.get("distilled", True):
        return None
    return 4 / call["distill_interval"] * 2 if settings["steps"] == 12 else settings["steps"] / 4 * 2


def _combined(
    given: dict[str, Tensor],
    call: dict[str, Any],
    settings: dict[str, Any],
    passes: Passes,
    velocities: list[Tensor],
    quirks: frozenset[str],
) -> Tensor:
    """The call's velocity by chunk; a leading clean chunk holds its input."""
    extra, chunks = int(call["extra_clean_chunk"]), _chunks(given["x"], settings["chunk_width"])
    parts = []
    for i, t in enumerate(given["timestep"][0].tolist()):
        if settings["cfg_passes"] == 1:
            made = {"text": velocities[i], "text alone": velocities[-1]}
            shares = _shares("one", settings, t, cleanest=call["nearly_clean_chunk"] and i == extra)
        else:
            alone = passes.places[2][max(i - extra, 0)]
            made = {"text": velocities[i], "null": velocities[passes.places[1][i]], "alone": velocities[alone]}
            shares = _shares("three", settings, t, cleanest=False)
        parts.append(sum(share * made[branch] for branch, share in shares.items()))
    if extra and not (call["nearly_clean_chunk"] and LEADING_CHUNK in quirks):
        parts[0] = chunks[0]
    return torch.cat(parts, dim=1).unsqueeze(0)


def _shares(name: str, settings: dict[str, Any], t: float, cleanest: bool) -> dict[str, float]:
    """Branch -> its share of a chunk's velocity."""
    if name == "three":
        tables = (tuple(settings[f"guidance_{part}"]) for part in ("t", "history", "text"))
        return dict(ThreePass(*tables).shares(t, cleanest))
    one = OnePass(True, settings["nearly_clean_threshold"], settings["history_share"])
    return dict(one.shares(t, cleanest))


def _joined(velocities: list[Tensor], alone: bool) -> Tensor:
    """Chunks along time, or as samples where each is alone."""
    return torch.stack(velocities) if alone else torch.cat(velocities, dim=1).unsqueeze(0)


def _stored(kv: KVCache, layer: int, rows: int, groups: int) -> Tensor:
    """``[rows, groups, keys | values]``."""
    like = torch.empty(0, dtype=kv.dtype)
    k, v = (part[0].unflatten(1, (groups, -1)) for part in kv.read(HISTORY, layer, slice(0, rows), like))
    return torch.cat([k, v], dim=2)
