"""SkyReels-V2's cache policy: every branch decides for each chunk, inside the network, on the hidden residual.

Distance of the time embedding (TeaCache polynomial), of a table, or of the patch embedding; motion from the hidden
state after the last block, or from the branch's own prediction of the clean latents. Source: MotionCache, arXiv
2605.01725, and its SkyReels-V2 settings.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...config import SKYREELS_1_3B_COEFFICIENTS, SKYREELS_14B_COEFFICIENTS, CacheConfig, ConfigError
from ...decisions import accumulate, limit_reuse, needed, phase_of, too_few, vote
from ...distance import polynomial, relative_l1, table_distance
from ...events import Decision
from ...motion import motion_weights

COEFFICIENTS_BY_WIDTH = {1536: SKYREELS_1_3B_COEFFICIENTS, 5120: SKYREELS_14B_COEFFICIENTS}


def resolve_coefficients(config: CacheConfig, width: int) -> CacheConfig:
    """The configuration with the polynomial of the model's width filled in.

    Raises:
        ConfigError: the distance needs a polynomial and none is known for this width.
    """
    if config.distance != "time embedding" or config.distance_coefficients is not None:
        return config
    if width not in COEFFICIENTS_BY_WIDTH:
        raise ConfigError(
            f"distance is 'time embedding', but no polynomial is known for a model of width {width} (known: "
            f"{', '.join(map(str, COEFFICIENTS_BY_WIDTH))}); choose 'patch embedding', which works for any weights"
        )
    return config.with_changes(distance_coefficients=COEFFICIENTS_BY_WIDTH[width])


@dataclass(frozen=True)
class StepInputs:
    """What a chunk's distance can be measured on.

    Args:
        timesteps: of every latent frame.
        time_embedding: ``[F or 1, 6, C]`` modulation of the frames, float32.
        patches: ``[L, C]`` tokens before the first block.
        frames: latent frames; the chunk's L tokens are frame-major.
        prompt: identity of the prompt; a residual of another prompt is never reused.
    """

    timesteps: tuple[int, ...]
    time_embedding: Tensor
    patches: Tensor | None
    frames: int
    prompt: Hashable = None


@dataclass
class ChunkState:
    """Memory of one branch about one chunk."""

    steps: int = 0
    updates: int = 0
    level: float = 0.0
    accumulators: Tensor | None = None
    weights: Tensor | None = None
    residual: Tensor | None = None
    before: StepInputs | None = None
    stale: bool = False
    """Whether its stored keys and values are lost."""


STATE_CLASSES = (StepInputs, ChunkState)
"""What a saved state may hold of this family."""


class SkyReelsV2Policy:
    """Decides; the adapter computes and applies. One object a run.

    Args:
        config: with coefficients resolved.
        quirks: defects of the reference to reproduce.
    """

    def __init__(self, config: CacheConfig, quirks: frozenset[str] = frozenset()):
        self.config = config
        self.quirks = quirks
        self.states: dict[tuple[Hashable, int], ChunkState] = {}
        self.last_frames: dict[tuple[Hashable, int], Tensor] = {}
        self._chunk_phase = config.chunk_phase_updates if config.granularity == "token" else math.inf
        self._known_distances: dict[tuple[tuple[int, ...], tuple[int, ...]], float] = {}

    def begin_window(self) -> None:
        """Forget the window before."""
        self.states.clear()
        if "stale_previous_frames" not in self.quirks:
            self.last_frames.clear()

    def finish(self, chunk: int) -> None:
        """A chunk is clean: only its last frame is still compared with, and that of the chunk before it no longer."""
        self.forget(chunk)
        if "stale_previous_frames" not in self.quirks:
            for key in [key for key in self.last_frames if key[1] < chunk]:
                del self.last_frames[key]

    def forget(self, chunk: int) -> None:
        """Nothing of a chunk's steps so far is remembered."""
        for key in [key for key in self.states if key[1] == chunk]:
            del self.states[key]

    def redo(self, chunk: int) -> None:
        """The next step of a chunk computes everything, whatever it has reached so far."""
        for key in [key for key in self.states if key[1] == chunk]:
            self.states[key].stale = True

    def share(self, other: SkyReelsV2Policy) -> None:
        """Remember the same chunks as another policy, which decides about some of them."""
        self.states, self.last_frames = other.states, other.last_frames

    def state(self, role: Hashable, chunk: int) -> ChunkState:
        return self.states.setdefault((role, chunk), ChunkState())

    def decide(self, role: Hashable, chunk: int, inputs: StepInputs) -> Decision:
        """What to recompute of a chunk in its next step."""
        state = self.state(role, chunk)
        total = inputs.patches.shape[0]
        phase = phase_of(state.steps, state.updates, self.config.warmup_steps, self._chunk_phase)
        if self.config.granularity == "off":
            phase = "warm-up"
        decision = Decision(role, chunk, state.steps, phase, total, total)
        if phase != "warm-up":
            decision.distance = self._distance(inputs, state.before)
            if phase == "chunk":
                self._decide_whole(state, decision)
            else:
                self._decide_tokens(state, inputs, decision)
        if state.before is not None and (state.stale or state.before.prompt != inputs.prompt):
            decision.computed, decision.mask, decision.waited = total, None, False
            state.level, state.accumulators, state.stale = 0.0, None, False
        state.before = inputs if self.config.distance == "patch embedding" else replace(inputs, patches=None)
        return decision

    @property
    def wants_clean(self) -> bool:
        """Whether motion is seen on the prediction of the clean latents instead of the hidden state."""
        return self.config.granularity == "token" and self.config.motion_source == "clean prediction"

    def observe(self, decision: Decision, seen: Tensor, frames: int) -> None:
        """Take note of a step's outcome, recomputed and reused tokens mixed.

        Args:
            seen: ``[L, C]`` hidden state after the blocks, or patches of the clean prediction (:attr:`wants_clean`).
        """
        state = self.state(decision.role, decision.chunk)
        if decision.phase == "chunk" and decision.computed:
            state.updates += 1
        state.steps += 1
        decision.updates = state.updates
        if self.config.granularity != "token":
            return
        by_frame = seen.view(1, frames, -1, seen.shape[-1])
        next_phase = phase_of(state.steps, state.updates, self.config.warmup_steps, self._chunk_phase)
        if next_phase == "token":
            state.weights = decision.weights = motion_weights(
                by_frame.float(),
                self._frame_before(decision, seen.shape[-1]),
                first_of_video=decision.chunk == 0,
                norm=self.config.weight_norm,
                floor=self.config.motion_floor,
                power=self.config.motion_power,
                relative=not self.wants_clean,
                quirks=self.quirks,
            )
        self._keep_last_frame(decision.role, decision.chunk, by_frame)

    def observe_context(self, role: Hashable, chunk: int, seen: Tensor, frames: int) -> None:
        """Remember given frames, so that the first generated chunk has something to compare with."""
        if self.config.granularity == "token" and "condition_group_not_remembered" not in self.quirks:
            self._keep_last_frame(role, chunk, seen.view(1, frames, -1, seen.shape[-1]))

    def _frame_before(self, decision: Decision, width: int) -> Tensor | None:
        """The last frame of the chunk before; ``None`` if it is not known, or if motion was seen on other features."""
        frame = self.last_frames.get((decision.role, decision.chunk - 1))
        return frame if frame is not None and frame.shape[-1] == width else None

    def _keep_last_frame(self, role: Hashable, chunk: int, by_frame: Tensor) -> None:
        self.last_frames[(role, chunk)] = by_frame[:, -1].float().clone()

    def _decide_whole(self, state: ChunkState, decision: Decision) -> None:
        state.level += decision.distance
        decision.accumulators = state.level
        if state.level >= self.config.chunk_threshold:
            state.level = 0.0
        else:
            decision.computed, decision.need_share = 0, 0.0

    def _decide_tokens(self, state: ChunkState, inputs: StepInputs, decision: Decision) -> None:
        config, total = self.config, decision.total
        if state.accumulators is None:
            state.accumulators = torch.full((total,), state.level, device=inputs.patches.device)
        grown = accumulate(state.accumulators, decision.distance, state.weights)
        need = needed(grown, config.token_threshold)
        if config.vote is not None:
            need = vote(need, inputs.frames, config.vote)
        decision.accumulators, decision.need = grown, need
        count = int(need.sum())
        decision.need_share = count / total
        decision.waited = too_few(count, total, config.min_update_ratio)
        chosen = torch.zeros_like(need) if decision.waited else need
        if config.max_reuse_ratio < 1.0:
            chosen = limit_reuse(chosen, grown, config.max_reuse_ratio)
            count = int(chosen.sum())
        elif decision.waited:
            count = 0
        state.accumulators = torch.where(chosen, torch.zeros_like(grown), grown)
        decision.computed = count
        decision.mask = chosen if 0 < count < total else None

    def _distance(self, now: StepInputs, before: StepInputs) -> float:
        if self.config.distance == "patch embedding":
            return relative_l1(now.patches.float(), before.patches.float())
        key = (before.timesteps, now.timesteps)
        if key not in self._known_distances:
            self._known_distances[key] = self._timestep_distance(now, before)
        return self._known_distances[key]

    def _timestep_distance(self, now: StepInputs, before: StepInputs) -> float:
        if self.config.distance == "table":
            table = self.config.distance_table
            pairs = zip(before.timesteps, now.timesteps, strict=True)
            return sum(table_distance(table, a, b) for a, b in pairs) / len(now.timesteps)
        relative = relative_l1(now.time_embedding, before.time_embedding)
        return polynomial(relative, self.config.distance_coefficients, clamp="negative_distance" not in self.quirks)
