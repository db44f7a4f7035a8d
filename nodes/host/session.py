"""One sampling run inside ComfyUI: from a guider's callable to the loop's model call, window by window.

Everything that a run remembers is in a :class:`Session`, which is a local of whoever samples; a MODEL carries only
frozen settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...motioncache_core.config import CacheConfig
from ...motioncache_core.events import CallEvent, Event
from ...motioncache_core.kv_cache import KVCache
from ...motioncache_core.loop import RunState, begin_window, history_latents, part_levels, run_window, window_noise
from ...motioncache_core.models.skyreels_v2.adapter import BranchRow, NetworkRun, SkyReelsV2Adapter
from ...motioncache_core.models.skyreels_v2.policy import SkyReelsV2Policy
from ...motioncache_core.plan import Call, Plan, Window
from .roles import Slot, lists_in_use, role_slots
from .versions import inference_dtype

WRAPPER_KEY = "motioncache"


@dataclass(frozen=True)
class RunSettings:
    """What a run needs beside its plan.

    Args:
        seed: of all noise.
        solver: name of the solver.
        cache: settings with coefficients resolved, or ``None`` for none.
        fps_term: float32 ``[6 * C]`` to add to the time projection, or ``None``.
        kv_dtype: precision of stored keys and values, ``None``: the model's.
        kv_on_cpu: keep them in main memory.
    """

    seed: int
    solver: str = "unipc"
    cache: CacheConfig | None = None
    fps_term: Tensor | None = None
    kv_dtype: torch.dtype | None = None
    kv_on_cpu: bool = False


@dataclass
class Session:
    """A run from its first to its last call.

    Args:
        plan: what to do.
        settings: how.
        state: latents and place in the plan.
        on_event: told of every event.
    """

    plan: Plan
    settings: RunSettings
    state: RunState
    on_event: Callable[[Event], None] = lambda event: None
    network: NetworkRun = field(default_factory=NetworkRun)

    def sample_window(
        self, model_wrap: Any, window: Window, extra_args: dict[str, Any], given: Tensor | None
    ) -> Iterator[CallEvent]:
        """Run one window's calls under a guider that is sampling. Yields after every call.

        Args:
            model_wrap: the guider, as a SAMPLER gets it.
            given: ``[B, C, f, H, W]`` clean latents of the window's given frames; ``None``: those before it.
        """
        wan = model_wrap.inner_model.diffusion_model
        per_frame = _tokens_per_frame(self.state.video, wan.patch_size)
        if self.network.kv is None:
            self._prepare(wan, model_wrap, per_frame, lists_in_use(model_wrap, extra_args["model_options"]))
        options = extra_args["model_options"].setdefault("transformer_options", {})
        relay = _Relay(self, wan, role_slots(model_wrap.conds))
        wrappers = options.setdefault("wrappers", {})
        # in place of the window before's: one guider run may sample several windows
        wrappers.setdefault(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, {})[WRAPPER_KEY] = [relay]
        noise, given_noise = window_noise(self.plan, window, self.settings.seed, self.state.video)
        given = history_latents(window, self.state.video) if given is None else given
        begin_window(self.plan, window, self.state, self.network, noise, given_noise, given)

        def model_call(call: Call, x: Tensor) -> Tensor:
            comfy.model_management.throw_exception_if_processing_interrupted()
            relay.begin(call)
            return model_wrap(x, x.new_full((x.shape[0],), call.sigma), **extra_args)

        for event in run_window(self.plan, window, self.state, self.network, model_call, self.settings.solver):
            self.on_event(event)
            if isinstance(event, CallEvent):
                yield event

    def _prepare(self, wan: Any, model_wrap: Any, per_frame: int, lists: set[str]) -> None:
        """Lay out keys and values before the first call, so that ComfyUI's memory checks see them."""
        if self.settings.cache is not None:
            self.network.policy = SkyReelsV2Policy(self.settings.cache)
        dtype, device = kv_placement(self.settings, inference_dtype(model_wrap.inner_model), self.state.video.device)
        self.network.kv = KVCache(len(wan.blocks), self.plan.largest_window * per_frame, wan.dim, dtype, device)
        if self.plan.chunk_wise:
            for slot in role_slots(model_wrap.conds).values():
                for sample in range(self.state.video.shape[0] if slot.name in lists else 0):
                    self.network.kv.allocate((slot.name, slot.slot, sample))


def kv_placement(
    settings: RunSettings, model_dtype: torch.dtype, model_device: torch.device
) -> tuple[torch.dtype, torch.device]:
    """Precision and device of stored keys and values."""
    return settings.kv_dtype or model_dtype, torch.device("cpu") if settings.kv_on_cpu else model_device


def _tokens_per_frame(latents: Tensor, patch: tuple[int, int, int]) -> int:
    rows, columns = token_grid(latents.shape[-2], latents.shape[-1], patch)
    return rows * columns


def token_grid(height: int, width: int, patch: tuple[int, int, int]) -> tuple[int, int]:
    """Token rows and columns of a latent frame; odd sizes are padded up."""
    return -(-height // patch[1]), -(-width // patch[2])


class _Attention:
    """ComfyUI's selected attention. ``options``: transformer options of the forward that it serves."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        return optimized_attention(q, k, v, heads=heads, transformer_options=self.options)


class _Relay:
    """Wrapper around the network's forward: turns a guider's batch into roles and hands it to the adapter."""

    def __init__(self, session: Session, wan: Any, slots: dict[Any, Slot]):
        self.session = session
        self.slots = slots
        self.call: Call | None = None
        self.seen: set[Any] = set()
        self.attention = _Attention()
        self.adapter = SkyReelsV2Adapter(wan, self.attention, _one_rate(session.settings.fps_term))

    def begin(self, call: Call) -> None:
        self.call, self.seen = call, set()

    @torch.compiler.disable
    def __call__(
        self, executor: Any, x: Tensor, timestep: Tensor, context: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        options = kwargs.get("transformer_options") or next(a for a in reversed(args) if isinstance(a, dict))
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
            if uuid not in self.slots:
                raise RuntimeError("the guider brought a condition in the middle of the run; use a stock guider")
            slot = self.slots[uuid]
            auxiliary = uuid in self.seen
            self.seen.add(uuid)
            prompt = (slot.name, slot.place)
            rows += [BranchRow((slot.name, slot.slot, sample), prompt, auxiliary) for sample in range(samples)]
        return rows


def _one_rate(term: Tensor | None) -> Tensor | None:
    return None if term is None else term.unsqueeze(0)


def _block_replacements(options: dict[str, Any]) -> dict[int, Any]:
    dit = options.get("patches_replace", {}).get("dit", {})
    return {key[1]: replacement for key, replacement in dit.items() if key[0] == "double_block"}
