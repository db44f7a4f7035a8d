"""Fewer stored keys and values of finished chunks: those that were looked at much, and unlike the others, stay.

Source of the score: R-KV, as FlowCache (arXiv 2602.10825) uses it for MAGI-1.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ...plan import Plan, PlanError
from .attention import AttentionFunction

Unit = Literal["token", "frame", "chunk"]
Emphasis = Literal["even", "exponential", "polynomial", "convex", "early", "not the first chunk"]

_TOKEN_QUERIES = 50
_QUERIES_AT_ONCE = 256


@dataclass(frozen=True)
class Compression:
    """Settings.

    Args:
        cache_chunks: chunks that the store holds. Once it is full, the finished ones are compressed by one chunk
            whenever another enters.
        keep: what stays or goes as one.
        queries: the last computed chunk's queries that count: all, those of its last frame, or its last 50.
        importance_share: weight of being looked at, against that of being unlike others; 0..1.
        emphasis: how the score of a token depends on its place (``keep`` ``token`` only).
        power: of the emphases ``polynomial`` and ``convex``.
        kernel: neighbouring tokens that share the largest importance among them, an odd number.
    """

    cache_chunks: int = 10
    keep: Unit = "token"
    queries: Unit = "frame"
    importance_share: float = 0.07
    emphasis: Emphasis = "even"
    power: float = 3.0
    kernel: int = 7

    def check(self, plan: Plan) -> None:
        """Raises PlanError where the store could not hold what the plan needs."""
        rows = Counter(call.row for call in plan.calls for part in call.parts if part.step >= 0)
        window_chunks = max(rows.values())
        for name, legal in (("keep", Unit), ("queries", Unit), ("emphasis", Emphasis)):
            if getattr(self, name) not in get_args(legal):
                raise PlanError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(get_args(legal))}")
        if self.cache_chunks <= window_chunks:
            raise PlanError(
                f"cache_chunks is {self.cache_chunks}; it must be above the window's {window_chunks} chunks "
                f"(nearest: {window_chunks + 1})"
            )
        if not plan.chunk_wise or any(call.reads[0] for call in plan.calls):
            raise PlanError(
                "keys and values can be compressed only where every chunk attends to all before it, one chunk a call: "
                "set history_chunks to nothing, clean_chunks to -1 and attention to 'chunk-wise'"
            )


def importance(keys: Tensor, queries: Tensor) -> Tensor:
    """How much each key is looked at: ``[n, groups, d]`` keys, ``[m, heads, d]`` queries -> ``[groups, n]``.

    Mean over the queries of the softmax of the largest score among a group's heads.
    """
    groups, width = keys.shape[1:]
    by_group = queries.unflatten(1, (groups, -1))
    looked = []
    for group in range(groups):
        total = torch.zeros(keys.shape[0], dtype=torch.float32, device=keys.device)
        for some in by_group[:, group].split(_QUERIES_AT_ONCE):
            scores = (some.transpose(0, 1) @ keys[:, group].t()).amax(dim=0) / math.sqrt(width)
            total += scores.softmax(dim=-1, dtype=torch.float32).sum(dim=0)
        looked.append(total / queries.shape[0])
    return torch.stack(looked).to(queries.dtype)


def redundancy(keys: Tensor) -> Tensor:
    """How much each key resembles the others: softmax over the tokens of its mean cosine to them, ``[groups, n]``."""
    units = keys.transpose(0, 1)
    units = units / (units.norm(dim=-1, keepdim=True) + 1e-8)
    to_all = (units @ units.sum(dim=1).unsqueeze(-1)).squeeze(-1)
    return ((to_all - 1.0) / keys.shape[0]).softmax(dim=-1)


def kept_tokens(
    keys: Tensor, queries: Tensor, budget: int, settings: Compression, frame_tokens: int, chunk_tokens: int
) -> Tensor:
    """Indices of the keys that stay, ``[budget, groups]``, best first.

    Args:
        keys: ``[n, groups, d]``.
        queries: ``[m, heads, d]`` of the last computed chunk.
        budget: how many stay, a multiple of what ``keep`` keeps together.
    """
    counted = {"token": _TOKEN_QUERIES, "frame": frame_tokens, "chunk": queries.shape[0]}[settings.queries]
    share = settings.importance_share
    looked = importance(keys, queries[-counted:])
    looked = nn.functional.max_pool1d(looked, settings.kernel, stride=1, padding=settings.kernel // 2)
    score = looked * share - redundancy(keys) * (1 - share)
    if settings.keep == "token":
        score = score - score.amin(dim=1, keepdim=True)
        return _emphasised(score, settings, chunk_tokens).topk(budget, dim=1).indices.t()
    unit = frame_tokens if settings.keep == "frame" else chunk_tokens
    best = score.unflatten(1, (-1, unit)).mean(dim=2).topk(budget // unit, dim=1).indices
    inside = torch.arange(unit, device=keys.device)
    return (best.unsqueeze(-1) * unit + inside).flatten(1).t()


def _emphasised(score: Tensor, settings: Compression, chunk_tokens: int) -> Tensor:
    if settings.emphasis == "even":
        return score
    if settings.emphasis == "not the first chunk":
        score = score.clone()
        score[:, :chunk_tokens] -= 1e6
        return score
    count = score.shape[1]
    place = torch.arange(count, dtype=torch.float32, device=score.device)
    along = place / max(count - 1, 1)
    rules: dict[str, Callable[[], Tensor]] = {
        "exponential": lambda: 0.1 + 0.9 * ((1 - torch.exp(-2 * along)) / (1 - math.exp(-2))),
        "polynomial": lambda: 0.1 + 0.9 * along**settings.power,
        "convex": lambda: 2 * (1 - (1 - along) ** settings.power),
        "early": lambda: _bell(place, count),
    }
    return score * rules[settings.emphasis]()


def _bell(place: Tensor, count: int) -> Tensor:
    bell = torch.exp(-0.5 * (place / (count / 4)) ** 2)
    return 0.1 + 0.9 * ((bell - bell[-1]) / (1 - bell[-1]))


def take(rows: Tensor, kept: Tensor) -> Tensor:
    """``[n, groups, d]`` -> ``[budget, groups, d]``, every group's own choice."""
    return rows.gather(0, kept.unsqueeze(-1).expand(-1, -1, rows.shape[2]))


class QueryTap:
    """Attention that keeps the video queries of some items of a call, layer by layer.

    Args:
        attention: attention function that does the work.
        kept: for each item that runs, in order, under which key its queries are kept, ``None``: not. The network calls
            attention once for each item's video, then once for each item's text.
        heads: query heads.
    """

    def __init__(self, attention: AttentionFunction, kept: Sequence[int | None], heads: int):
        self.attention, self.kept, self.heads = attention, kept, heads
        self.queries: dict[int, list[Tensor]] = {key: [] for key in kept if key is not None}
        self._calls = 0

    def __call__(self, queries: Tensor, keys: Tensor, values: Tensor, groups: int) -> Tensor:
        item = self._calls % (2 * len(self.kept))
        key = self.kept[item] if item < len(self.kept) else None
        if key is not None:
            laid = queries[0].unflatten(0, (self.heads // groups, -1)).unflatten(2, (groups, -1))
            self.queries[key].append(laid.permute(1, 2, 0, 3).flatten(1, 2))
        self._calls += 1
        return self.attention(queries, keys, values, groups)
