"""Cases of the group-wise forward: keys and values kept from row to row, nothing reused otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from motioncache_core.kv_cache import KVCache
from motioncache_core.models.skyreels_v2.adapter import BranchRow, NetworkRun, SkyReelsV2Adapter

from ..compare import Restricted
from ..folder import Case, CaseError
from .network import build, dtype_of
from .transformer import call_of, expect_shape, frame_rates

_CALLS = {
    False: ["prompt", "negative"],
    True: ["even: context as stored", "odd: the two samples of context swapped"],
}
_STORES = {
    False: "one set per branch, kept from row to row, new at the start of an iteration",
    True: "one set per call of the row (even, odd), kept from row to row",
}
"""By whether a row makes two calls of the same samples."""


@dataclass(frozen=True)
class _Row:
    """One row of the schedule.

    Args:
        iteration, number: which row of which window.
        x: ``[B, C, F, H, W]``.
        timesteps: ``[B, F]``.
        updated: ``[F]`` bool.
    """

    iteration: int
    number: int
    x: Tensor
    timesteps: Tensor
    updated: Tensor


def forward(case: Case) -> dict[str, Tensor | Restricted]:
    """Every row's outputs by branch, zero where a group did not run, and which groups ran."""
    s = case.settings
    rows, branches = list(_rows(case)), _branches(case)
    expect_shape(case, rows[0].x, rows[0].timesteps)
    case.expect(
        rows=len(rows),
        calls_per_row=_CALLS["out_odd" in branches],
        kv_buffers=_STORES["out_odd" in branches],
        finished_group_rule="a group with updates_per_group updates is not forwarded again, its K/V stay",
        last_group_rule="groups up to the last one with an update in the row",
        overlap_group_rule="in an iteration with an overlap group, group 0 is forwarded in row 0 only",
    )
    adapter = build(case)
    outputs: dict[str, list[Tensor]] = {name: [] for name in branches}
    forwarded = []
    for row in rows:
        if row.number == 0:
            run, updates = _new_run(adapter, row.x), [0] * s["num_groups"]
        groups = _groups_to_run(case, row, updates)
        forwarded.append(groups)
        for name, out in _row_outputs(case, adapter, run, row, branches, groups).items():
            outputs[name].append(out)
        for group, frames in enumerate(row.updated.split(s["group_size"])):
            updates[group] += bool(frames.any())
    if "update_mask" not in case.inputs:
        return {name: outs[0] for name, outs in outputs.items()}
    batched = case.input("x").ndim == 6
    stacked = {name: torch.stack(outs if batched else [o[0] for o in outs]) for name, outs in outputs.items()}
    where = torch.stack([row.updated for row in rows])
    where = where.view(len(rows), *([1, 1] if batched else [1]), -1, 1, 1)
    results = {name: Restricted(out, where) if case.compare else out for name, out in stacked.items()}
    return results | {"groups_forwarded": torch.tensor(forwarded)}


def _rows(case: Case) -> Iterator[_Row]:
    """The rows, whether the case stores several, one, or a batch."""
    x, t = case.input("x").to(dtype_of(case)), case.input("t")
    told = case.settings.get("update_mask")
    if "update_mask" not in case.inputs:
        if told != "all true" or case.settings["rows"] != 1:
            raise CaseError("without an input update_mask there must be one row and 'update_mask': 'all true'")
        yield _Row(0, 0, x, t if t.ndim == 2 else t[None], torch.ones(x.shape[2], dtype=torch.bool))
        return
    masks = case.input("update_mask")
    iterations = case.input("row_iteration") if "row_iteration" in case.inputs else torch.zeros(len(x), dtype=int)
    numbers = case.input("row") if "row" in case.inputs else torch.arange(len(x))
    for i in range(len(x)):
        one, levels = (x[i], t[i]) if x.ndim == 6 else (x[i : i + 1], t[i : i + 1])
        yield _Row(int(iterations[i]), int(numbers[i]), one, levels, masks[i])


def _branches(case: Case) -> dict[str, Tensor]:
    """Output name -> context ``[B, T, C]`` of the calls that a row makes."""
    dtype = dtype_of(case)
    if "out" in case.outputs:
        return {"out": case.input("context").to(dtype)}
    if "out_even" in case.outputs:
        context = case.input("context").to(dtype)
        return {"out_even": context, "out_odd": context.flip(0)}
    return {"out_cond": case.input("prompt").to(dtype), "out_uncond": case.input("negative").to(dtype)}


def _new_run(adapter: SkyReelsV2Adapter, x: Tensor) -> NetworkRun:
    patch = adapter.network.patch_size
    tokens = x.shape[2] * -(-x.shape[3] // patch[1]) * -(-x.shape[4] // patch[2])
    return NetworkRun(KVCache(len(adapter.network.blocks), tokens, adapter.network.dim, x.dtype, x.device))


def _groups_to_run(case: Case, row: _Row, updates: list[int]) -> list[bool]:
    """Groups up to the last updated one, less the finished ones, and less an overlap group after its first row."""
    s = case.settings
    overlap = s.get("overlap_groups_by_iteration", [s.get("overlap_groups", 0)])
    changing = [bool(frames.any()) for frames in row.updated.split(s["group_size"])]
    last = max(group for group, changes in enumerate(changing) if changes)
    limit = s["updates_per_group"]
    runs = [group <= last and (limit is None or updates[group] < limit) for group in range(s["num_groups"])]
    if overlap[row.iteration] and row.number > 0:
        runs[0] = False
    return runs


def _row_outputs(
    case: Case,
    adapter: SkyReelsV2Adapter,
    run: NetworkRun,
    row: _Row,
    branches: dict[str, Tensor],
    groups: list[bool],
) -> dict[str, Tensor]:
    """``[B, C, F, H, W]`` of every branch; all branches and samples go through the network together."""
    samples, size = len(row.x), case.settings["group_size"]
    outputs = {name: torch.zeros_like(row.x) for name in branches}
    roles = [BranchRow((name, 0, sample), prompt=name) for name in branches for sample in range(samples)]
    fps = frame_rates(case, samples, row.x.shape[2])
    for group in (group for group, runs in enumerate(groups) if runs):
        span = slice(group * size, (group + 1) * size)
        call = call_of([(span.start, span.stop)], first_place=group, writes=True, causal=True)
        out = adapter.forward(
            row.x[:, :, span].repeat(len(branches), 1, 1, 1, 1),
            torch.cat(list(branches.values())),
            call,
            roles,
            run,
            row.timesteps[:, span].tolist() * len(branches),
            [rates[span] for rates in fps] * len(branches),
        )
        for name, part in zip(branches, out.split(samples), strict=True):
            outputs[name][:, :, span] = part
    return outputs
