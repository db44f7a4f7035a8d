"""A MAGI-1 run inside ComfyUI: the guider that makes a call's passes, the run's memory, and the wrapper of the network.

Every pass of the guidance is a list of conditions of its own (``text``, ``null``, ``alone``, ``text alone``), so that
ComfyUI decides by its free memory which of them go together, and hooks act in all of them. Which passes a call makes,
and with what shares, says the plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...motioncache_core.config import Magi1CacheConfig
from ...motioncache_core.kv_cache import KVCache
from ...motioncache_core.loop import part_levels
from ...motioncache_core.models.magi1.adapter import BranchRow, Magi1Adapter, Magi1Run, Texts
from ...motioncache_core.models.magi1.guidance import BRANCHES, branches_of, combine
from ...motioncache_core.models.magi1.policy import Magi1Policy
from ...motioncache_core.models.magi1.transformer import Magi1Transformer
from ...motioncache_core.plan import Call, Plan
from .chunk_session import ChunkSession, RunSettings, SelectedAttention, kv_placement, options_of, token_grid
from .memory import count_in
from .roles import Slot, role_slots
from .versions import inference_dtype

PATCH = (1, 2, 2)
_CFG_CHANGES = ("sampler_cfg_function", "sampler_post_cfg_function", "sampler_pre_cfg_function")


class Magi1Guider(comfy.samplers.CFGGuider):
    """Makes the passes that a call's plan asks for and mixes them.

    Args:
        model: MODEL.
        plan: of the run.
        options: of the prompt's conditioning (hooks); its text goes another way, see :class:`Magi1Session`.
    """

    def __init__(self, model: Any, plan: Plan, options: Mapping[str, Any]):
        super().__init__(model)
        self.call: Call | None = None
        used = {name for call in plan.calls for name in branches_of(call)}
        self.inner_set_conds({name: [[None, dict(options)]] for name in BRANCHES if name in used})

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None
    ) -> Tensor:
        """Prediction of the clean latents; ``x`` itself where a call only writes keys and values."""
        names = branches_of(self.call)
        conds = [self.conds[name] for name in names]
        made = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options or {})
        if self.call.kind != "denoise":
            return x
        return combine(self.call, dict(zip(names, made, strict=True)))


def ignored_changes(model_options: Mapping[str, Any]) -> str | None:
    """A sentence if something on the MODEL changes guidance in a way that has no meaning here."""
    if not any(model_options.get(name) for name in _CFG_CHANGES):
        return None
    return "A node on the MODEL changes guidance (CFG); MAGI-1 mixes its passes by its own rule, so it has no effect."


def active_magi1_cache(config: Magi1CacheConfig | None, plan: Plan) -> tuple[Magi1CacheConfig | None, str | None]:
    """(settings to run with or ``None``, why they do not act here or ``None``)."""
    if config is None or config.granularity == "off":
        return None, None
    if not plan.chunk_wise:
        return None, "it works chunk by chunk; set attention to 'chunk-wise'"
    return config.for_steps(plan.steps), None


def count_stored(
    model_options: dict[str, Any], model: Any, plan: Plan, settings: RunSettings, tokens_per_frame: int
) -> None:
    """Let ComfyUI's estimate before sampling see the store of a MAGI-1 run."""
    sizes = model.model.diffusion_model.config
    dtype, _ = kv_placement(settings, inference_dtype(model.model), model.load_device)

    def stored(patcher: Any, noise_shape: tuple[int, ...], conds: dict[str, Any]) -> int:
        return Magi1Run.bytes_needed(plan, sizes.num_layers, sizes.kv_dim, tokens_per_frame, noise_shape[0], dtype)

    count_in(model_options, plan, settings.kv_on_cpu, stored)


@dataclass
class Magi1Session(ChunkSession):
    """A MAGI-1 run from its first to its last call.

    Args:
        texts: for every sample the text of each chunk.
    """

    texts: list[Texts] = field(default_factory=list)
    run: Magi1Run | None = None
    policy: Magi1Policy | None = None

    def __post_init__(self) -> None:
        if self.settings.cache is not None:
            self.policy = Magi1Policy(self.settings.cache, self.plan)

    @property
    def memory(self) -> Magi1Run:
        return self.run

    @property
    def step_policy(self) -> Magi1Run | None:
        return self.run if self.policy is not None else None

    def begin_relay(self, model_wrap: Any, model_options: dict[str, Any]) -> _Relay:
        network = model_wrap.inner_model.diffusion_model
        if self.run is None:
            self._prepare(network, inference_dtype(model_wrap.inner_model))
        self.run.policy = self.policy
        moved: dict[int, Tensor] = {}  # chunks that share a text go on sharing it
        for text in (text for one in self.texts for text in one.values()):
            if id(text) not in moved:
                moved[id(text)] = text.to(self.state.video.device)
        self.texts = [{chunk: moved[id(text)] for chunk, text in one.items()} for one in self.texts]
        return _Relay(self, model_wrap, network, role_slots(model_wrap.conds))

    def take_memory_of(self, other: Magi1Session) -> None:
        """Share the network's memory of another session of the same take."""
        self.run = other.run

    def _prepare(self, network: Magi1Transformer, dtype: torch.dtype) -> None:
        """Lay out keys and values before the first call, so that ComfyUI's memory checks see them."""
        video, sizes = self.state.video, network.config
        dtype, device = kv_placement(self.settings, dtype, video.device)
        store = KVCache(sizes.num_layers, 0, sizes.kv_dim, dtype, device)
        self.run = Magi1Run(self.plan, store, self.policy, network.embed)
        rows, columns = token_grid(video.shape[-2], video.shape[-1], PATCH)
        self.run.allocate(rows * columns, video.shape[0])


class _Relay:
    """Wrapper around the network's forward: turns a guider's batch into branches and hands it to the adapter."""

    def __init__(self, session: Magi1Session, guider: Magi1Guider, network: Magi1Transformer, slots: dict[Any, Slot]):
        self.session, self.guider, self.slots = session, guider, slots
        self.call: Call | None = None
        self.seen: set[Any] = set()
        self.attention = SelectedAttention()
        self.adapter = Magi1Adapter(network, self.attention)

    def begin(self, call: Call) -> None:
        self.call, self.seen = call, set()
        self.guider.call = call
        self.session.run.policy, self.session.run.embed = self.session.policy, self.adapter.network.embed

    @torch.compiler.disable
    def __call__(self, executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        options = options_of(args, kwargs)
        self.attention.options = options
        try:
            velocity = self.adapter.forward(x, self.call, self._rows(options["uuids"], x.shape[0]), self.session.run)
        finally:  # the options hold this object: without the circle a run's memory is free at its end
            self.attention.options = {}
        if len(self.call.parts) == 1 or self.call.sigma == 0.0:
            return -velocity
        return -velocity * (part_levels(self.call, velocity) / self.call.sigma)

    def _rows(self, uuids: list[Any], count: int) -> list[BranchRow]:
        samples = count // len(uuids)
        rows = []
        for uuid in uuids:
            auxiliary = uuid in self.seen
            self.seen.add(uuid)
            name = self.slots[uuid].name
            rows += [BranchRow(name, sample, self.session.texts[sample], auxiliary) for sample in range(samples)]
        return rows
