"""MAGI-1's calls as items of its transformer, and what a run remembers: keys and values, decisions.

A call becomes one item for each of its chunks, each pass that the plan takes of it, and each sample. Only as many
chunks' keys and values are kept as the plan reads again (:func:`~.plan.stored_chunks`): chunk c lies at place c modulo
that number, the rows of a range are read where they lie.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ...events import Decision, Pass, StepReuse
from ...kv_cache import KVCache
from ...plan import Call, Part, Plan
from .attention import AttentionFunction
from .compression import Compression, QueryTap, kept_tokens, take
from .guidance import BRANCHES
from .items import Fresh, Item, Stored, Writes
from .plan import lifetimes, stored_branch, stored_chunks
from .policy import Magi1Policy
from .transformer import Magi1Transformer

Texts = Mapping[int, Tensor]
"""Place of a chunk -> its prompt, ``[L, text_dim]`` valid tokens; a chunk that is missing gets the null text."""


@dataclass(frozen=True)
class BranchRow:
    """One row of a call's batch: a sample in one of :data:`~.guidance.BRANCHES`.

    Args:
        auxiliary: a further pass of the branch within one guided step: computes all, stores nothing.
    """

    branch: str
    sample: int = 0
    texts: Texts = field(default_factory=dict)
    auxiliary: bool = False

    @property
    def role(self) -> tuple[str, int, int]:
        """Whose keys and values are meant."""
        return self.branch, 0, self.sample


class Magi1Run:
    """What a run remembers; born and gone with it. It is the loop's memory, and its step policy where it has one.

    Args:
        plan: of the run.
        embed: patch embedding, ``[16, F, h, w]`` latents -> ``[L, dim]`` float32; needed with a policy.
        kv: store; buffers are made by :meth:`allocate` or when a branch first writes.
        policy: decides what is reused, ``None``: everything is computed.
        quirks: defects of the reference to reproduce.
        compression: of finished chunks' keys and values, ``None``: all are kept that the plan reads.

    Raises:
        ValueError: a policy without patch embedding; compression where chunks are computed token by token.
        PlanError: compression that does not fit the plan.
    """

    def __init__(
        self,
        plan: Plan,
        kv: KVCache,
        policy: Magi1Policy | None = None,
        embed: Callable[[Tensor], Tensor] | None = None,
        quirks: frozenset[str] = frozenset(),
        compression: Compression | None = None,
    ):
        if policy is not None and embed is None:
            raise ValueError("a policy needs the patch embedding")
        self.plan, self.kv, self.policy, self.embed, self.quirks = plan, kv, policy, embed, quirks
        self.places = stored_chunks(plan)
        self.settled_branch = stored_branch(plan)
        self.compression = compression
        self.dropped = 0
        """Chunks whose place in the settled branch's store was given up."""
        self.queries: dict[int, list[Tensor]] = {}
        """With compression: sample -> ``[m, heads, d]`` queries of the last computed chunk, by layer."""
        self.queried_row = -1
        """The row whose queries stay, although it has more calls."""
        if compression is not None:
            compression.check(plan)
            if policy is not None and policy.config.granularity == "token":
                raise ValueError("keys and values cannot be compressed while chunks are computed token by token")
            self.places[self.settled_branch] = compression.cache_chunks
        self.passes: list[Pass] = []
        self.decisions: list[Decision] = []
        self.chosen: dict[int, Tensor] = {}
        """Of the present call: sample -> indices of the tokens to compute; a missing one computes all."""
        self._texts: dict[tuple[str, int, int], tuple[float, int]] = {}
        """Role -> what its last pass saw and made of prompts, for the account of passes that are left out."""
        self._stepping: list[Decision] = []
        self._active: dict[int, list[Part]] = {}
        for call in plan.calls:
            self._active.setdefault(call.row, []).extend(part for part in call.parts if part.step >= 0)

    @staticmethod
    def bytes_needed(
        plan: Plan, layers: int, width: int, tokens_per_frame: int, samples: int, dtype: torch.dtype
    ) -> int:
        """Memory of the store for a plan, in bytes."""
        rows = sum(stored_chunks(plan).values()) * plan.chunk_frames * tokens_per_frame
        return KVCache.bytes_needed(layers, rows, width, samples, dtype)

    def allocate(self, tokens_per_frame: int, samples: int = 1) -> None:
        """Make the store's buffers now, so that later memory estimates see them."""
        for name, places in self.places.items():
            for sample in range(samples):
                self.kv.allocate((name, 0, sample), places * self.plan.chunk_frames * tokens_per_frame)

    def place_alone(self, call: Call) -> int:
        """Frame from which a pass without history counts its positions, which act by their differences only.

        Compression compares its queries with other passes' keys: then it is the original's, behind all chunks in work.
        Otherwise it is behind the call's own, so that no chunk depends on later ones.
        """
        if self.compression is None:
            return call.stop
        return max(part.stop for part in self._active[call.row])

    def begin_window(self) -> None:
        """Forget the window before."""
        if self.policy is not None:
            self.policy.begin_window()

    def finish_chunk(self, chunk: int) -> None:
        """A chunk is clean: drop what was kept to reuse it."""
        if self.policy is not None:
            self.policy.forget(chunk)

    def rows_kept(self, plan: Plan, next_call: int, per_frame: int) -> dict[int, dict[Hashable, list[slice]]]:
        """See :class:`~motioncache_core.take.TakeMemory`. Of clean chunks the settled branch only."""
        found: dict[int, dict[Hashable, list[slice]]] = {}
        for branch, lives in lifetimes(plan).items():
            for chunk, (first, last) in lives.items():
                if not first < next_call <= last:
                    continue
                rows = self.store_rows(branch, chunk, chunk + 1, plan.chunk_frames * per_frame)
                for role in self.kv.roles:
                    if role[0] == branch:
                        found.setdefault(chunk, {})[role] = [slice(*row) for row in rows]
        return found

    def redo(self, chunk: int) -> None:
        """See :class:`~motioncache_core.take.TakeMemory`."""
        if self.policy is not None:
            self.policy.forget(chunk)

    def take_notes(self) -> tuple[tuple[Pass, ...], tuple[Decision, ...]]:
        """Passes and decisions since the last time."""
        notes = tuple(self.passes), tuple(self.decisions)
        self.passes, self.decisions = [], []
        return notes

    def memory(self) -> dict[str, Any]:
        """What a saved state keeps; the rest is made again."""
        states = self.policy.states if self.policy else {}
        return {
            "kv": self.kv,
            "states": states,
            "dropped": self.dropped,
            "queries": self.queries,
            "texts": self._texts,
        }

    def recall(self, memory: dict[str, Any]) -> None:
        """Take up what :meth:`memory` gave."""
        self.kv, self.dropped, self.queries = memory["kv"], memory["dropped"], memory["queries"]
        self._texts = memory.get("texts", {})  # takes saved by older versions have none
        if self.policy is not None:
            self.policy.states = memory["states"]

    def reuse(self, call: Call, x: Tensor) -> StepReuse | None:
        """The policy's decision about a call; every sample decides by itself."""
        self.chosen, self._stepping = {}, []
        if self.policy is None or call.kind != "denoise":
            return None
        part = call.parts[0]
        for sample, latents in enumerate(x):
            decision = self.policy.decide(("guided", 0, sample), call, latents, self.embed)
            self._stepping.append(decision)
            if decision.outcome == "reused":
                self.chosen[sample] = torch.empty(0, dtype=torch.long, device=x.device)
            elif decision.mask is not None:
                self.chosen[sample] = decision.mask.nonzero().flatten()
        self.decisions += self._stepping
        if not self.chosen:
            return None
        added = [
            self.policy.added(decision, part) if sample in self.chosen else torch.zeros_like(x[sample])
            for sample, decision in enumerate(self._stepping)
        ]
        if not any(decision.computed for decision in self._stepping):
            self._note_left_out(part, x)
            return StepReuse(None, torch.stack(added))
        computed = [latent_mask(decision, x.shape[2:]).to(x.device) for decision in self._stepping]
        return StepReuse(torch.stack(computed), torch.stack(added))

    def stepped(self, call: Call, x: Tensor, after: Tensor, previous: Tensor | None) -> None:
        """Hand the outcome of a call's step to the policy."""
        for sample, decision in enumerate(self._stepping):
            before = None if previous is None else previous[sample]
            self.policy.observe(decision, call.parts[0], x[sample], after[sample], before)
        self.chosen, self._stepping = {}, []

    def note(self, made: Pass) -> None:
        """Keep the account of a pass."""
        self.passes.append(made)
        if made.role is not None and made.computed:
            self._texts[made.role] = made.text, made.prompt

    def _note_left_out(self, part: Part, x: Tensor) -> None:
        per_frame = (x.shape[3] // 2) * (x.shape[4] // 2)
        for name, _ in part.branches:
            first, last = part.reads if BRANCHES[name].history else (part.start, part.stop)
            for sample in range(x.shape[0]):
                role = BranchRow(name, sample).role
                keys = float((last - first) * per_frame)
                self.passes.append(Pass(role, 0, part.frames * per_frame, 0.0, keys, *self._texts.get(role, ())))

    def store_rows(self, branch: str, first: int, last: int, chunk_tokens: int) -> list[tuple[int, int]]:
        """Where the rows of chunks [first, last) lie, as (start, stop) stretches in the chunks' order."""
        stretches: list[tuple[int, int]] = []
        if branch == self.settled_branch:
            first = max(first, self.dropped)
        for chunk in range(first, last):
            start = chunk % self.places[branch] * chunk_tokens
            if stretches and stretches[-1][1] == start:
                stretches[-1] = stretches[-1][0], start + chunk_tokens
            else:
                stretches.append((start, start + chunk_tokens))
        return stretches

    def make_room(self, row: int, chunk_tokens: int, frame_tokens: int, groups: int) -> dict[int, list[Tensor]]:
        """Compress the finished chunks if another one enters in this row and the store is full.

        Returns:
            What stayed, if anything was compressed: sample -> by layer ``[n, groups]`` indices into the rows before.
        """
        entering = [part.chunk for part in self._active.get(row, ()) if part.step == 0]
        if self.compression is None or not entering or entering[0] - self.compression.cache_chunks < self.dropped:
            return {}
        name, first_active = self.settled_branch, self._active[row][0].chunk
        before = self.store_rows(name, self.dropped, first_active, chunk_tokens)
        after = self.store_rows(name, self.dropped + 1, first_active, chunk_tokens)
        budget = sum(stop - start for start, stop in after)
        kept: dict[int, list[Tensor]] = {}
        for sample, by_layer in self.queries.items():
            for layer, queries in enumerate(by_layer):
                parts = [self.kv.read((name, 0, sample), layer, slice(*span), queries) for span in before]
                keys, values = (torch.cat([p[i][0] for p in parts]).unflatten(1, (groups, -1)) for i in (0, 1))
                stay = kept_tokens(keys, queries, budget, self.compression, frame_tokens, chunk_tokens)
                rows = torch.cat([torch.arange(*span) for span in after])
                new = (take(part, stay).flatten(1) for part in (keys, values))
                self.kv.write((name, 0, sample), layer, rows, *new)
                kept.setdefault(sample, []).append(stay)
        self.dropped += 1
        return kept

    def reads_of(self, call: Call, part: Part, partial: bool) -> tuple[int, int]:
        """Latent frames that a part attends to. Quirk ``sparse_kv_range``: partly computed ones see those of the
        window's first chunk.
        """
        if partial and "sparse_kv_range" in self.quirks:
            return self._active[call.row][0].reads
        return part.reads


def latent_mask(decision: Decision, grid: Sequence[int]) -> Tensor:
    """``[1, F, H, W]`` bool, latents of the tokens that a decision recomputes."""
    frames, height, width = grid
    if decision.mask is None:
        return torch.full((1, frames, height, width), decision.computed > 0)
    tokens = decision.mask.view(1, frames, height // 2, width // 2)
    return tokens.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


class Magi1Adapter:
    """Runs calls of a plan through the transformer.

    Args:
        network: the transformer.
        attention: attention function.
        null_text: ``[L, text_dim]`` what passes without prompt see, ``None``: the learned null text.
    """

    def __init__(self, network: Magi1Transformer, attention: AttentionFunction, null_text: Tensor | None = None):
        self.network, self.attention, self.null_text = network, attention, null_text

    def forward(self, x: Tensor, call: Call, rows: Sequence[BranchRow], run: Magi1Run) -> Tensor:
        """Velocity of a call's frames, towards the clean video.

        Args:
            x: ``[R, 16, F, h, w]`` noisy latents in model units, one entry for each of ``rows``.

        Returns:
            ``[R, 16, F, h, w]`` float32; zero where a branch does not pass a part, and at tokens that are reused.
        """
        if run.compression is not None:
            frame_tokens = (x.shape[3] // 2) * (x.shape[4] // 2)
            run.make_room(call.row, run.plan.chunk_frames * frame_tokens, frame_tokens, self.network.config.num_groups)
        slots = [(r, part) for r, row in enumerate(rows) for part in call.parts if row.branch in dict(part.branches)]
        items = [_item(x[r], call, part, rows[r], run, self.null_text) for r, part in slots]
        places = {(r, part.chunk): place for place, (r, part) in enumerate(slots)}
        items = [
            replace(item, reads=_reads(r, part, call, rows[r], run, item, places))
            for item, (r, part) in zip(items, slots, strict=True)
        ]
        velocity = torch.zeros_like(x, dtype=torch.float32)
        if run.compression is None:
            outputs = self.network(items, self.attention, run.kv)
        else:
            outputs = self._tapped(items, [rows[r] for r, _ in slots], call, run)
        for (r, part), output in zip(slots, outputs, strict=True):
            velocity[r, :, part.start - call.start : part.stop - call.start] = output
        made: set[int] = set()
        for r, row in enumerate(rows):
            own = [item for item, slot in zip(items, slots, strict=True) if slot[0] == r]
            if own:
                run.note(_pass(row, own, items, made, self.network.config.null_tokens))
        return velocity

    def _tapped(self, items: Sequence[Item], rows: Sequence[BranchRow], call: Call, run: Magi1Run) -> list[Tensor]:
        """Velocities, and note of the queries of a row's last pass in the original's order: those of a nearly clean
        chunk's second pass where there is one, else of the items that write the settled branch's rows.
        """
        alone = [BRANCHES[row.branch].prompt and not BRANCHES[row.branch].history for row in rows]
        writes = [item.writes is not None and item.writes.role[0] == run.settled_branch for item in items]
        counts = alone if any(alone) else writes
        kept = [row.sample if c else None for row, item, c in zip(rows, items, counts, strict=True) if item.computed]
        tap = QueryTap(self.attention, kept, self.network.config.num_heads)
        outputs = self.network(items, tap, run.kv)
        if run.queried_row != call.row:
            run.queries |= tap.queries
        if any(alone):
            run.queried_row = call.row
        return outputs


def _item(x: Tensor, call: Call, part: Part, row: BranchRow, run: Magi1Run, null_text: Tensor | None) -> Item:
    """A part in a branch, what it attends to left open."""
    branch = BRANCHES[row.branch]
    prompted = branch.prompt and part.step >= 0
    item = Item(
        latents=x[:, part.start - call.start : part.stop - call.start],
        timestep=part.timestep,
        text=row.texts.get(part.chunk, null_text) if prompted else null_text,
        start=part.start if branch.history else run.place_alone(call) if branch.prompt else 0,
        reads=(),
        text_dropped=branch.dropped,
        step_length=part.stride or None,
        chosen=None if row.auxiliary else run.chosen.get(row.sample),
    )
    if not (call.writes and branch.history) or row.auxiliary:
        return item
    ((start, _),) = run.store_rows(row.branch, part.chunk, part.chunk + 1, item.tokens)
    return replace(item, writes=Writes(row.role, start))


def _reads(
    r: int, part: Part, call: Call, row: BranchRow, run: Magi1Run, item: Item, places: dict[tuple[int, int], int]
) -> tuple[Stored | Fresh, ...]:
    """What an item attends to: its own tokens, and earlier chunks from the call or from the store."""
    if not BRANCHES[row.branch].history:
        return (Fresh(places[r, part.chunk]),)
    frames = run.plan.chunk_frames
    first, last = run.reads_of(call, part, partial=item.chosen is not None)
    reads: list[Stored | Fresh] = []
    settled = min(max(part.settled, first), last) // frames
    first, last = first // frames, last // frames
    fresh_from = last if item.writes is not None else part.chunk if call.writes else max(call.parts[0].chunk, first)
    fresh_from = max(fresh_from, settled)
    shared = (run.settled_branch, 0, row.sample)
    for role, begin, end in ((shared, first, settled), (row.role, settled, fresh_from)):
        stretches = run.store_rows(role[0], begin, end, item.tokens)
        reads += [Stored(role, start, stop) for start, stop in stretches]
    return (*reads, *(Fresh(places[r, chunk]) for chunk in range(fresh_from, last)))


def _pass(row: BranchRow, own: Sequence[Item], items: Sequence[Item], made: set[int], null_tokens: int) -> Pass:
    """Account of one branch of a call.

    Args:
        made: texts that branches before it have made keys and values of; gets this one's.
        null_tokens: length of the null text.
    """

    def keys(item: Item) -> int:
        return sum(read.rows if isinstance(read, Stored) else items[read.item].computed for read in item.reads)

    def length(item: Item) -> int:
        return null_tokens if item.text is None else item.text.shape[0]

    computed, total = (sum(getattr(item, name) for item in own) for name in ("computed", "tokens"))
    pairs = sum(item.computed * keys(item) for item in own)
    full = sum(item.tokens * max(keys(item), item.tokens) for item in own)
    text = sum(item.tokens * length(item) for item in own) / total
    new = {id(item.text): length(item) for item in own if item.computed and id(item.text) not in made}
    made.update(new)
    role = None if row.auxiliary else row.role
    return Pass(role, computed, total, pairs / computed if computed else 0.0, full / total, text, sum(new.values()))
