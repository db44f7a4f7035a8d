"""What the tests of both families ask of a run that is stopped or fails on its way."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import comfy.model_management
import latent_preview
import pytest
import torch
from torch import Tensor


def structure(options: Any) -> Any:
    """Nested options with objects replaced by their identity."""
    if isinstance(options, dict):
        return {key: structure(value) for key, value in options.items()}
    if isinstance(options, (list, tuple)):
        return [structure(value) for value in options]
    return options if isinstance(options, (str, int, float, type(None))) else id(options)


class ToldError(Exception):
    pass


@contextlib.contextmanager
def at_call(monkeypatch: pytest.MonkeyPatch, number: int, what: Callable[[], None]) -> Iterator[None]:
    """Do something after that call, from the place where previews are drawn."""

    def prepare(model: Any, steps: int, *args: Any) -> Any:
        def callback(step: int, x0: Tensor, x: Tensor, total: int) -> None:
            assert step < total and torch.isfinite(x0).all()
            if step == number:
                what()

        return callback

    with monkeypatch.context() as patch:
        patch.setattr(latent_preview, "prepare_callback", prepare)
        yield


def stop() -> None:
    comfy.model_management.interrupt_current_processing(True)


def fail() -> None:
    raise ToldError


every_end = pytest.mark.parametrize(
    ("what", "error"),
    [(stop, comfy.model_management.InterruptProcessingException), (fail, ToldError)],
    ids=["stop", "fail"],
)


def check_that_nothing_is_left(
    nodes: Any,
    monkeypatch: pytest.MonkeyPatch,
    left_behind: Callable[[], list[str]],
    what: Callable[[], None],
    error: type[Exception],
    number: int,
) -> None:
    """End a run at a call: its state is gone, the MODEL is as it was, and the next run is bit-equal to a whole one.

    Args:
        nodes: the fixture of a family.
        what, error: one of :data:`every_end`.
    """
    model = nodes.cached()
    options = structure(model.model_options)
    whole = nodes.sample(model)
    with at_call(monkeypatch, number, what), pytest.raises(error):
        nodes.sample(model)
    assert not comfy.model_management.processing_interrupted(), "the flag is taken back"
    assert left_behind() == [], "no garbage collection is needed"
    assert structure(model.model_options) == options
    again = nodes.sample(model)
    assert torch.equal(again.latents, whole.latents) and again.timeless == whole.timeless
