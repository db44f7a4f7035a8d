"""SAMPLER objects: one window of a session under a guider, and a whole run for stock custom sampling nodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...motioncache_core.events import Event
from ...motioncache_core.loop import RunState
from ...motioncache_core.models.skyreels_v2.plan import SamplingSettings, build_plan, pixel_length
from ...motioncache_core.plan import Call, Plan, Window
from .previews import Callback, PacedCallback
from .roles import UnsupportedError, refuse_unsupported
from .session import RunSettings, Session

LARGEST_SIGMA = 0.9999
"""Stock schedulers begin at exactly 1, where the log signal-to-noise ratio that UniPC works with has no value."""


@dataclass(frozen=True)
class RunOfSampler:
    """What a run needs of its node.

    Args:
        settings: how to sample.
        on_event: told of every event.
        around: entered before the first call and left after the last.
    """

    settings: RunSettings
    on_event: Callable[[Event], None]
    around: AbstractContextManager[Any]


Prepare = Callable[[Any, Plan, int, tuple[int, int]], RunOfSampler]
"""(guider, plan, seed, latent rows and columns) -> what the run needs."""


class OwnSampler(comfy.samplers.Sampler):
    """Marks the samplers of this pack, for whom the cache is active."""


class WindowSampler(OwnSampler):
    """Samples one window of a session.

    Args:
        given: clean latents of the window's given frames in model units, ``None`` for those that the session has.
    """

    def __init__(self, session: Session, window: Window, given: Tensor | None = None):
        self.session, self.window, self.given = session, window, given

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Callback | None,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """The window's latents in model units."""
        total = len(self.session.plan.calls)
        for event in self.session.sample_window(model_wrap, self.window, extra_args, self.given):
            if callback is not None:
                newest = newest_frame(event.call)
                callback(event.call.index, event.x0[:, :, newest : newest + 1], self.session.state.window, total)
        return self.session.state.window


class AutoregressiveSampler(OwnSampler):
    """The whole run for SamplerCustomAdvanced and any guider. Later windows go on from latents.

    Length and size come from the latent, noise levels from SIGMAS, the seed from NOISE; the guider's MODEL brings the
    cache settings. Given frames are those where a noise mask is 0.

    Args:
        prepare: called when the run begins.
    """

    def __init__(self, sampling: SamplingSettings, prepare: Prepare):
        self.sampling, self.prepare = sampling, prepare

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Callback | None,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """The video's latents in model units."""
        if noise.ndim != 5:
            raise UnsupportedError(
                f"the latent has shape {tuple(noise.shape)}; connect a video latent [B, 16, F, H, W]"
            )
        if not noise.any():
            raise UnsupportedError("the noise is empty; connect RandomNoise instead of DisableNoise")
        given = given_frames(denoise_mask, latent_image)
        plan = build_plan(
            dataclasses.replace(
                self.sampling,
                frames=pixel_length(noise.shape[2]),
                start_latents=0 if given is None else given.shape[2],
                sigmas=usable_sigmas(sigmas),
                steps=len(sigmas) - 1,
            )
        )
        refuse_unsupported(model_wrap.conds, extra_args["model_options"], plan, one_run=True)
        batch, channels, _, height, width = noise.shape
        run = self.prepare(model_wrap, plan, extra_args["seed"], (height, width))
        state = RunState.new(plan, batch, channels, height, width, noise.device)
        session = Session(plan, run.settings, state, run.on_event)
        paced = PacedCallback(callback) if callback is not None else None
        with run.around:
            for window in plan.windows:
                frames = given if window.index == 0 else None
                for event in session.sample_window(model_wrap, window, extra_args, frames):
                    if paced is not None:
                        shown = partial(_shown, session, window, event)
                        paced.tell(event.call.index, shown, session.state.video, len(plan.calls))
        return session.state.video


def newest_frame(call: Call) -> int:
    """Which of a call's latent frames a preview shows: the last one of the chunk in work.

    Where all chunks of a window are in work, the last of those that have made at least half as many steps as the first:
    later ones are noise.
    """
    furthest = max(part.step for part in call.parts)
    far = [part for part in call.parts if part.step == furthest or 2 * part.step >= furthest > 0]
    return far[-1].stop - 1 - call.start


def _shown(session: Session, window: Window, event: Any) -> Tensor:
    """The video with the call's prediction in it, rolled so that previews, which show frame 0, show its newest.

    After the last call it is the video as it is, which stock nodes hand on.
    """
    call: Call = event.call
    if call is session.plan.calls[-1]:
        return session.state.video
    start = window.start + call.start
    shown = session.state.video.clone()
    shown[:, :, start : start + call.frames] = event.x0
    return torch.roll(shown, -(start + newest_frame(call)), dims=2)


def usable_sigmas(sigmas: Tensor) -> tuple[float, ...]:
    """Noise levels of a stock scheduler as the plan takes them.

    Raises:
        UnsupportedError: they do not begin at noise.
    """
    levels = [float(s) for s in sigmas.float().cpu()]
    if not levels or levels[0] < 0.9:
        first = f"{levels[0]:g}" if levels else "nothing"
        raise UnsupportedError(f"SIGMAS begin at {first}; a video is made from noise: use a scheduler with denoise 1.0")
    between = (1.0 + levels[1]) / 2 if len(levels) > 1 else 0.0  # very many levels have the second one above it too
    return (min(levels[0], max(LARGEST_SIGMA, between)), *levels[1:])


def given_frames(mask: Tensor | None, latents: Tensor | None) -> Tensor | None:
    """Leading latent frames that a noise mask keeps, ``[B, C, f, H, W]``, or ``None``.

    Raises:
        UnsupportedError: the mask keeps anything else than whole leading frames.
    """
    if mask is None or latents is None:
        return None
    by_frame = mask.movedim(2, 0).flatten(1)
    kept = [float(frame.max()) == 0.0 for frame in by_frame]
    count = kept.index(False) if False in kept else len(kept)
    if any(kept[count:]) or any(float(frame.min()) < 1.0 for frame in by_frame[count:]):
        raise UnsupportedError(
            "the noise mask keeps parts of frames; only whole frames at the beginning of the video can be kept"
        )
    return latents[:, :, :count] if count else None
