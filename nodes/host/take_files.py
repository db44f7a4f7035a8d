"""Takes as files, so that a video can be gone on with tomorrow, or after an interrupt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ...motioncache_core import state, tensor_store
from ...motioncache_core.flops import TransformerSize
from ...motioncache_core.take import Parked
from ...motioncache_core.tensor_store import StoreError
from .decode_stream import DecodeStream
from .model_identity import identity, model_facts
from .model_support import FAMILY_NAMES, family_of
from .run_settings import KV_PRECISIONS
from .take_magi1 import Magi1Take
from .take_records import packed_report, packed_trace, unpacked_report, unpacked_trace
from .take_skyreels import SkyReelsV2Take
from .takes import KEPT, Stretch, Take, TakeSettings

KIND, VERSION = "motioncache_take", 3
CLASSES: dict[str, tuple[type, ...]] = {
    kind.family: (Stretch, Parked, DecodeStream, TransformerSize, kind, *kind.file_classes)
    for kind in (SkyReelsV2Take, Magi1Take)
}
"""By family: what a file may hold."""
MOST_CHUNKS, MOST_STEPS, MOST_CELLS = 5000, 1000, 250_000
"""What a file may claim: chunks, steps, and both multiplied; more would keep the machine busy with the plan alone."""

PLAIN = (bool, int, float, str, type(None))
"""Values on a prompt that can be compared; others are the same only if they are one."""


def save_take(path: Path, take: Take) -> None:
    """Write a take; a file of that name is replaced only once the new one is complete.

    Raises:
        StoreError: something on a prompt cannot be written (hooks, ControlNet), or the take is too long for a file.
        OSError: the file cannot be written.
    """
    _check_length(take, "the take has")
    prompts: list[Any] = []
    stretches = [_without_objects(stretch, prompts) for stretch in take.stretches]
    models = {identity(model): model for model in (take.model, *(stretch.model for stretch in take.stretches))}
    facts_of = {key: model_facts(model) for key, model in models.items()}
    value = {
        "settings": take.settings.with_vae(None),
        "given": take.given,
        "stretches": stretches,
        "models": [facts_of[identity(stretch.model)] for stretch in take.stretches],
        "prompts": prompts,
        "finished": take.finished,
        "parked": take.parked,
        "decoded": (take.decoded, take.stream, take.complete),
        "report": None if take.report is None else packed_report(take.report),
        "trace": None if take.trace is None else packed_trace(take.trace),
    }
    facts = {
        "family": take.settings.family,
        "size": [take.settings.width, take.settings.height],
        "chunks": take.chunks,
        "finished": len(take.finished),
        "model": facts_of[identity(take.stretches[-1].model if take.stretches else take.model)],
    }
    try:
        tensor_store.write(path, KIND, VERSION, facts, value, CLASSES[take.settings.family])
    except TypeError as error:
        raise StoreError(f"the take cannot be saved: {error}; remove it from the prompts and generate again") from None


def check_savable(take: Take) -> None:
    """Raise StoreError if a prompt of the newest stretch cannot be written to a file (hooks, ControlNet)."""
    newest = take.stretches[-1]
    for name in ("positive", "negative"):
        for _, options in getattr(newest, name) or ():
            for key, value in options.items():
                try:
                    state.export(value)
                except TypeError as error:
                    raise StoreError(
                        f"autosave: {name} holds {key!r}, which cannot be saved ({error}); remove it from the "
                        "prompt or leave autosave empty"
                    ) from None


def load_take(path: Path, model: Any, vae: Any = None) -> tuple[Take, list[str]]:
    """(a take, notices for the artist).

    Args:
        model: MODEL that all its chunks go on with.
        vae: for the colours of MAGI-1's previews.

    Raises:
        StoreError: the file cannot be used, or was made with another model.
    """
    facts, found = tensor_store.read_facts(path, KIND, VERSION), model_facts(model)
    _check_model(path, facts.get("model"), found)
    value = tensor_store.read(path, KIND, VERSION, CLASSES[found["family"]])
    try:
        take = _take_from(value, model, vae)
        return replace(take, origin=path), _notices(take, value["models"], found)
    except StoreError:
        raise
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RuntimeError) as error:
        raise StoreError(f"{path.name} does not hold a take: {type(error).__name__} {error}") from None


def finished_in(path: Path) -> int:
    """How many finished chunks a file says that it holds; 0 if there is none, or none that can be read."""
    try:
        finished = tensor_store.read_facts(path, KIND, VERSION).get("finished")
    except (OSError, StoreError):
        return 0
    return finished if isinstance(finished, int) else 0


def _check_model(path: Path, wanted: Any, found: dict[str, Any]) -> None:
    if not isinstance(wanted, dict) or not all(isinstance(value, str) for value in wanted.values()):
        raise StoreError(f"{path.name} is damaged: it does not say of which model it is.")
    if found["family"] != wanted.get("family"):
        of, is_ = (FAMILY_NAMES.get(name, "no model of this pack") for name in (wanted.get("family"), found["family"]))
        raise StoreError(f"model is {is_}, but {path.name} was made with {of}; connect that model.")
    if found["weights"] != wanted.get("weights"):
        raise StoreError(
            f"model is another checkpoint than the one that {path.name} was made with (weights {found['weights']}, "
            f"expected {wanted.get('weights')}), or the same one loaded in another precision; connect that one."
        )


def _without_objects(stretch: Stretch, prompts: list[Any]) -> Stretch:
    """A stretch with numbers of prompts in place of the prompts, and no MODEL."""

    def number(prompt: Any) -> int | None:
        if prompt is None:
            return None
        plain = [[cond, dict(options)] for cond, options in prompt]
        for known, other in enumerate(prompts):
            if len(other) == len(plain) and all(map(_same_entry, other, plain)):
                return known
        prompts.append(plain)
        return len(prompts) - 1

    return replace(stretch, model=None, positive=number(stretch.positive), negative=number(stretch.negative))


def _same_entry(one: list[Any], other: list[Any]) -> bool:
    """Whether two entries of prompts hold the same tensors and the same plain values."""

    def same(a: Any, b: Any) -> bool:
        return a is b or (isinstance(a, PLAIN) and isinstance(b, PLAIN) and a == b)

    (cond, options), (other_cond, other_options) = one, other
    return (
        cond is other_cond
        and options.keys() == other_options.keys()
        and all(same(options[key], other_options[key]) for key in options)
    )


def _take_from(value: dict[str, Any], model: Any, vae: Any) -> Take:
    settings = value["settings"]
    if not isinstance(settings, TakeSettings) or settings.family != family_of(model):
        raise StoreError("the file's settings are of another family than its model")
    settings = settings.with_vae(vae)
    for name, legal in (("kv_precision", KV_PRECISIONS), ("keep", KEPT)):
        if getattr(settings, name) not in legal:
            raise StoreError(f"the file's {name} is {getattr(settings, name)!r}; known are {', '.join(legal)}")
    prompts = value["prompts"]
    stretches = tuple(
        replace(
            stretch,
            model=model,
            positive=None if stretch.positive is None else prompts[stretch.positive],
            negative=None if stretch.negative is None else prompts[stretch.negative],
        )
        for stretch in value["stretches"]
    )
    take = Take(settings, model, value["given"], stretches, tuple(value["finished"]), value["parked"])
    _check_length(take, "the file claims")
    decoded, stream, complete = value["decoded"]
    take = replace(take, decoded=decoded, stream=stream, complete=complete)
    _check_shapes(take)
    if value["report"] is not None:
        plan = settings.growth.plan(take.chunks)
        take = replace(take, report=unpacked_report(value["report"], plan), trace=unpacked_trace(value["trace"], plan))
    return take


def _check_length(take: Take, who: str) -> None:
    """Raise StoreError for more chunks and steps than a file may have. ``who``: beginning of the message."""
    chunks, steps = take.chunks, take.settings.growth.settings.steps
    if any(stretch.chunks < 1 for stretch in take.stretches) or chunks > MOST_CHUNKS:
        raise StoreError(f"{who} {chunks} chunks; a file may have up to {MOST_CHUNKS}")
    if not 0 < steps <= MOST_STEPS:
        raise StoreError(f"{who} {steps} steps; a file may have up to {MOST_STEPS}")
    if chunks * steps > MOST_CELLS:
        raise StoreError(
            f"{who} {chunks} chunks of {steps} steps; with so many steps a file may have up to {MOST_CELLS // steps}"
        )


def _check_shapes(take: Take) -> None:
    """Raise StoreError unless all latents are of the take's size, chunk by chunk."""
    expected = (take.settings.batch, 16, *take.settings.latent_size)
    for latents in (*take.finished, *(() if take.given is None else (take.given,))):
        if not isinstance(latents, Tensor) or latents.ndim != 5 or (*latents.shape[:2], *latents.shape[3:]) != expected:
            raise StoreError(
                f"the file holds latents that do not fit its size {take.settings.width} x {take.settings.height}"
            )
    if take.parked is not None:
        _check_parked(take.parked)
    if len(take.finished) > take.chunks:
        raise StoreError(f"the file claims {take.chunks} chunks, but holds {len(take.finished)} finished ones")


def _check_parked(parked: Any) -> None:
    """Raise StoreError unless it is a run at rest, its keys and values in pairs."""
    good = isinstance(parked, Parked) and isinstance(parked.next_call, int) and isinstance(parked.pages, dict)
    layers = [pair for page in parked.pages.values() for own in page.values() for pair in own] if good else []
    if (
        not good
        or not all(parked.pages.values())
        or any(not isinstance(pair, Tensor) or pair.ndim != 3 or len(pair) != 2 for pair in layers)
    ):
        raise StoreError("the file holds no run at rest")


def _notices(take: Take, saved: list[dict[str, Any]], now: dict[str, Any]) -> list[str]:
    """A sentence for each way in which chunks that are not finished were begun with another MODEL.

    Args:
        saved: facts of each stretch's MODEL; ``now``: of the one that they go on with.
    """
    in_flight = [
        facts
        for stretch, facts in zip(take.stretches, saved, strict=True)
        if stretch.first + stretch.chunks > len(take.finished)
    ]
    return [
        f"Chunks that are not finished were begun with {what} than this MODEL has; they go on with this one's."
        for name, what in (("weights", "another checkpoint"), ("patches", "other patches (LoRA)"))
        if any(facts.get(name) != now[name] for facts in in_flight)
    ]
