"""A SkyReels-V2 run inside ComfyUI: its memory, and the wrapper that hands a guider's batch to the adapter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...motioncache_core.kv_cache import KVCache, ring
from ...motioncache_core.loop import part_levels
from ...motioncache_core.models.skyreels_v2.adapter import BranchRow, NetworkRun, SkyReelsV2Adapter
from ...motioncache_core.models.skyreels_v2.policy import SkyReelsV2Policy
from ...motioncache_core.plan import Call
from ...motioncache_core.take import stand_in
from .chunk_session import ChunkSession, RunSettings, SelectedAttention, kv_placement, options_of, token_grid
from .roles import Slot, UnsupportedError, lists_in_use, role_slots
from .versions import inference_dtype

__all__ = ["RunSettings", "Session", "kv_placement", "token_grid"]


Role = tuple[str, int, int]
"""(list of the guider's conditions, slot, sample)."""


@dataclass
class Session(ChunkSession):
    """A SkyReels-V2 run from its first to its last call."""

    network: NetworkRun = field(default_factory=NetworkRun)
    policy: SkyReelsV2Policy | None = None
    name: str = ""
    """Tells the prompts of sessions that share a network's memory apart."""
    roles: tuple[Role, ...] = ()
    """Branches that its guider passes; there from :meth:`begin_relay` on."""
    frame_tokens: int = 0
    """Tokens of a latent frame; there from :meth:`begin_relay` on."""

    def __post_init__(self) -> None:
        if self.settings.cache is not None:
            self.policy = SkyReelsV2Policy(self.settings.cache)

    @property
    def memory(self) -> NetworkRun:
        return self.network

    def begin_relay(self, model_wrap: Any, model_options: dict[str, Any]) -> _Relay:
        wan, video = model_wrap.inner_model.diffusion_model, self.state.video
        slots = role_slots(model_wrap.conds)
        rows, columns = token_grid(video.shape[-2], video.shape[-1], wan.patch_size)
        self.frame_tokens = rows * columns
        if self.network.kv is None:
            tokens = self.plan.stored_frames * self.frame_tokens
            dtype, device = kv_placement(self.settings, inference_dtype(model_wrap.inner_model), video.device)
            self.network.kv = KVCache(len(wan.blocks), tokens, wan.dim, dtype, device)
        self.network.policy = self.policy
        lists = lists_in_use(model_wrap, model_options)
        seen = {(slot.name, slot.slot): None for slot in slots.values() if slot.name in lists}
        self.roles = tuple((*role, sample) for role in seen for sample in range(video.shape[0]))
        for role in self.roles if self.plan.chunk_wise else ():
            self.network.kv.allocate(role)  # before the first call, so that ComfyUI's memory checks see it
        return _Relay(self, wan, slots)

    def take_memory_of(self, other: Session) -> None:
        """Share the network's memory of another session of the same take."""
        self.network = other.network

    def mirror(self, call: Call) -> None:
        """Branches that only other sessions pass find this one's first branch in their place."""
        kv = self.network.kv
        missing = [role for role in kv.roles if role not in self.roles]
        if missing:
            rows = ring(call.start * self.frame_tokens, call.stop * self.frame_tokens, kv.tokens)
        for role in missing:
            kv.mirror(stand_in(role, self.roles), role, rows)


class _Relay:
    """Wrapper around the network's forward: turns a guider's batch into roles and hands it to the adapter."""

    def __init__(self, session: Session, wan: Any, slots: dict[Any, Slot]):
        self.session = session
        self.slots = slots
        self.call: Call | None = None
        self.seen: set[Any] = set()
        self.attention = SelectedAttention()
        self.adapter = SkyReelsV2Adapter(wan, self.attention, _one_rate(session.settings.fps_term))

    def begin(self, call: Call) -> None:
        self.call, self.seen = call, set()
        self.session.network.policy = self.session.policy

    @torch.compiler.disable
    def __call__(
        self, executor: Any, x: Tensor, timestep: Tensor, context: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        options = options_of(args, kwargs)
        call = self.call
        rows = self._rows(options["uuids"], x.shape[0])
        timesteps = [part.timestep for part in call.parts for _ in range(part.start, part.stop)]
        self.attention.options = options
        try:
            velocity = self.adapter.forward(
                x,
                context,
                call,
                rows,
                self.session.network,
                [timesteps] * len(rows),
                [[0] * len(timesteps)] * len(rows),
                replacements=_block_replacements(options),
                options=options,
            )
        finally:  # the options hold this object: without the circle a run's memory is free at its end
            self.attention.options = {}
        if len(call.parts) == 1 or call.sigma == 0.0:
            return velocity
        return velocity * (part_levels(call, velocity) / call.sigma)

    def _rows(self, uuids: list[Any], count: int) -> list[BranchRow]:
        samples = count // len(uuids)
        rows = []
        for uuid in uuids:
            slot = self.slots.get(uuid)
            if slot is None:
                rows += [self._foreign_row()] * samples
                continue
            role, prompt = (slot.name, slot.slot), (self.session.name, slot.name, slot.place)
            auxiliary = role in self.seen
            self.seen.add(role)
            rows += [BranchRow((*role, sample), prompt, auxiliary) for sample in range(samples)]
        return rows

    def _foreign_row(self) -> BranchRow:
        """A prompt that is in none of the guider's lists, so that nothing is stored of it."""
        if self.call.writes:
            raise UnsupportedError(
                "a node on the MODEL brings a prompt of its own (as the old Perp-Neg does), and what it saw of earlier "
                "chunks is missing. Use a guider node instead, or set attention to 'vanilla full'"
            )
        return BranchRow(None, auxiliary=True)


def _one_rate(term: Tensor | None) -> Tensor | None:
    return None if term is None else term.unsqueeze(0)


def _block_replacements(options: dict[str, Any]) -> dict[int, Any]:
    dit = options.get("patches_replace", {}).get("dit", {})
    return {key[1]: replacement for key, replacement in dit.items() if key[0] == "double_block"}
