"""What a run tells while it goes: one event per call, one per finished chunk."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from .decisions import Phase
from .plan import Call, Chunk

Outcome = Literal["full", "partial", "reused"]


@dataclass
class Decision:
    """What one role computed of one chunk in one step.

    Args:
        role: branch that decided, (list name, slot, sample).
        chunk: place of the chunk in the window, -1 where the window decides as a whole.
        step: steps of the chunk before this one.
        phase: of the chunk's life; ``None`` in a run told again without its report.
        computed, total: tokens recomputed, tokens of the chunk.
        mask: ``[total]`` bool, tokens recomputed; ``None`` where all or none.
        distance: of this step; ``None`` in warm-up.
        accumulators: after adding this step's distance, before any reset: one number while the chunk decides as a
            whole, ``[total]`` in the token phase.
        need: ``[total]`` bool after the vote, before waiting; ``None`` where all or none.
        need_share: share of tokens that needed work.
        waited: fewer than the minimum needed work, so all waited.
        weights: ``[total]`` motion weights made from this step's output, for the next one.
        updates: computed steps of the chunk phase after this step.
    """

    role: Hashable
    chunk: int
    step: int
    phase: Phase | None
    total: int
    computed: int
    mask: Tensor | None = None
    distance: float | None = None
    accumulators: float | Tensor | None = None
    need: Tensor | None = None
    need_share: float = 1.0
    waited: bool = False
    weights: Tensor | None = None
    updates: int = 0

    @property
    def outcome(self) -> Outcome:
        if self.computed == self.total:
            return "full"
        return "partial" if self.computed else "reused"


@dataclass(frozen=True)
class StepReuse:
    """What a call takes over from earlier steps of its chunks, decided above the network.

    Args:
        computed: ``[B, 1, F, H, W]`` bool, latents that step anew; ``None``: none do, and the call is not made.
        added: ``[B, C, F, H, W]`` what is added to the others, as in their last step.
    """

    computed: Tensor | None
    added: Tensor


@dataclass(frozen=True)
class Pass:
    """Tokens that one branch of a call put through the network.

    Args:
        role: the branch, ``None`` for an auxiliary pass.
        computed, total: tokens computed, tokens of the call.
        context: mean number of keys that each computed token attended to.
        full_context: the same had all tokens been computed; ``None``: as the call says.
        text: mean number of prompt tokens that each of them attends to; ``None``: the usual number.
        prompt: prompt tokens whose embedding, keys and values are made in this pass; ``None``: they are made once a
            run, with the role.
    """

    role: Hashable
    computed: int
    total: int
    context: float
    full_context: float | None = None
    text: float | None = None
    prompt: int | None = None


@dataclass(frozen=True)
class CallEvent:
    """A call was made. ``seconds`` is wall-clock, the solver's step included."""

    call: Call
    passes: tuple[Pass, ...]
    decisions: tuple[Decision, ...]
    seconds: float
    x0: Tensor = field(repr=False)
    """``[B, C, F, H, W]`` the call's prediction of the clean latents."""


@dataclass(frozen=True)
class ChunkEvent:
    """A chunk became clean. ``latents``: ``[B, C, F, H, W]``, in model units."""

    window: int
    chunk: Chunk
    latents: Tensor = field(repr=False)


Event = CallEvent | ChunkEvent
