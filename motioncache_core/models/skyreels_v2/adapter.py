"""SkyReels-V2's forward over ComfyUI's Wan sub-modules: one chunk with stored keys and values, or a whole window.

The network's sub-modules and the attention function are handed in; nothing here imports ComfyUI. Tokens of all roles
and samples of a call run as one packed sequence through the linear layers and are split only for attention.

Facts of the architecture: SkyReels-V2 (arXiv 2504.13074) and Wan 2.1 (arXiv 2503.20314), their public code.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...events import Decision, Pass
from ...kv_cache import KVCache, ring
from ...loop import part_levels
from ...plan import Call, Plan
from .levels import Levels, PackedLevels
from .policy import SkyReelsV2Policy, StepInputs
from .segments import Segment, keys_values, segments_of, spans_of
from .tokens import pack_rows, pad_to_patches, patchify, rotate, unpatchify

AttentionFunction = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""(queries [1, n, C], keys [1, m, C], values [1, m, C], heads) -> [1, n, C]."""
BlockReplacement = Callable[[dict[str, Any], dict[str, Callable]], dict[str, Tensor]]
"""ComfyUI's form: (arguments with ``img``, {"original_block": function}) -> {"img": tokens}."""

WINDOW = -1
"""Chunk key under which a whole window decides (step-level caching)."""


@dataclass(frozen=True)
class BranchRow:
    """One row of the batch: a role's sample.

    Args:
        role: key of its state; an auxiliary pass names the role whose keys and values it reads.
        prompt: identity of its text, for the stored text keys and values; ``None`` computes them anew.
        auxiliary: a further pass of the role within one guided step: computes all, stores nothing.
    """

    role: Hashable
    prompt: Hashable = None
    auxiliary: bool = False


@dataclass
class NetworkRun:
    """What the network remembers during one run; born and gone with it."""

    kv: KVCache | None = None
    policy: SkyReelsV2Policy | None = None
    text: dict[tuple[Hashable, Hashable, int], tuple[Tensor, Tensor]] = field(default_factory=dict)
    rotary: dict[tuple[int, ...], Tensor] = field(default_factory=dict)
    passes: list[Pass] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)

    def begin_window(self) -> None:
        """Forget the window before. Keys and values stay: they are overwritten before they are read."""
        if self.policy is not None:
            self.policy.begin_window()

    def finish_chunk(self, chunk: int) -> None:
        """A chunk is clean: drop what was kept to reuse it, and tables that grow in number with the video."""
        self.rotary.clear()
        if self.policy is not None:
            self.policy.finish(chunk)

    def memory(self) -> dict[str, Any]:
        """What a saved state keeps; the rest is made again."""
        policy = self.policy
        return {
            "kv": self.kv,
            "states": policy.states if policy else {},
            "last_frames": policy.last_frames if policy else {},
        }

    def recall(self, memory: dict[str, Any]) -> None:
        """Take up what :meth:`memory` gave."""
        self.kv = memory["kv"]
        if self.policy is not None:
            self.policy.states = memory["states"]
            self.policy.last_frames = memory["last_frames"]

    def rows_kept(self, plan: Plan, next_call: int, per_frame: int) -> dict[int, dict[Hashable, list[slice]]]:
        """See :class:`~motioncache_core.take.TakeMemory`."""
        oldest = min((call.reads[0] for call in plan.calls if call.index >= next_call), default=plan.latent_frames)
        written = {call.parts[0].chunk for call in plan.calls if call.writes and call.index < next_call}
        return {
            chunk.place: {
                role: ring(chunk.start * per_frame, chunk.stop * per_frame, self.kv.tokens) for role in self.kv.roles
            }
            for chunk in plan.windows[0].chunks
            if chunk.place in written and chunk.start >= oldest
        }

    def redo(self, chunk: int) -> None:
        """See :class:`~motioncache_core.take.TakeMemory`."""
        if self.policy is not None:
            self.policy.redo(chunk)

    def take_notes(self) -> tuple[tuple[Pass, ...], tuple[Decision, ...]]:
        """Passes and decisions since the last time."""
        notes = tuple(self.passes), tuple(self.decisions)
        self.passes, self.decisions = [], []
        return notes


@dataclass
class _Forward:
    """One call's way through the blocks."""

    rows: Sequence[BranchRow]
    run: NetworkRun
    context: Tensor
    segments: list[Segment]
    spans: list[tuple[int, int, int]]
    """(row, start, stop) of the rows in the packed sequence."""
    rotary: Tensor
    levels: PackedLevels
    text_tokens: dict[int, Tensor] = field(default_factory=dict)


class SkyReelsV2Adapter:
    """Runs calls of a plan through a Wan network.

    Args:
        network: module with ComfyUI's Wan attribute names (they equal the checkpoint's keys).
        attention: attention function.
        fps_terms: ``[2, 6 * C]`` float32 terms of the time modulation for 16 fps and for other rates, or ``None``.
    """

    def __init__(self, network: nn.Module, attention: AttentionFunction, fps_terms: Tensor | None = None):
        self.network = network
        self.attention = attention
        self.fps_terms = fps_terms

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        call: Call,
        rows: Sequence[BranchRow],
        run: NetworkRun,
        timesteps: Sequence[Sequence[int]],
        fps: Sequence[Sequence[int]],
        *,
        replacements: dict[int, BlockReplacement] | None = None,
        options: dict[str, Any] | None = None,
    ) -> Tensor:
        """Velocity of a call's frames.

        Args:
            x: ``[R, 16, F, H, W]`` noisy latents in model units, one entry for each of ``rows``.
            context: ``[R, T, text_dim]`` prompt embeddings.
            call: decides chunk-wise or whole window, causal or full, and the frames' places.
            timesteps: for every row, of every latent frame.
            fps: for every row, frame-rate index of every latent frame.
            replacements: per block, what stands in for it (ComfyUI's ``patches_replace``).
            options: transformer options, passed on to the rotary table and to replacements.

        Returns:
            ``[R, 16, F, H, W]``, with the dtype of ``x``.
        """
        height, width = x.shape[-2:]
        options = options or {}
        x = pad_to_patches(x, self.network.patch_size)
        embedded = self.network.patch_embedding(x.float()).to(x.dtype)
        grid = tuple(embedded.shape[2:])
        per_frame = grid[1] * grid[2]
        tokens = embedded.flatten(2).transpose(1, 2)
        levels = Levels(self.network, timesteps, fps, self.fps_terms, tokens)
        decisions = [self._decide(call, row, r, run, tokens, levels, grid[0]) for r, row in enumerate(rows)]
        chosen = [_indices(decision, tokens.device) for decision in decisions]
        spans = spans_of(chosen, tokens.shape[1])
        segments = segments_of(call, spans, chosen, per_frame, run.kv)
        _note_passes(run, rows, spans, segments, tokens.shape[1])
        packed = pack_rows(tokens, chosen).unsqueeze(0)
        if packed.shape[1]:
            rotary = self._rotary(run, call, x, options)
            rotary = pack_rows(rotary.expand(len(rows), *rotary.shape), chosen)
            spans = [span for span in spans if span[2] > span[1]]
            state = _Forward(rows, run, context, segments, spans, rotary, levels.packed(chosen, per_frame))
            packed = self._blocks(packed, state, replacements or {}, options)
        hidden = self._merge(tokens, packed[0], chosen, decisions, run)
        output = self._head(hidden, levels, levels.of_tokens(per_frame))
        if run.policy is not None:
            seen = _clean_patches(x, output, call, self.network.patch_size) if run.policy.wants_clean else hidden
            self._observe(call, rows, run, seen, decisions, grid[0])
        return unpatchify(output, grid, self.network.patch_size)[..., :height, :width].to(x.dtype)

    def _decide(
        self, call: Call, row: BranchRow, r: int, run: NetworkRun, tokens: Tensor, levels: Levels, frames: int
    ) -> Decision | None:
        if run.policy is None or call.kind != "denoise" or row.auxiliary:
            return None
        inputs = StepInputs(levels.timesteps[r], levels.of_row(r), tokens[r], frames, row.prompt)
        decision = run.policy.decide(row.role, _unit(call), inputs)
        run.decisions.append(decision)
        return decision

    def _rotary(self, run: NetworkRun, call: Call, x: Tensor, options: dict[str, Any]) -> Tensor:
        """``[L, 1, d / 2, 2]`` cosines and sines of the call's tokens at their places in the window."""
        key = (call.start, *x.shape[2:])
        if key not in run.rotary:
            # A model may have other distances between frames (ScaleROPE).
            begin = call.start * (options.get("rope_options") or {}).get("scale_t", 1.0)
            table = self.network.rope_encode(
                *x.shape[2:], t_start=begin, device=x.device, dtype=torch.float32, transformer_options=options
            )
            run.rotary[key] = table[0, ..., 0].clone()
        return run.rotary[key]

    def _blocks(
        self, packed: Tensor, state: _Forward, replacements: dict[int, BlockReplacement], options: dict[str, Any]
    ) -> Tensor:
        for i, block in enumerate(self.network.blocks):
            if i not in replacements:
                packed = self._block(i, block, packed, state)
                continue

            def original(args: dict[str, Any], i: int = i, block: nn.Module = block) -> dict[str, Tensor]:
                return {"img": self._block(i, block, args["img"], state)}

            args = {"img": packed, "txt": None, "vec": None, "pe": None, "transformer_options": options}
            packed = replacements[i](args, {"original_block": original})["img"]
        return packed

    def _block(self, layer: int, block: nn.Module, x: Tensor, state: _Forward) -> Tensor:
        modulation = block.modulation.to(device=x.device, dtype=x.dtype) + state.levels.modulation
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = modulation.unbind(1)
        spread = state.levels.spread  # only where used: over a whole window each one is as large as x
        y = torch.addcmul(spread(shift), block.norm1(x), spread(1 + scale))
        x = torch.addcmul(x, self._self_attention(layer, block.self_attn, y, state), spread(gate))
        x = x + self._cross_attention(layer, block.cross_attn, block.norm3(x), state)
        y = block.ffn(torch.addcmul(spread(ffn_shift), block.norm2(x), spread(1 + ffn_scale)))
        return torch.addcmul(x, y, spread(ffn_gate))

    def _self_attention(self, layer: int, module: nn.Module, y: Tensor, state: _Forward) -> Tensor:
        heads = module.num_heads
        values = module.v(y)
        queries = rotate(module.norm_q(module.q(y)), state.rotary, heads).to(values.dtype)
        keys = rotate(module.norm_k(module.k(y)), state.rotary, heads).to(values.dtype)
        outputs = []
        for segment in state.segments:
            row = state.rows[segment.row]
            k, v = keys_values(layer, segment, keys, values, state.run.kv, row.role, row.auxiliary)
            outputs.append(self.attention(queries[:, segment.start : segment.stop], k, v, heads))
        return module.o(torch.cat(outputs, dim=1))

    def _cross_attention(self, layer: int, module: nn.Module, y: Tensor, state: _Forward) -> Tensor:
        queries = module.norm_q(module.q(y))
        outputs = []
        for row, start, stop in state.spans:
            k, v = self._text_keys_values(layer, module, row, state)
            outputs.append(self.attention(queries[:, start:stop], k, v, module.num_heads))
        return module.o(torch.cat(outputs, dim=1))

    def _text_keys_values(self, layer: int, module: nn.Module, r: int, state: _Forward) -> tuple[Tensor, Tensor]:
        """The prompt's keys and values do not depend on the step, so they are made once a run."""
        row = state.rows[r]
        key = (row.role, row.prompt, layer)
        stored = row.prompt is not None and not row.auxiliary
        if stored and key in state.run.text:
            return state.run.text[key]
        if r not in state.text_tokens:
            state.text_tokens[r] = self.network.text_embedding(state.context[r : r + 1])
        text = state.text_tokens[r]
        made = module.norm_k(module.k(text)), module.v(text)
        if stored:
            state.run.text[key] = made
        return made

    @staticmethod
    def _merge(
        tokens: Tensor,
        packed: Tensor,
        chosen: list[Tensor | None],
        decisions: list[Decision | None],
        run: NetworkRun,
    ) -> Tensor:
        """``[R, L, C]`` after the blocks: computed tokens as they came out, reused ones input plus residual."""
        merged, at = [], 0
        for row, indices, decision in zip(tokens, chosen, decisions, strict=True):
            count = row.shape[0] if indices is None else indices.shape[0]
            new = packed[at : at + count]
            at += count
            if decision is None:
                merged.append(new)
                continue
            state = run.policy.state(decision.role, decision.chunk)
            if indices is None:
                state.residual = new - row
                merged.append(new)
            elif count:
                merged.append((row + state.residual).index_copy(0, indices, new))
                state.residual = state.residual.index_copy(0, indices, new - row[indices])
            else:
                merged.append(row + state.residual)
        return torch.stack(merged)

    @staticmethod
    def _observe(
        call: Call,
        rows: Sequence[BranchRow],
        run: NetworkRun,
        seen: Tensor,
        decisions: list[Decision | None],
        frames: int,
    ) -> None:
        for row, of_row, decision in zip(rows, seen, decisions, strict=True):
            if decision is not None:
                run.policy.observe(decision, of_row, frames)
            elif call.kind == "context" and not row.auxiliary:
                run.policy.observe_context(row.role, _unit(call), of_row, frames)

    def _head(self, hidden: Tensor, levels: Levels, index: Tensor | None) -> Tensor:
        head = self.network.head
        modulation = head.modulation.to(device=hidden.device, dtype=hidden.dtype) + levels.embedding.unsqueeze(1)
        shift, scale = (part if index is None else part[index] for part in modulation.unbind(1))
        return head.head(torch.addcmul(shift, head.norm(hidden), 1 + scale))


def _clean_patches(x: Tensor, velocity: Tensor, call: Call, patch: Sequence[int]) -> Tensor:
    """``[R, L, p1*p2*p3*C]`` prediction of the clean latents, for velocities in patches of a call's padded input."""
    patches, levels = patchify(x, patch).to(velocity.dtype), part_levels(call, velocity).view(-1, 1)
    return patches - levels.repeat_interleave(patches.shape[1] // len(levels), dim=0) * velocity


def _unit(call: Call) -> int:
    """Who decides as one: the call's chunk, or the window in vanilla sampling."""
    return call.parts[0].chunk if call.writes else WINDOW


def _indices(decision: Decision | None, device: torch.device) -> Tensor | None:
    """Tokens to compute, ``None`` for all."""
    if decision is None or decision.outcome == "full":
        return None
    if decision.outcome == "reused":
        return torch.empty(0, dtype=torch.long, device=device)
    return decision.mask.nonzero().flatten()


def _note_passes(
    run: NetworkRun,
    rows: Sequence[BranchRow],
    spans: list[tuple[int, int, int]],
    segments: list[Segment],
    total: int,
) -> None:
    for row, start, stop in spans:
        pairs = sum((s.stop - s.start) * s.keys for s in segments if s.row == row)
        role = None if rows[row].auxiliary else rows[row].role
        run.passes.append(Pass(role, stop - start, total, pairs / (stop - start) if stop > start else 0.0))
