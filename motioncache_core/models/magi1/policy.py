"""MAGI-1's cache policy: a chunk decides once a step, above guidance, on what its last step added to the latents.

Distance of the patch embedding, motion weights from the latents after each step, phases by the chunk's own steps.
Source: MotionCache, arXiv 2605.01725, and its MAGI-1 settings; the chunk rule is FlowCache's (arXiv 2602.10825).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...config import Magi1CacheConfig
from ...decisions import Phase, accumulate, limit_reuse, needed, phase_at, ramp, too_few, vote_up
from ...distance import relative_l1, relative_l1_per_token
from ...events import Decision
from ...motion import latent_motion_weights
from ...plan import Call, Part, Plan
from .architecture import PATCH_SIZE


@dataclass
class ChunkState:
    """Memory of one sample about one chunk.

    Args:
        level: accumulated distance of the chunk phase.
        accumulators, weights: ``[L]`` of the token phase.
        added: ``[C, F, H, W]`` what the last step added, and ``length``, the length of that step.
        latents: ``[C, F, H, W]`` at the last step. Their patch embedding, which distances are measured on, is made
            again: it holds hundreds of times as many numbers.
        mask: ``[L]`` tokens recomputed in the last step, ``None``: all (kept for a quirk).
    """

    level: float = 0.0
    accumulators: Tensor | None = None
    weights: Tensor | None = None
    added: Tensor | None = None
    length: float = 0.0
    latents: Tensor | None = None
    mask: Tensor | None = None


METRIC_IN_BF16 = "metric_in_bf16"
"""A quirk: the reference measures distances in its network's dtype, so that one near a threshold may round over it."""
WHOLE_CALC_IDS = "whole_calc_ids"
"""A quirk: the reference takes a chunk to enter only where more chunks are active than in the row before."""

STATE_CLASSES = (ChunkState,)
"""What a saved state may hold of this family."""


Fixed = Literal["edge", "entry", "warm-up"]
"""Why a step computes everything, whatever is seen: the run's first or last row, a chunk enters in it, warm-up."""


class Phases:
    """What settings and plan say of every step before it is made.

    Args:
        config: made for the run's steps.
        plan: of the run.
        quirks: of the policy.
    """

    def __init__(self, config: Magi1CacheConfig, plan: Plan, quirks: frozenset[str] = frozenset()):
        self.config = config
        self.last_row = max(call.row for call in plan.calls)
        self._entered = {call.row for call in plan.calls for part in call.parts if part.step == 0} - {0}
        if WHOLE_CALC_IDS in quirks:
            active = Counter(call.row for call in plan.calls for part in call.parts if part.step >= 0)
            self._entered = {row for row in self._entered if active[row] > active[row - 1]}
        self._chunk_phase = config.chunk_phase_updates if config.granularity == "token" else math.inf

    def of(self, step: int) -> Phase:
        """The phase of a chunk's step."""
        if self.config.granularity == "off":
            return "warm-up"
        return phase_at(step, self.config.warmup_start, self.config.warmup_steps, self._chunk_phase)

    def fixed(self, step: int, row: int) -> Fixed | None:
        """Why a chunk's step in that row is computed; ``None``: distances decide."""
        if row in (0, self.last_row):
            return "edge"
        if self.config.recompute_on_entry and row in self._entered:
            return "entry"
        return "warm-up" if self.of(step) == "warm-up" else None


class Magi1Policy:
    """Decides; the loop applies, the adapter computes what is left. One object a run.

    Args:
        config: made for the run's steps.
        plan: of the run, one chunk a call.
        quirks: defects of the reference to reproduce.

    Raises:
        ValueError: the plan puts several chunks into a call, where nothing can be left out.
    """

    def __init__(self, config: Magi1CacheConfig, plan: Plan, quirks: frozenset[str] = frozenset()):
        if not plan.chunk_wise:
            raise ValueError("the plan passes the window's chunks together; steps can be reused chunk by chunk only")
        self.config = config.for_steps(plan.steps)
        self.quirks = quirks
        self.states: dict[tuple[Hashable, int], ChunkState] = {}
        self._steps = plan.steps
        self._phases = Phases(self.config, plan, quirks)

    def begin_window(self) -> None:
        """Forget the window before."""
        self.states.clear()

    def share(self, other: Magi1Policy) -> None:
        """Remember the same chunks as another policy, which decides about some of them."""
        self.states = other.states

    def forget(self, chunk: int) -> None:
        """Nothing of a chunk's steps so far is reused, as when it is clean."""
        for key in [key for key in self.states if key[1] == chunk]:
            del self.states[key]

    def state(self, role: Hashable, chunk: int) -> ChunkState:
        return self.states.setdefault((role, chunk), ChunkState())

    def decide(self, role: Hashable, call: Call, latents: Tensor, embed: Callable[[Tensor], Tensor]) -> Decision:
        """What to recompute of a call's chunk.

        Args:
            role: the sample.
            call: a step of one chunk.
            latents: ``[C, F, H, W]`` before the step; a copy is kept.
            embed: patch embedding, ``[C, F, H, W]`` -> ``[L, dim]`` float32.
        """
        part = call.parts[0]
        frames, height, width = latents.shape[1:]
        total = frames * (height // PATCH_SIZE[1]) * (width // PATCH_SIZE[2])
        state = self.state(role, part.chunk)
        phase, fixed = self._phases.of(part.step), self._phases.fixed(part.step, call.row)
        decision = Decision(role, part.chunk, part.step, phase, total, total)
        if fixed == "edge":
            self._keep_last_mask(state, decision)
        elif fixed == "entry":
            state.level, state.accumulators = 0.0, None
        elif fixed == "warm-up":
            state.level = 0.0
        elif state.latents is not None:
            tokens, before = (self.measured(one, embed) for one in (latents, state.latents))
            decision.distance = relative_l1(tokens, before)
            if phase == "chunk":
                self._decide_whole(state, decision)
            else:
                self._decide_tokens(state, part, tokens, before, decision)
        state.latents = latents.clone()
        state.mask = decision.mask
        if decision.phase == "token" and not decision.computed:
            state.mask = torch.zeros(decision.total, dtype=torch.bool, device=latents.device)
        return decision

    def measured(self, latents: Tensor, embed: Callable[[Tensor], Tensor]) -> Tensor:
        """``[L, dim]`` what distances are measured on."""
        tokens = embed(latents)
        # of bfloat16 numbers the differences, means and their quotient are rounded too
        return tokens.bfloat16() if METRIC_IN_BF16 in self.quirks else tokens

    def added(self, decision: Decision, part: Part) -> Tensor:
        """``[C, F, H, W]`` what a chunk's reused tokens get added in this step."""
        state = self.state(decision.role, decision.chunk)
        if not self.config.rescale_residual:
            return state.added
        return state.added * ((part.sigma - part.sigma_next) / state.length)

    def observe(self, decision: Decision, part: Part, before: Tensor, after: Tensor, previous: Tensor | None) -> None:
        """Take note of a step.

        Args:
            before, after: ``[C, F, H, W]`` latents of the chunk.
            previous: ``[C, H, W]`` the latent frame before it, after this row's step; ``None`` at the video's start.
        """
        state = self.state(decision.role, decision.chunk)
        if decision.computed:
            state.added = after - before
        elif self.config.rescale_residual:
            state.added = self.added(decision, part)
        state.length = part.sigma - part.sigma_next
        if self.config.granularity == "token" and not (self.config.weights_once and state.weights is not None):
            state.weights = decision.weights = latent_motion_weights(
                after.float(),
                None if previous is None else previous.float(),
                floor=self.config.motion_floor,
                power=self.config.motion_power,
            )

    def _keep_last_mask(self, state: ChunkState, decision: Decision) -> None:
        if "stale_last_masks" in self.quirks and decision.phase == "token" and state.mask is not None:
            decision.computed = int(state.mask.sum())
            decision.mask = state.mask if 0 < decision.computed < decision.total else None

    def _decide_whole(self, state: ChunkState, decision: Decision) -> None:
        state.level += decision.distance
        decision.accumulators = state.level
        if state.level >= self.config.chunk_threshold:
            state.level = 0.0
        else:
            decision.computed, decision.need_share = 0, 0.0

    def _decide_tokens(self, state: ChunkState, part: Part, tokens: Tensor, before: Tensor, decision: Decision) -> None:
        config, total = self.config, decision.total
        if state.accumulators is None:
            state.accumulators = torch.zeros(total, device=tokens.device)
        distance = decision.distance
        if config.distance_per_token:
            distance = relative_l1_per_token(tokens[None, None], before[None, None])
        grown = accumulate(state.accumulators, distance, state.weights)
        need = needed(grown, config.token_threshold)
        count = int(need.sum())
        decision.waited = too_few(count, total, config.min_update_ratio)
        chosen = torch.zeros_like(need) if decision.waited else need
        share = self._share_to_reuse(part.step)
        if share < 1.0:
            chosen = self._limit(chosen, grown, share)
        updated = chosen
        if config.vote is not None and not decision.waited:
            chosen = vote_up(chosen, part.frames, config.vote)
        if "voting_keeps_accumulators" not in self.quirks:
            updated = chosen
        state.accumulators = torch.where(updated, torch.zeros_like(grown), grown)
        decision.accumulators, decision.need, decision.need_share = grown, need, count / total
        decision.computed = count = int(chosen.sum())
        decision.mask = chosen if 0 < count < total else None

    def _share_to_reuse(self, step: int) -> float:
        """Largest share of tokens that may be reused at a step of the token phase."""
        config = self.config
        if config.reuse_ramp is None:
            return config.max_reuse_ratio
        begin = config.warmup_start + config.warmup_steps + config.chunk_phase_updates
        steps = self._phases.last_row + 1 if "ratio_progress_over_run" in self.quirks else self._steps
        return ramp(*config.reuse_ramp, (step - begin) / (steps - begin))

    def _limit(self, need: Tensor, accumulators: Tensor, share: float) -> Tensor:
        limited = limit_reuse(need, accumulators, share)
        reused = accumulators[~limited]
        if "ratio_ties" in self.quirks and reused.numel():
            return need | (accumulators > reused.max())
        return limited
