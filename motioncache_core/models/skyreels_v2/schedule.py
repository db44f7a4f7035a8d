"""The diffusion-forcing schedule of SkyReels-V2: noise levels, integer timesteps, and who steps in which row.

Source: SkyReels-V2 (arXiv 2504.13074), its public pipeline and FlowUniPC scheduler; facts only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TRAIN_TIMESTEPS = 1000
SIGMA_START = float(np.float32(0.999))


def sigma_table(steps: int, shift: float) -> tuple[float, ...]:
    """``steps + 1`` noise levels, falling, the last one 0, as float32 values.

    Levels are spaced evenly from 0.999 and then shifted: s*x / (1 + (s-1)*x).
    """
    even = np.linspace(SIGMA_START, 0.0, steps + 1)[:-1]
    shifted = shift * even / (1.0 + (shift - 1.0) * even)
    return (*(float(s) for s in shifted.astype(np.float32)), 0.0)


def timesteps_of(sigmas: tuple[float, ...]) -> tuple[int, ...]:
    """Integer timesteps of the noise levels (the last one left out): truncated, not rounded, as the model learnt."""
    return tuple(int(np.float32(s) * np.float32(TRAIN_TIMESTEPS)) for s in sigmas[:-1])


def chunk_sizes(frames: int, block: int, ready: int = 0, quirks: frozenset[str] = frozenset()) -> tuple[list[int], int]:
    """Cut a window into chunks: (sizes in latent frames, how many of the leading ones are ready).

    Ready frames form their own chunks, the last of them shorter where they do not fill one; so does the window's
    end. Quirk ``trailing_frames_dropped`` leaves out an end that does not fill a block, quirk ``ready_frames_floored``
    cuts from frame 0 and counts only whole ready blocks.
    """
    floored = "ready_frames_floored" in quirks
    context = [] if floored else _cut(ready, block)
    sizes = context + _cut(frames - sum(context), block)
    if "trailing_frames_dropped" in quirks and sizes[-1] < block:
        sizes.pop()
    return sizes, ready // block if floored else len(context)


def _cut(frames: int, block: int) -> list[int]:
    return [min(block, frames - start) for start in range(0, frames, block)]


@dataclass(frozen=True)
class Row:
    """One row of the schedule: each chunk's position on the ladder, and which chunks step in this row.

    A position is the number of steps that have begun: 0 not started, ``i`` at timestep ``i - 1``, ``clean`` (one more
    than there are steps) at the end.

    Args:
        foremost: position of the first chunk that is not ready, as if the ladder had no end.
        ready: leading chunks that are clean from the start.
        ar_step: positions between neighbours.
        clean: the last position.
        stepping: chunks that make a step, in order.
        interval: first and one past the last chunk that the base window covers.
    """

    foremost: int
    ready: int
    ar_step: int
    clean: int
    stepping: range
    interval: tuple[int, int]

    def position(self, chunk: int) -> int:
        """Where a chunk stands."""
        if chunk < self.ready:
            return self.clean
        return min(max(self.foremost - (chunk - self.ready) * self.ar_step, 0), self.clean)


def rows(steps: int, chunks: int, ready_chunks: int, ar_step: int, window_chunks: int | None = None) -> list[Row]:
    """The asynchronous schedule, row by row, until every chunk has made its last step.

    A chunk begins ``ar_step`` rows after its left neighbour and then steps in every row; ``ar_step`` 0 moves all
    together. (As published a chunk stays ``ar_step`` positions behind its neighbour, and moves by itself once that one
    is done: the same for an ``ar_step`` up to ``steps``; a larger one counts as ``steps``.)

    Raises:
        ValueError: more chunks than ``window_chunks`` at an ``ar_step`` so small that chunks would leave the window
            before they are clean; the message names the smallest legal value.
    """
    window_chunks = chunks if window_chunks is None else window_chunks
    if window_chunks < chunks and ar_step * window_chunks < steps:
        nearest = -(-steps // window_chunks)
        raise ValueError(
            f"ar_step is {ar_step}; with {chunks} chunks in a window of {window_chunks} and {steps} steps it must be "
            f"at least {nearest}"
        )
    generated, apart, end = chunks - ready_chunks, min(ar_step, steps), window_chunks
    result = []
    for row in range(steps + (generated - 1) * apart if generated > 0 else 0):
        first = max(-(-(row + 1 - steps) // apart), 0) if apart else 0
        last = min(row // apart, generated - 1) if apart else generated - 1
        stepping = range(ready_chunks + first, ready_chunks + last + 1)
        if end < chunks and end in stepping:
            end += 1
        interval = max(end - window_chunks, 0), end
        result.append(Row(row + 1, ready_chunks, apart, steps + 1, stepping, interval))
    return result


def timestep_at(position: int, timesteps: tuple[int, ...]) -> int:
    """Timestep of a position: 999 before the start, 0 once clean."""
    if position == 0:
        return TRAIN_TIMESTEPS - 1
    return 0 if position > len(timesteps) else timesteps[position - 1]
