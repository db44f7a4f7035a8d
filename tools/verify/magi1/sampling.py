"""Cases of whole runs: our plan, guidance, loop, policy and adapter, from stored noise.

Original runs go through the staged window, cached ones chunk by chunk; both as the settings say, with the passes left
out that cannot matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from motioncache_core.config import Magi1CacheConfig
from motioncache_core.distance import relative_l1
from motioncache_core.events import CallEvent, ChunkEvent, Decision
from motioncache_core.kv_cache import KVCache
from motioncache_core.loop import RunState, begin_window, clean_prediction, run_window
from motioncache_core.models.magi1.adapter import BranchRow, Magi1Adapter
from motioncache_core.models.magi1.guidance import branches_of, combine
from motioncache_core.models.magi1.plan import build_plan
from motioncache_core.models.magi1.policy import METRIC_IN_BF16, WHOLE_CALC_IDS, Magi1Policy
from motioncache_core.models.magi1.schedule import stages, time_table
from motioncache_core.models.magi1.text import (
    MAX_TOKENS,
)
from motioncache_core.plan import Call, Plan

from ..check import Kind
from ..compare import Restricted
from ..folder import Case, CaseError
from .network import attention, build
from .recording import RecordedRun, Recording
from .run_settings import compression_of, config_of, settings_of, texts_of

UNTIL_A_DECISION_DIFFERS = "values only up to the step before the first differing decision"
PREFIX_NOISE = "prefix_noise_weights"
_PHASES = {"warm-up": "warmup", "chunk": "chunk", "token": "token"}


class Sampling:
    """One run of a case, recorded from outside."""

    def __init__(self, case: Case, config: Magi1CacheConfig | None = None):
        self.case, self.s = case, case.settings
        s = self.s
        settings = settings_of(case, chunk_wise=config is not None)
        self.plan: Plan = build_plan(settings)
        network = build(case)
        self.per_frame = (s["latent_h"] // 2) * (s["latent_w"] // 2)
        sizes = network.config
        store = KVCache(sizes.num_layers, 0, sizes.kv_dim, network.dtype, torch.device("cpu"))
        policy = Magi1Policy(config, self.plan, case.quirks) if config is not None else None
        compression = compression_of(case) if s.get("kv_compression") else None
        self.run = RecordedRun(self.plan, store, policy, network.embed, case.quirks, compression)
        self.run.recording = self.recording = Recording()
        self.run.allocate(self.per_frame)
        self.times = time_table(s["steps"], shift=s["shift"], shortcut=s["shortcut_mode"])
        self.run_texts = texts_of(case, len(self.plan.windows[0].chunks), settings.given_chunks)
        self.texts = {chunk: text[:count] for chunk, (text, count) in enumerate(self.run_texts.text)}
        null, count = self.run_texts.null[0]
        null_text = null[:count] if s.get("negative_special_tokens") else None
        self.adapter = Magi1Adapter(network, attention, null_text)

    def record(self) -> Recording:
        window, noise = self.plan.windows[0], self.case.input("noise")
        given = self.case.input("prefix_video") if window.context else noise[:, :, :0]
        state = RunState.new(self.plan, 1, noise.shape[1], *noise.shape[3:], torch.device("cpu"))
        begin_window(self.plan, window, state, self.run, noise, torch.zeros_like(given), given)
        if PREFIX_NOISE in self.case.quirks:
            whole = window.context // self.plan.chunk_frames * self.plan.chunk_frames
            state.window[:, :, :whole] = noise[:, :, :whole]
        policy = self.run if self.run.policy is not None else None
        row = 0
        for event in run_window(self.plan, window, state, self.run, self._call, "euler", policy=policy):
            if isinstance(event, CallEvent):
                row = event.call.row
                if event.call.kind == "denoise":
                    first = min(p.start for c in self.plan.calls if c.row == row for p in c.parts if p.step >= 0)
                    self.recording.x[row] = state.window[:, :, first : event.call.stop].clone()
            elif isinstance(event, ChunkEvent):
                shown = 0 if window.remakes_context else max(window.context - event.chunk.start, 0)
                self.recording.emitted[row] = event.chunk.number, event.latents[:, :, shown:]
        return self.recording

    def padded_texts(self) -> dict[str, Tensor]:
        """Texts and masks with and without prompt, as far as the file holds them."""
        both = (self.run_texts.text, self.run_texts.null)
        counts = torch.tensor([[count for _, count in row] for row in both])
        heads = [torch.stack([text[: self.s["caption_positions_stored"]] for text, _ in row]) for row in both]
        mask = torch.arange(MAX_TOKENS) < counts.unsqueeze(-1)
        return {"y_head": torch.stack(heads), "emb_masks": mask.to(torch.uint8)}

    def rows(self) -> Iterator[dict[str, Any]]:
        """Place of every row in the schedule, in the form of the records."""
        settings = settings_of(self.case, self.plan.chunk_wise)
        inner_steps = settings.steps // settings.window_chunks
        made = stages(settings.chunks, settings.window_chunks, settings.given_chunks)
        for row in range(len(made) * inner_steps):
            stage, inner = divmod(row, inner_steps)
            bounds = {"chunk_start": made[stage].first, "chunk_end": made[stage].stop}
            yield {"step": row, "stage": stage, "idx": inner} | bounds

    def emission(self, row: int) -> dict[str, Any]:
        """What became clean in a row."""
        if row not in self.recording.emitted:
            return {}
        chunk, latents = self.recording.emitted[row]
        return {"emits": {"chunk": chunk, "frames": latents.shape[2]}}

    def chunk_record(self, row: int, chunk: int) -> dict[str, Any]:
        """A chunk's decision, in the form of the records."""
        decision = self.recording.decisions[row][chunk]
        tokens = self.recording.tokens[row][chunk]
        before = self.recording.tokens.get(row - 1, {}).get(chunk)
        last = row == max(self.recording.decisions)
        tokenwise = self.run.policy.config.granularity == "token"
        whole = decision.phase == "chunk" and decision.outcome == "reused"
        reused = decision.phase == "token" and decision.outcome == "reused"
        masked = tokenwise and before is not None and not (last and _repaired(self.case))
        level = self.recording.levels[row][chunk] if decision.phase == "chunk" else 0.0
        record = {
            "chunk": chunk,
            "denoise_count": decision.step,
            "phase": _PHASES[decision.phase] if tokenwise else "flowcache",
            "rel_l1": None if before is None or last else relative_l1(tokens, before),
            "chunk_accumulated": None if before is None and tokenwise else level,
            "chunk_reuse": whole,
            "kind": "chunk_reused" if whole else "reused" if reused else decision.outcome,
            "forwarded_tokens": decision.computed,
            "reuse_mask_sum": int(_mask(decision).sum()) if masked else None,
            "metric_absmean": float(tokens.abs().mean()),
        }
        if decision.need is not None:
            record["tokens_below_threshold"] = int((~decision.need).sum())
        return record

    def stored_ranges(self, row: int, chunks: int) -> dict[str, Any]:
        """Rows of every chunk in the reference's store after a row: it compresses when the row before the entry ends,
        and counts what is left of a chunk by the last layer's first group.
        """
        whole = self.plan.chunk_frames * self.per_frame
        lengths: list[int] = []
        for at in range(row + 1):
            stop = next(stage["chunk_end"] for stage in self.rows() if stage["step"] == at)
            lengths += [whole] * (stop - len(lengths))
            if at + 1 in self.recording.kept:
                stay = self.recording.kept[at + 1][-1][:, 0]
                finished = next(stage["chunk_start"] for stage in self.rows() if stage["step"] == at + 1)
                ends = list(accumulate(lengths[:finished], initial=0))
                counts = [int(((stay >= a) & (stay < b)).sum()) for a, b in pairwise(ends)]
                lengths[:finished] = counts
        ends = list(accumulate(lengths, initial=0))
        return {"kv_ranges": {str(i): list(span) for i, span in enumerate(pairwise(ends))}, "kv_next_free": ends[-1]}

    def accumulators(self, row: int) -> Tensor:
        """``[chunks, L]`` of the active chunks."""
        made = self.recording.accumulators[row]
        empty = torch.zeros(self.plan.chunk_frames * self.per_frame)
        return torch.stack([empty if value is None else value for value in made.values()])

    def weights(self, row: int) -> Tensor | None:
        """``[F, P]`` of the active chunks' frames."""
        made = [value for value in self.recording.weights[row].values() if value is not None]
        return torch.cat(made).view(-1, self.per_frame) if made else None

    def _call(self, call: Call, x: Tensor) -> Tensor:
        names = branches_of(call)
        rows = [BranchRow(name, 0, self.texts) for name in names]
        outputs = self.adapter.forward(x.repeat(len(rows), 1, 1, 1, 1), call, rows, self.run)
        velocity = combine(call, dict(zip(names, outputs.split(1), strict=True)))
        self.recording.passes[call.row] += len(names)
        if call.kind == "denoise":
            self.recording.velocities[call.row][call.parts[0].chunk] = velocity
        return clean_prediction(call, x, -velocity)


def original(case: Case) -> dict[str, Any]:
    """A run without reuse: latents, velocities, finished chunks and what happened in every step."""
    case.expect(extra_clean_chunk="at the first inner step of a stage with a finished chunk", clean_refresh=True)
    sampling = Sampling(case)
    recording = sampling.record()
    velocities = {row: next(iter(made.values())) for row, made in recording.velocities.items()}
    passes = case.settings["cfg_passes"]
    steps = []
    for row, stage in enumerate(sampling.rows()):
        calls = [call for call in sampling.plan.calls if call.row == row]
        shown = any(call.kind == "context" for call in calls)
        extra = any(call.kind == "refresh" for call in calls)
        # The original passes the clean chunk together with the window, and all given chunks together.
        forwards = passes * (1 + shown)
        steps.append(stage | {"extra_clean_chunk": extra, "forwards": forwards} | sampling.emission(row))
    return {
        "timesteps": torch.tensor(sampling.times),
        "x": _series(case, "x", recording.x),
        "v": _series(case, "v", velocities),
        "clean": {f"{row:03d}": latents for row, (_, latents) in recording.emitted.items()},
        "steps": steps,
        **sampling.padded_texts(),
    }


def cached(case: Case) -> dict[str, Any]:
    """A run with reuse: latents, decisions, and what the policy held."""
    sampling = Sampling(case, config_of(case))
    recording = sampling.record()
    steps = []
    for row, stage in enumerate(sampling.rows()):
        chunks = [sampling.chunk_record(row, chunk) for chunk in recording.decisions[row]]
        partial = sum(chunk["kind"] == "partial" for chunk in chunks) * _repaired(case)
        steps.append(stage | {"forwards": recording.passes[row] - partial, "chunks": chunks} | sampling.emission(row))
    kinds = Counter(chunk["kind"] for step in steps for chunk in step["chunks"])
    summary = {kind: kinds[kind] for kind in ("full", "partial", "reused", "chunk_reused")}
    summary |= {"total_forward_step": len(steps), "emitted": len(recording.emitted)}
    by_chunk = {"v": recording.velocities, "residual": recording.residuals()}
    by_row = {
        "x": recording.x,
        "mask": {row: torch.stack([_mask(d) for d in made.values()]) for row, made in recording.decisions.items()},
        "accumulators": {row: sampling.accumulators(row) for row in recording.decisions},
        "weights": {row: sampling.weights(row) for row in recording.decisions},
    }
    results: dict[str, Any] = {
        name: _series(case, name, values) for name, values in by_row.items() if name in case.outputs
    }
    for name in by_chunk.keys() & case.outputs.keys():
        places = [tuple(map(int, key.split("."))) for key in case.outputs[name].names()]
        # a chunk that is reused where the stored one was computed has no velocity
        made = ((row, chunk, by_chunk[name].get(row, {}).get(chunk)) for row, chunk in places)
        results[name] = {f"{row:03d}.{chunk}": value for row, chunk, value in made if value is not None}
    if "kept" in case.outputs:
        made = enumerate(recording.kept.values())
        results["kept"] = {f"{i}.layer{n}": k.to(torch.int32) for i, layers in made for n, k in enumerate(layers)}
        steps = [step | sampling.stored_ranges(step["step"], step["chunk_end"]) for step in steps]
    results |= {"timesteps": torch.tensor(sampling.times), "steps": steps, "summary": summary}
    return _until_decisions_differ(case, results) if case.compare else results


def _repaired(case: Case) -> bool:
    """Whether the reference ran with its sparse forward and its last step repaired from outside. In those records the
    sparse forwards go past its count, and the masks are gone in the last step. The run's file says so; one that does
    not is taken for repaired where its quirks do not show the defect.
    """
    try:
        return bool(case.folder.arrays(case.file("arrays")).settings()["corrections"])
    except (CaseError, KeyError):
        return "sparse_kv_range" not in case.quirks


def _until_decisions_differ(case: Case, results: dict[str, Any]) -> dict[str, Any]:
    """Leave out values from the first step on in which a decision is another than the stored one."""
    stored = case.outputs["steps"].load()
    masks = case.outputs["mask"].load() if "mask" in case.outputs else {}
    decided = ("kind", "forwarded_tokens", "chunk_reuse")

    def differs(row: int) -> bool:
        ours, theirs = (
            [[c[name] for name in decided] for c in steps[row]["chunks"]] for steps in (results["steps"], stored)
        )
        key = f"{row:03d}"
        return ours != theirs or (key in masks and not torch.equal(results["mask"][key], masks[key]))

    first = next((row for row in range(len(stored)) if differs(row)), None)
    if first is None:
        return results
    for name in results.keys() & {"x", "v", "residual", "accumulators", "weights"}:
        results[name] = Restricted({key: value for key, value in results[name].items() if int(key[:3]) < first})
    results["steps"] = Restricted(results["steps"], records=first)
    return results


def _series(case: Case, output: str, by_row: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """What the case's file holds of a series with an entry a row."""
    return {key: by_row[int(key)] for key in case.outputs[output].names() if int(key) in by_row}


def _mask(decision: Decision) -> Tensor:
    """``[L]`` uint8, tokens that are reused one by one."""
    if decision.mask is not None:
        return (~decision.mask).to(torch.uint8)
    return torch.full((decision.total,), decision.phase == "token" and not decision.computed, dtype=torch.uint8)


_MADE = frozenset({"torch_seed"})
"""How the stored noise was drawn."""
_OF_ONE_PASS = frozenset({"history_share", "nearly_clean_threshold"})
"""Told of three passes too."""

KINDS = {
    "run.original": Kind(original, told=_MADE | _OF_ONE_PASS),
    "run.motioncache": Kind(
        cached,
        quirks=frozenset(
            {
                METRIC_IN_BF16,
                PREFIX_NOISE,
                WHOLE_CALC_IDS,
                "ratio_progress_over_run",
                "ratio_ties",
                "sparse_kv_range",
                "stale_last_masks",
                "voting_keeps_accumulators",
            }
        ),
        restrictions=(UNTIL_A_DECISION_DIFFERS,),
        told=_MADE,
    ),
}
