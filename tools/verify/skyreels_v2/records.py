"""Our decisions in the form in which the reference's runs were recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from motioncache_core.events import Decision

_REUSING = {"full": "full", "partial": "partial", "reused": "zero"}


@dataclass(frozen=True)
class GroupEvent:
    """One group of one branch, forwarded in one row.

    Args:
        place: (window, row, branch, group), the order of the records.
        updated: whether the group stepped, or was only shown.
        decision: of the policy; ``None`` without one.
        output: ``[C, F, H, W]`` velocity.
        hidden: ``[L, dim]`` before the head.
        warmup: full steps before the first whose residual may be reused.
    """

    place: tuple[int, int, int, int]
    updated: bool
    decision: Decision | None
    output: Tensor
    hidden: Tensor
    warmup: int

    @property
    def kind(self) -> str:
        if self.decision is None:
            return "plain"
        if self.decision.phase == "warm-up":
            return "warmup" if self.decision.step < self.warmup else "first"
        return _REUSING[self.decision.outcome]

    @property
    def cached(self) -> bool:
        """Whether the policy had a choice."""
        return self.decision is not None and self.decision.phase != "warm-up"


def records_of(events: Sequence[GroupEvent], columns: Sequence[str]) -> list[list[int | float | str]]:
    """One record per event with the named columns; -1 where a column has no meaning."""
    weighted = [event.decision is not None and event.decision.weights is not None for event in events]
    records = []
    for i, event in enumerate(events):
        window, row, branch, group = event.place
        decision, cached = event.decision, event.cached
        record = {
            "niter": window,
            "row": row,
            "branch": branch,
            "group": group,
            "step_num": decision.step if decision else 0,
            "kind": event.kind,
            "updated": int(event.updated),
            "cached": sum(e.cached for e in events[:i]) if cached else -1,
            "phase2": int(decision.phase == "token") if cached else -1,
            "distance": decision.distance if cached else 0.0,
            "update_ratio": decision.need_share if cached else 0.0,
            "skipped": int(decision.waited) if cached else 0,
            "phase1_counter_after": decision.updates if cached else -1,
            "weights_new": sum(weighted[:i]) if weighted[i] else -1,
        }
        records.append([record[column] for column in columns])
    return records


def arrays_of(events: Sequence[GroupEvent], *, per_token: bool) -> dict[str, Tensor]:
    """Accumulators, masks and distances of the events with a choice, and all new weights, each stacked."""
    choices = [event.decision for event in events if event.cached]
    weights = [e.decision.weights for e in events if e.decision is not None and e.decision.weights is not None]
    by_token = {
        "acc_before": [_spread(decision.accumulators, decision) for decision in choices],
        "need": [_mask(decision, decision.need, decision.need_share) for decision in choices],
        "forwarded": [_mask(decision, decision.mask, decision.computed) for decision in choices],
        "distance": [_spread(decision.distance, decision) for decision in choices],
        "weights_new": weights,
    }
    tokens = next((event.hidden.shape[0] for event in events), 0)
    arrays = {name: torch.stack(found) if found else torch.empty(0, tokens) for name, found in by_token.items()}
    return arrays if per_token else arrays | {"distance": torch.tensor([d.distance for d in choices])}


def statistics(output: Tensor) -> Tensor:
    """``[4]`` float64: mean, standard deviation (unbiased), mean size, and a sum weighted by cos(i) over sqrt(n)."""
    flat = output.double().flatten()
    weighted = (flat * torch.arange(len(flat), dtype=torch.float64).cos()).sum() / len(flat) ** 0.5
    return torch.stack([flat.mean(), flat.std(), flat.abs().mean(), weighted])


def _spread(value: float | Tensor, decision: Decision) -> Tensor:
    return value.float() if isinstance(value, Tensor) else torch.full((decision.total,), value)


def _mask(decision: Decision, mask: Tensor | None, share: float) -> Tensor:
    return torch.full((decision.total,), share > 0) if mask is None else mask
