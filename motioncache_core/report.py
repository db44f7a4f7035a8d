"""What a run computed and what it left out, per chunk and step, in token-forwards, FLOPs and wall-clock."""

from __future__ import annotations

import copy
import statistics
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from .config import CacheConfig
from .decisions import Phase
from .events import CallEvent, Decision
from .flops import TransformerSize, pass_flops, prompt_flops
from .plan import Call, Plan

FORMAT = "motioncache_report"
VERSION = 1
SEVERAL_SETTINGS = "parts of the video have different cache settings; those told here are the last part's"
"""A note: the report's settings are not those of all chunks."""


@dataclass
class Report:
    """Collects a run's events.

    Args:
        plan: of the run.
        config: of the cache, ``None`` without one.
        size: for the FLOPs.
        inactive: why the cache does not act, if it is there and does not.
        notes: further sentences for the reader.
    """

    plan: Plan
    config: CacheConfig | None
    size: TransformerSize
    inactive: str | None = None
    notes: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    _roles: set[Any] = field(default_factory=set)
    _distances: dict[Phase, tuple[float, float]] = field(default_factory=dict)
    """Smallest and largest of each phase."""
    _ways: Counter[tuple[Any, int, int]] = field(default_factory=Counter)
    """Sum of the distances of each role, window and chunk."""
    _denoise: Counter[str] = field(default_factory=Counter)
    _other_tokens: int = 0
    _flops: Counter[str] = field(default_factory=Counter)

    def extended(self, plan: Plan, config: CacheConfig | None, inactive: str | None) -> Report:
        """A report of its own that goes on with a longer plan."""
        kept = {name: copy.copy(value) for name, value in vars(self).items() if name not in ("plan", "config", "size")}
        longer = Report(plan, config, self.size)
        vars(longer).update(kept, inactive=inactive)
        return longer

    def add(self, event: CallEvent) -> None:
        """Take up a call."""
        call = event.call
        for made in event.passes:
            prompt = 0.0
            if made.prompt is None:
                self._roles.add(made.role)
            else:
                prompt = prompt_flops(self.size, made.prompt)
            done = pass_flops(self.size, made.computed, made.total, made.context, made.text)
            done += prompt if made.computed else 0.0
            self._flops["done"] += done
            whole = done if made.computed else 0.0
            if call.kind == "denoise":
                full = _full_context(call, made.total) if made.full_context is None else made.full_context
                whole = pass_flops(self.size, made.total, made.total, full, made.text) + prompt
                self._denoise["computed"] += made.computed
                self._denoise["total"] += made.total
            else:
                self._other_tokens += made.computed
            self._flops["without reuse"] += whole
        for decision in event.decisions:
            if decision.distance is not None:
                known = *self._distances.get(decision.phase, ()), decision.distance
                self._distances[decision.phase] = min(known), max(known)
                self._ways[decision.role, call.window, decision.chunk] += decision.distance
        self.calls.append(
            {
                "kind": call.kind,
                "window": call.window,
                "row": call.row,
                "chunks": [self._chunk_name(call.window, part.chunk) for part in call.parts],
                "step": max(part.step for part in call.parts),
                "timestep": max(part.timestep for part in call.parts),
                "seconds": round(event.seconds, 4),
                "branches": [_branch(d) for d in event.decisions],
                "computed": sum(p.computed for p in event.passes),
                "total": sum(p.total for p in event.passes),
            }
        )

    def summary(self) -> dict[str, Any]:
        """Totals. ``computed fraction`` is the share of the plan's denoising token-forwards that were done.

        ``distance_of_a_chunk``: what a chunk's steps after warm-up add up to, the median. Divided by a number of steps
        it is the threshold at which about that many of them are computed.
        """
        computed, total = self._denoise["computed"], self._denoise["total"]
        prompts = prompt_flops(self.size) * len(self._roles - {None})
        outcomes = Counter(branch["outcome"] for call in self.calls for branch in call["branches"])
        return {
            "cache": self.config.granularity if self.config else "none",
            "computed_fraction": computed / total if total else 1.0,
            "token_forwards": computed,
            "token_forwards_without_reuse": total,
            "token_forwards_context_and_refresh": self._other_tokens,
            "flops": self._flops["done"] + prompts,
            "flops_without_reuse": self._flops["without reuse"] + prompts,
            "seconds": round(sum(call["seconds"] for call in self.calls), 3),
            "model_calls": len(self.calls),
            "branch_steps": {name: outcomes[name] for name in ("full", "partial", "reused")},
            "smallest_distance": min((low for low, _ in self._distances.values()), default=None),
            "largest_distance": max((high for _, high in self._distances.values()), default=None),
            "distance_of_a_chunk": statistics.median(self._ways.values()) if self._ways else None,
            "nothing_reused_because": self._reason() if computed == total else None,
        }

    def to_json(self) -> dict[str, Any]:
        """Everything: settings, totals, seconds by chunk, one entry a call."""
        seconds: Counter[str] = Counter()
        for call in self.calls:
            if len(call["chunks"]) == 1:
                seconds[call["chunks"][0]] += call["seconds"]
        return {
            "format": FORMAT,
            "version": VERSION,
            "family": self.plan.family,
            "sampling": "chunk-wise" if self.plan.chunk_wise else "vanilla",
            "clean_refresh": self.plan.clean_refresh,
            "steps": self.plan.steps,
            "latent_frames": self.plan.latent_frames,
            "config": _plain_config(self.config),
            "summary": self.summary(),
            "notes": self._all_notes(),
            "seconds_by_chunk": {name: round(value, 3) for name, value in seconds.items()},
            "calls": self.calls,
        }

    def text(self) -> str:
        """The totals in a few lines for a person. Every line is a sentence, since some places show them as one."""
        s = self.summary()
        steps = s["branch_steps"]
        lines = [
            work_sentence(s["computed_fraction"]),
            f"{s['model_calls']} model calls in {s['seconds']:.1f} s, {s['flops'] / 1e12:.3g} TFLOPs "
            f"({s['flops_without_reuse'] / 1e12:.3g} without reuse)",
        ]
        if any(steps.values()):
            lines.append(f"branch steps: {steps['full']} full, {steps['partial']} partial, {steps['reused']} reused")
        if s["distance_of_a_chunk"]:
            lines.append(f"for about n computed steps set the threshold to {s['distance_of_a_chunk']:.3g} divided by n")
        if s["nothing_reused_because"]:
            lines.append(f"nothing was reused: {s['nothing_reused_because']}")
        return "\n".join(map(sentence, lines + self._all_notes()))

    def _all_notes(self) -> list[str]:
        return self.notes + _approximation(self.plan) + self._never_token_by_token()

    def _never_token_by_token(self) -> list[str]:
        """A note if chunks were clean before their tokens parted, as under counts that were meant for more steps."""
        config, last = self.config, self.plan.steps - 1
        over = any(call["step"] == last and call["branches"] for call in self.calls)
        if config is None or self.inactive or config.granularity != "token" or "token" in self._distances or not over:
            return []
        return [
            f"no chunk came to the token phase: warmup_steps is {config.warmup_steps} and chunk_phase_updates "
            f"{config.chunk_phase_updates}, of {self.plan.steps} steps; lower them or take a preset"
        ]

    def _chunk_name(self, window: int, place: int) -> str:
        number = self.plan.windows[window].chunks[place].number
        return f"context {window}.{place}" if number is None else str(number)

    def _reason(self) -> str:
        config = self.config
        if self.inactive:
            return self.inactive
        if config is None:
            return "no MotionCache node is connected"
        if config.granularity == "off":
            return "the cache is off"
        if not self._distances:
            return (
                f"warm-up covers every step (warmup_steps is {config.warmup_steps}, and the step after them is "
                f"computed too; a chunk has {self.plan.steps} steps)"
            )
        return "; ".join(_why_all(config, phase, low) for phase, (low, _) in self._distances.items())


def work_sentence(computed: float) -> str:
    """What an artist wants to know first. ``computed``: the computed fraction, 0 to 1."""
    digits = 0 if 0.01 <= computed <= 0.99 or computed in (0.0, 1.0) else 1  # what is left over is not hidden
    percent = round(100 * computed, digits)
    done, left = (f"{share:.{digits}f} %" for share in (percent, 100 - percent))
    return f"{done} of the work was computed, {left} was reused (a share of the token passes, not a speed-up)"


def sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _why_all(config: CacheConfig, phase: Phase, smallest: float) -> str:
    """Why a phase in which everything was computed reused nothing."""
    if phase == "token" and config.max_reuse_ratio == 0:
        return "max_reuse_ratio is 0"
    threshold = config.chunk_threshold if phase == "chunk" else config.token_threshold
    if threshold <= 0:
        return f"{phase}_threshold is {threshold:g}; 0 or less computes everything"
    return f"every step reached {phase}_threshold {threshold:g} (smallest distance {smallest:.4g})"


def _full_context(call: Call, total: int) -> float:
    """Mean number of keys that a token of a call attends to when all its tokens are computed."""
    per_frame = total / call.frames
    if call.writes or not call.causal:
        return call.stop * per_frame if call.writes else total
    pairs = sum((part.stop - part.start) * (part.stop - call.start) for part in call.parts)
    return pairs * per_frame / call.frames


def _branch(decision: Decision) -> dict[str, Any]:
    return {
        "role": "/".join(str(piece) for piece in decision.role),
        "phase": decision.phase,
        "outcome": decision.outcome,
        "computed": decision.computed,
        "total": decision.total,
        "distance": decision.distance,
        "waited": decision.waited,
    }


def _plain_config(config: CacheConfig | None) -> dict[str, Any] | None:
    return None if config is None else dict(vars(config))


def _approximation(plan: Plan) -> list[str]:
    if not plan.chunk_wise or plan.clean_refresh:
        return []
    return ["finished chunks keep the keys and values of their last noisy step (clean refresh is off)"]
