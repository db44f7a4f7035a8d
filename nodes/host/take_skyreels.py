"""What a SkyReels-V2 take needs of ComfyUI."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import comfy.samplers
import latent_preview

from ...motioncache_core.config import CacheConfig
from ...motioncache_core.models.skyreels_v2.growth import SkyReelsV2Growth
from ...motioncache_core.models.skyreels_v2.plan import SamplingSettings
from ...motioncache_core.models.skyreels_v2.policy import STATE_CLASSES
from ...motioncache_core.plan import Plan
from ...motioncache_core.report import Report
from .latents import InputError
from .memory import count_kv_in
from .model_info import for_own_forward
from .model_support import attached_config
from .roles import lists_in_use, refuse_unsupported
from .run_settings import KV_PRECISIONS, active_cache, new_report
from .session import RunSettings, Session, token_grid
from .takes import Lane, Stretch, TakeSettings


@dataclass(frozen=True)
class SkyReelsV2Take(TakeSettings):
    """See :class:`.takes.TakeSettings`.

    Args:
        fps: told to the model.
        solver: name.
    """

    fps: float = 24.0
    solver: str = "unipc"

    family = "skyreels_v2"
    state_classes = STATE_CLASSES
    file_classes = (SkyReelsV2Growth, SamplingSettings, CacheConfig)

    def check(self, stretch: Stretch, before: tuple[Stretch, ...], earlier: Any) -> list[str]:
        self.check_family(stretch.model)
        if stretch.negative is None and stretch.guidance != 1.0:
            raise InputError(
                f"negative is not connected, but guidance is {stretch.guidance:g}; connect it or set guidance to 1"
            )
        if before:
            _check_same_sizes(stretch.model, before[0].model)
        return []

    def active(self, model: Any, plan: Plan) -> tuple[CacheConfig | None, str | None]:
        return active_cache(attached_config(model.model_options), plan, model)

    def lane(self, stretch: Stretch, plan: Plan, state: Any, off: bool) -> Lane:
        patched, fps_term = for_own_forward(stretch.model, self.fps)
        cache = stretch.cache or (CacheConfig(granularity="off") if off else None)
        settings = RunSettings(
            stretch.seed, self.solver, cache, fps_term, KV_PRECISIONS[self.kv_precision], self.kv_on_cpu
        )
        guider = comfy.samplers.CFGGuider(patched)
        guider.set_conds(stretch.positive, stretch.positive if stretch.negative is None else stretch.negative)
        guider.set_cfg(stretch.guidance)
        refuse_unsupported(guider.original_conds, patched.model_options, plan)
        session = Session(plan, settings, state, name=str(stretch.first))
        return Lane(stretch, guider, session, patched)

    def count_store(self, lanes: Sequence[Lane], plan: Plan) -> None:
        inner, branches = lanes[-1], set()
        for lane in lanes:
            for name in lists_in_use(lane.guider, lane.patcher.model_options):
                branches |= {(name, place) for place in range(len(lane.guider.original_conds[name]))}
        count_kv_in(inner.patcher.model_options, plan, inner.session.settings, set(), len(branches))

    def grid(self, stretch: Stretch) -> tuple[int, int]:
        return token_grid(*self.latent_size, stretch.model.model.diffusion_model.patch_size)

    def report(self, stretch: Stretch, plan: Plan) -> Report:
        return new_report(plan, stretch.cache, stretch.model, stretch.positive, stretch.inactive)

    def colours_format(self, stretch: Stretch) -> Any:
        return stretch.model.model.latent_format

    def callback(self, patcher: Any, total: int) -> Any:
        return latent_preview.prepare_callback(patcher, total)


def _check_same_sizes(model: Any, first: Any) -> None:
    networks = [m.model.diffusion_model for m in (model, first)]
    sizes = [(network.dim, len(network.blocks), network.num_heads) for network in networks]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"model has width {sizes[0][0]} and {sizes[0][1]} layers, but this take was begun with one of width "
            f"{sizes[1][0]} and {sizes[1][1]} layers; the memory of earlier chunks fits that one only"
        )
