"""MAGI-1's variants, what deciding costs with the live policy, and what each lossless saving brings.

``tools.bench.harness.pack.load`` comes before this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from motioncache.motioncache_core.config import Magi1CacheConfig
from motioncache.motioncache_core.events import Decision, StepReuse
from motioncache.motioncache_core.kv_cache import KVCache
from motioncache.motioncache_core.models.magi1.adapter import Magi1Run
from motioncache.motioncache_core.models.magi1.guidance import BRANCHES
from motioncache.motioncache_core.models.magi1.plan import TEMPORAL, SamplingSettings, build_plan
from motioncache.motioncache_core.models.magi1.policy import Magi1Policy
from motioncache.motioncache_core.plan import Call, Part, Plan
from motioncache.nodes.host.versions import inference_dtype
from torch import Tensor

from . import compare
from .compare import CHUNK_WISE, REFRESH, VANILLA, Say, Variant, median_peak, rounds_of
from .machine import OthersMeter
from .magi1_runs import CHUNK_FRAMES, Sampling, Scene, sample
from .measured import Measured, Stopwatch, synchroniser
from .pattern import Pattern, chunk_pattern, make_pattern, replay
from .rounds import Spread, speed_up

TOGETHER = "vanilla (window together)"
ALWAYS_TOKENS = Magi1CacheConfig(warmup_steps=0, chunk_phase_updates=1, chunk_threshold=0.0)
"""Token phase from the third step on: under a replayed pattern the policy does all that it ever does."""
ALWAYS_CHUNKS = ALWAYS_TOKENS.with_changes(granularity="chunk")


class ReplayedPolicy(Magi1Policy):
    """The live policy does all its work in every step, so that it costs what it costs; its answer is replaced.

    Args:
        config, plan: of the live policy.
        pattern: what is answered instead.
        grid: token rows and columns of a latent frame.
    """

    def __init__(self, config: Magi1CacheConfig, plan: Plan, pattern: Pattern, grid: tuple[int, int]):
        super().__init__(config, plan)
        self.pattern, self.grid = pattern, grid

    def decide(self, role: Any, call: Call, latents: Tensor, embed: Callable[[Tensor], Tensor]) -> Decision:
        decision = super().decide(role, call, latents, embed)
        replay(decision, self.pattern, call.parts[0].frames, self.grid, 0, latents.device)
        return decision


def variants(
    model: Any, prompt: Any, scene: Scene, fractions: Sequence[float], chunk_fraction: float, distilled: bool
) -> dict[str, Variant]:
    """Name -> variant. Raises ValueError for a fraction that the scene's steps cannot reach."""

    def run(**how: Any) -> Callable[[], Measured]:
        return partial(sample, model, prompt, scene, Sampling(distilled=distilled, **how))

    def replayed(pattern: Pattern, config: Magi1CacheConfig) -> Callable[[], Measured]:
        return run(cache=config, make_policy=partial(ReplayedPolicy, pattern=pattern, grid=scene.grid))

    chunks = chunk_pattern(chunk_fraction, scene.steps)
    named = {
        VANILLA: Variant(run(attention=TOGETHER, clean_refresh=True)),
        CHUNK_WISE: Variant(run()),
        REFRESH: Variant(run(clean_refresh=True)),
        f"FlowCache, {chunks.fraction:g} computed": Variant(replayed(chunks, ALWAYS_CHUNKS), reuses=True),
    }
    for fraction in fractions:
        pattern = make_pattern(fraction, scene.steps)
        named[f"MotionCache, {fraction:g} computed"] = Variant(replayed(pattern, ALWAYS_TOKENS), reuses=True)
    return named


def deciding(
    model: Any, prompt: Any, scene: Scene, distilled: bool, repeats: int, meter: OthersMeter, say: Say
) -> dict[str, Any]:
    """Share of a run that deciding takes, the embedding of the latents for it included."""
    config = ALWAYS_TOKENS.with_changes(min_update_ratio=0.1)
    first = sample(model, prompt, replace(scene, chunks=1), Sampling(distilled=distilled, cache=config))

    def live(threshold: float, watch: Stopwatch) -> Measured:
        own = config.with_changes(chunk_threshold=threshold, token_threshold=threshold)
        return sample(model, prompt, scene, Sampling(distilled=distilled, cache=own, run_class=timed_run(watch)))

    watch = partial(Stopwatch, synchroniser(model.load_device))
    return compare.deciding("patch embedding", first, live, watch, repeats, meter, say)


def timed_run(watch: Stopwatch) -> type[Magi1Run]:
    """The run's memory with a watch for all that it does to decide: embedding, distance, accumulation, weights."""

    class TimedRun(Magi1Run):
        def reuse(self, call: Call, x: Tensor) -> StepReuse | None:
            with watch:
                return super().reuse(call, x)

        def stepped(self, call: Call, x: Tensor, after: Tensor, previous: Tensor | None) -> None:
            with watch:
                super().stepped(call, x, after, previous)

    return TimedRun


class WholeStore(Magi1Run):
    """Keeps every chunk of the video, as the original does."""

    def __init__(self, plan: Plan, *args: Any, **more: Any):
        super().__init__(plan, *args, **more)
        self.places = dict.fromkeys(self.places, len(plan.windows[0].chunks))

    @staticmethod
    def bytes_needed(
        plan: Plan, layers: int, width: int, tokens_per_frame: int, samples: int, dtype: torch.dtype
    ) -> int:
        """Memory of the store for a plan, in bytes."""
        kept = Magi1Run.bytes_needed(plan, layers, width, tokens_per_frame, samples, dtype)
        return kept * len(plan.windows[0].chunks)


def plan_skipping(names: frozenset[str], settings: SamplingSettings) -> Plan:
    """The plan with all passes, but those of some branches left out where nobody uses their results."""
    whole, thrifty = (build_plan(replace(settings, skip_redundant=skip)) for skip in (False, True))
    calls = []
    for call, small in zip(whole.calls, thrifty.calls, strict=True):
        parts = tuple(_skipping(names, *pair) for pair in zip(call.parts, small.parts, strict=True))
        calls.append(replace(call, parts=parts))
    return replace(whole, calls=tuple(calls))


def _skipping(names: frozenset[str], whole: Part, thrifty: Part) -> Part:
    kept = dict(thrifty.branches)
    return replace(whole, branches=tuple(b for b in whole.branches if b[0] not in names or b[0] in kept))


ALONE = frozenset(name for name, branch in BRANCHES.items() if not branch.history)
TEXT = frozenset(name for name, branch in BRANCHES.items() if branch.prompt)


def savings(
    model: Any, prompt: Any, scene: Scene, attention: str, pairs: int, meter: OthersMeter, say: Say
) -> list[dict[str, Any]]:
    """What each lossless saving brings to a base model's run, three passes a step, with clean refresh."""

    def run(names: frozenset[str], run_class: type[Magi1Run]) -> Variant:
        how = {"make_plan": partial(plan_skipping, names), "run_class": run_class}
        sampling = Sampling(attention=attention, clean_refresh=True, distilled=False, **how)
        return Variant(partial(sample, model, prompt, scene, sampling))

    named = {
        "every pass, every chunk kept": run(frozenset(), WholeStore),
        "pass without history skipped where t >= 0.3": run(ALONE, WholeStore),
        "pass with text skipped where all chunks have t >= 0.3": run(TEXT, WholeStore),
        "only the chunks kept that are read": run(frozenset(), Magi1Run),
        "all three": run(ALONE | TEXT, Magi1Run),
    }
    sample(model, prompt, replace(scene, chunks=1), Sampling(attention=attention, clean_refresh=True, distilled=False))
    *_, (runs, seconds) = rounds_of(named, pairs, meter, say)
    plain = next(iter(named))
    return [
        {
            "saving": name,
            "attention": attention,
            "flops": runs[name][0].summary["flops"],
            "flops_ratio": runs[plain][0].summary["flops"] / runs[name][0].summary["flops"],
            "seconds": asdict(Spread.of(seconds[name])),
            "speed_up": asdict(speed_up(seconds[name], seconds[plain])),
            "peak_bytes": median_peak(runs[name]),
            "kv_bytes": runs[name][0].kv_bytes,
        }
        for name in named
    ]


def moved(model: Any, scene: Scene) -> dict[str, int]:
    """Bytes of stored keys and values that a base model's run moves if they lie elsewhere: all, or what is read.

    The original copies everything before the window, in every pass with history, layer and step.
    """
    settings = SamplingSettings(
        frames=scene.chunks * CHUNK_FRAMES * TEMPORAL,
        steps=scene.steps,
        window_chunks=scene.window,
        attention="staged window",
        skip_redundant=False,
    )
    everything = ranges = 0
    for call in build_plan(settings).calls:
        if call.kind != "denoise":  # the original passes a clean chunk together with the step
            continue
        for name in {name for part in call.parts for name, _ in part.branches if BRANCHES[name].history}:
            readers = [part for part in call.parts if name in dict(part.branches)]
            settled = max(part.settled for part in readers)
            everything += settled
            ranges += settled - min(min(part.reads[0], part.settled) for part in readers)
    sizes, dtype = model.model.diffusion_model.config, inference_dtype(model.model)
    a_frame = KVCache.bytes_needed(sizes.num_layers, scene.tokens // CHUNK_FRAMES, sizes.kv_dim, 1, dtype)
    return {"everything": everything * a_frame, "ranges": ranges * a_frame}


def rounds(
    model: Any, prompt: Any, scene: Scene, options: Any, meter: OthersMeter, say: Say
) -> Iterator[list[dict[str, Any]]]:
    """Rows of the comparison after each round."""
    named = variants(model, prompt, scene, options.fractions, options.chunk_fraction, options.guidance == "one")
    yield from compare.compare(named, options.pairs, meter, say)
