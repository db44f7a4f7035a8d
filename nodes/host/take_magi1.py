"""What a MAGI-1 take needs of ComfyUI."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...motioncache_core.config import Magi1CacheConfig
from ...motioncache_core.models.magi1.growth import Magi1Growth
from ...motioncache_core.models.magi1.guidance import OnePass, ThreePass
from ...motioncache_core.models.magi1.plan import SamplingSettings
from ...motioncache_core.models.magi1.policy import STATE_CLASSES
from ...motioncache_core.models.magi1.text import DURATION, TOKENS_KEY, without_token
from ...motioncache_core.plan import Plan
from ...motioncache_core.report import Report
from .chunk_session import RunSettings, token_grid
from .latents import InputError
from .magi1_inputs import transformer_size, unfit_guidance
from .magi1_preview import callback_maker, preview_format
from .magi1_prompts import Script
from .magi1_session import PATCH, Magi1Guider, Magi1Session, active_magi1_cache, count_stored, ignored_changes
from .model_support import attached_config
from .roles import refuse_unsupported
from .run_settings import KV_PRECISIONS
from .takes import Lane, Stretch, TakeSettings


@dataclass(frozen=True)
class Magi1Take(TakeSettings):
    """See :class:`.takes.TakeSettings`.

    Args:
        declared: chunks that the take is to have in the end, for the duration tokens; 0: not known, they are off.
        vae: for the colours of previews only, or ``None``.
    """

    declared: int = 0
    vae: Any = None

    family = "magi1"
    takes_negative = False
    solver = "euler"
    state_classes = STATE_CLASSES
    file_classes = (Magi1Growth, SamplingSettings, Magi1CacheConfig, ThreePass, OnePass)

    def check(self, stretch: Stretch, before: tuple[Stretch, ...], earlier: Any) -> list[str]:
        self.check_family(stretch.model)
        info = stretch.model.model.info
        sizes = [replace(one.model.model.info.architecture, fp8=False) for one in (stretch, *before[:1])]
        if sizes[0] != sizes[-1]:
            raise InputError(
                f"model is {info.name}, but this take was begun with {before[0].model.model.info.name}; the memory of "
                "earlier chunks fits that one only"
            )
        script = Script.of(stretch.positive, None, info.architecture.text_dim)
        entered = stretch.first + stretch.chunks
        if self.declared and entered > self.declared:
            left = self.declared - stretch.first
            nearest = f"nearest: {left}" if left else "no chunk can follow; declare more in Begin video"
            raise InputError(
                f"chunks is {stretch.chunks}, which makes {entered} in all, but the take was declared to have "
                f"{self.declared} ({nearest})"
            )
        said = [script.notice, ignored_changes(stretch.model.model_options)]
        if stretch.model.model is not earlier.model:
            said.append(unfit_guidance(info, self.growth.settings.guidance, " in Begin video"))
        if stretch.negative is not None:
            said.append("negative is not used: MAGI-1 has learned its own empty prompt.")
        if not self.declared and _tells_duration(stretch):
            said.append(
                "The duration token is left out: the length of this take is open. Declare it in Begin video, or switch "
                "the token off in MAGI-1 text encode."
            )
        return [text for text in said if text]

    def closing(self, stretches: tuple[Stretch, ...]) -> str | None:
        made = sum(stretch.chunks for stretch in stretches)
        if made >= self.declared or not any(map(_tells_duration, stretches)):
            return None
        return (
            f"The take was declared to have {self.declared} chunks, and ends after {made}; the duration tokens of its "
            f"prompts told the longer time. Set declared_chunks to {made} in Begin video."
        )

    def with_vae(self, vae: Any) -> Magi1Take:
        return replace(self, vae=vae)

    def active(self, model: Any, plan: Plan) -> tuple[Magi1CacheConfig | None, str | None]:
        return active_magi1_cache(attached_config(model.model_options), plan)

    def lane(self, stretch: Stretch, plan: Plan, state: Any, off: bool) -> Lane:
        patched = stretch.model.clone()
        cache = stretch.cache or (Magi1CacheConfig(granularity="off") if off else None)
        settings = RunSettings(stretch.seed, self.solver, cache, None, KV_PRECISIONS[self.kv_precision], self.kv_on_cpu)
        script = self._script(stretch)
        guider = Magi1Guider(patched, plan, script.options)
        refuse_unsupported(guider.original_conds, patched.model_options, plan)
        chunks = plan.windows[0].chunks
        given = sum(chunk.number is None for chunk in chunks)
        length = given + self.declared if self.declared else len(chunks)
        first = given + stretch.first if stretch.first else 0
        own = range(first, given + stretch.first + stretch.chunks)
        texts = script.texts(length, given, stretch.model.model.info.architecture.text_tokens, self.batch, own)
        session = Magi1Session(plan, settings, state, texts=texts)
        return Lane(stretch, guider, session, patched)

    def count_store(self, lanes: Sequence[Lane], plan: Plan) -> None:
        inner = lanes[-1]
        rows, columns = self.grid(inner.stretch)
        count_stored(inner.patcher.model_options, inner.patcher, plan, inner.session.settings, rows * columns)

    def _script(self, stretch: Stretch) -> Script:
        positive = stretch.positive
        if not self.declared:
            positive = [[text, without_token(options, DURATION)] for text, options in positive]
        return Script.of(positive, None, stretch.model.model.info.architecture.text_dim)

    def grid(self, stretch: Stretch) -> tuple[int, int]:
        return token_grid(*self.latent_size, PATCH)

    def report(self, stretch: Stretch, plan: Plan) -> Report:
        size = transformer_size(stretch.model.model.info, self._script(stretch).longest)
        return Report(plan, stretch.cache, size, stretch.inactive)

    def colours_format(self, stretch: Stretch) -> Any:
        return preview_format(self.vae)

    def callback(self, patcher: Any, total: int) -> Any:
        return callback_maker(self.vae)(patcher, total)


def _tells_duration(stretch: Stretch) -> bool:
    return DURATION in (stretch.positive[0][1].get(TOKENS_KEY) or ())
