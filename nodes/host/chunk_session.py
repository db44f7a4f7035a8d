"""One sampling run inside ComfyUI, whatever the family: from a guider's callable to the loop's model call.

Everything that a run remembers is in a :class:`ChunkSession`, which is a local of whoever samples; a MODEL carries only
frozen settings.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import comfy.model_management
import comfy.patcher_extension
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...motioncache_core.config import CacheConfig
from ...motioncache_core.events import CallEvent, Event
from ...motioncache_core.loop import (
    NetworkMemory,
    RunState,
    StepPolicy,
    begin_window,
    history_latents,
    run_window,
    window_noise,
)
from ...motioncache_core.plan import Call, Plan, Window

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


class Relay(Protocol):
    """Wrapper around a network's forward that is told which call comes next."""

    def begin(self, call: Call) -> None: ...
    def __call__(self, executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor: ...


@dataclass
class ChunkSession(ABC):
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

    @property
    @abstractmethod
    def memory(self) -> NetworkMemory:
        """What the network remembers; there from :meth:`begin_relay` on."""

    @property
    def step_policy(self) -> StepPolicy | None:
        """Who decides above guidance, in families that do."""
        return None

    @abstractmethod
    def begin_relay(self, model_wrap: Any, model_options: dict[str, Any]) -> Relay:
        """The wrapper for a window's calls; makes the run's memory the first time.

        Args:
            model_wrap: the guider, as a SAMPLER gets it.
        """

    def mirror(self, call: Call) -> None:
        """After a call, see to branches that this session does not pass, but later chunks may."""
        return

    def join(self, model_wrap: Any, extra_args: dict[str, Any]) -> Relay:
        """Put the wrapper of the next calls into a guider run that is sampling.

        Args:
            model_wrap: the guider, as a SAMPLER gets it.
        """
        relay = self.begin_relay(model_wrap, extra_args["model_options"])
        options = extra_args["model_options"].setdefault("transformer_options", {})
        wrappers = options.setdefault("wrappers", {})
        # in place of the window before's: one guider run may sample several windows
        wrappers.setdefault(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, {})[WRAPPER_KEY] = [relay]
        return relay

    def sample_window(
        self, model_wrap: Any, window: Window, extra_args: dict[str, Any], given: Tensor | None
    ) -> Iterator[CallEvent]:
        """Run one window's calls under a guider that is sampling. Yields after every call.

        Args:
            model_wrap: the guider, as a SAMPLER gets it.
            given: ``[B, C, f, H, W]`` clean latents of the window's given frames; ``None``: those before it.
        """
        relay = self.join(model_wrap, extra_args)
        noise, given_noise = window_noise(self.plan, window, self.settings.seed, self.state.video)
        given = history_latents(window, self.state.video) if given is None else given
        begin_window(self.plan, window, self.state, self.memory, noise, given_noise, given)

        def model_call(call: Call, x: Tensor) -> Tensor:
            return guided_call(model_wrap, relay, call, x, extra_args)

        run = run_window(
            self.plan, window, self.state, self.memory, model_call, self.settings.solver, policy=self.step_policy
        )
        for event in run:
            self.on_event(event)
            if isinstance(event, CallEvent):
                yield event


def guided_call(model_wrap: Any, relay: Relay, call: Call, x: Tensor, extra_args: dict[str, Any]) -> Tensor:
    """A call's prediction of the clean latents, through the guider; raises where the artist has interrupted."""
    comfy.model_management.throw_exception_if_processing_interrupted()
    relay.begin(call)
    return model_wrap(x, x.new_full((x.shape[0],), call.sigma), **extra_args)


def kv_placement(
    settings: RunSettings, model_dtype: torch.dtype, model_device: torch.device
) -> tuple[torch.dtype, torch.device]:
    """Precision and device of stored keys and values."""
    return settings.kv_dtype or model_dtype, torch.device("cpu") if settings.kv_on_cpu else model_device


def token_grid(height: int, width: int, patch: tuple[int, int, int]) -> tuple[int, int]:
    """Token rows and columns of a latent frame; odd sizes are padded up."""
    return -(-height // patch[1]), -(-width // patch[2])


class SelectedAttention:
    """ComfyUI's selected attention. ``options``: transformer options of the forward that it serves."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        return optimized_attention(q, k, v, heads=heads, transformer_options=self.options)


def options_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The transformer options among the arguments of a network's forward."""
    return kwargs.get("transformer_options") or next(a for a in reversed(args) if isinstance(a, dict))
