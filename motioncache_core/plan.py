"""The plan: every model call of a run, fixed before sampling, as plain data that can be drawn."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import accumulate
from operator import attrgetter
from typing import Literal

Kind = Literal["denoise", "context", "refresh"]


class PlanError(ValueError):
    """Settings that cannot be planned; the message names the input, its value and the nearest legal value."""


@dataclass(frozen=True)
class Chunk:
    """Latent frames of a window that share a place in the schedule.

    Args:
        place: position in the window, 0 first.
        start, stop: its latent frames in the window.
        number: its number in the video, for noise; ``None`` for context (history or a start image).
    """

    place: int
    start: int
    stop: int
    number: int | None

    @property
    def frames(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Window:
    """One stretch of the video that is sampled together.

    Args:
        start: its first latent frame in the video.
        frames: its latent frames, the context included.
        context: leading latent frames that are given, not generated. A chunk may begin among them; the network sees
            them as given in every step.
        remakes_context: whether the last step's outcome for given frames of such a chunk goes into the video.
    """

    index: int
    start: int
    frames: int
    context: int
    chunks: tuple[Chunk, ...]
    remakes_context: bool = False


@dataclass(frozen=True)
class Part:
    """What a call does with one chunk.

    Args:
        chunk: place of the chunk in the window.
        start, stop: its latent frames in the window.
        timestep: noise level as the network wants it.
        sigma, sigma_next: the solver's levels now and after the step; context: its noise share, refresh: 0.
        step: number of the solver step, -1 if the chunk is only shown.
        reads: latent frames of the window whose keys and values it attends to; ``None``: as its call says.
        branches: passes that it takes, with their shares of its velocity, where the plan decides this and not the
            guider. A share of 0: the pass is made for its keys and values.
        settled: of the frames before this one all branches read the keys and values that one branch stored.
        stride: length of the step as a distilled network is told it, 0: it is not told.
    """

    chunk: int
    start: int
    stop: int
    timestep: float
    sigma: float
    sigma_next: float
    step: int
    reads: tuple[int, int] | None = None
    branches: tuple[tuple[str, float], ...] = ()
    settled: int = 0
    stride: float = 0.0

    @property
    def frames(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Call:
    """One pass of the network.

    Args:
        index: place in the plan.
        kind: ``denoise`` steps; ``context`` writes keys and values of given frames; ``refresh`` writes those of a
            clean chunk.
        window, row: place in the schedule.
        parts: chunks covered, in order and adjacent. Chunk-wise sampling has one, vanilla sampling all of a window.
        sigma: noise level that the guider is told.
        reads: latent frames of the window whose keys and values the last part attends to.
        writes: whether keys and values are stored.
        causal: whether a part attends to itself and earlier parts only.
        prompt: which segment's prompt holds.
    """

    index: int
    kind: Kind
    window: int
    row: int
    parts: tuple[Part, ...]
    sigma: float
    reads: tuple[int, int]
    writes: bool
    causal: bool
    prompt: int = 0

    @property
    def start(self) -> int:
        return self.parts[0].start

    @property
    def stop(self) -> int:
        return self.parts[-1].stop

    @property
    def frames(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Plan:
    """A whole run.

    Args:
        family: model family that planned it.
        latent_frames: length of the video.
        steps: denoising steps of every chunk.
        sigmas: ``steps + 1`` levels.
        chunk_frames: latent frames of a full chunk.
        chunk_wise: one chunk a call with stored keys and values, else the whole window a call.
        causal: a chunk attends to itself and earlier chunks only.
        clean_refresh: finished chunks are passed once more, clean.
        calls: in order, window by window.
    """

    family: str
    latent_frames: int
    steps: int
    sigmas: tuple[float, ...]
    chunk_frames: int
    chunk_wise: bool
    causal: bool
    clean_refresh: bool
    windows: tuple[Window, ...]
    calls: tuple[Call, ...]

    def calls_of(self, window: int) -> tuple[Call, ...]:
        """The calls of one window."""
        of_window = attrgetter("window")
        first = bisect_left(self.calls, window, key=of_window)
        return self.calls[first : bisect_right(self.calls, window, first, key=of_window)]

    @property
    def stored_frames(self) -> int:
        """How many successive latent frames of a window have keys and values that are needed at one time, at most."""
        return max(self._stored_frames(window.index) for window in self.windows)

    def _stored_frames(self, window: int) -> int:
        calls = self.calls_of(window)
        newest = list(accumulate((call.stop for call in calls), max))
        oldest = list(accumulate((call.reads[0] for call in reversed(calls)), min))
        return max(last - first for last, first in zip(newest, reversed(oldest), strict=True))
