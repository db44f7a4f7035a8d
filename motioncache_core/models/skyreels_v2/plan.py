"""Plans SkyReels-V2 diffusion-forcing runs: windows, chunks, and every call, or a refusal before anything is loaded."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Literal, get_args

from ...plan import Call, Chunk, Part, Plan, PlanError, Window
from .schedule import TRAIN_TIMESTEPS, Row, chunk_sizes, rows, sigma_table, timestep_at, timesteps_of

FAMILY = "skyreels_v2"
Attention = Literal["chunk-wise", "vanilla full", "vanilla block-causal"]
TEMPORAL = 4
"""Pixel frames a latent frame after the first, which stands for one."""


@dataclass(frozen=True)
class SamplingSettings:
    """What decides the plan.

    Args:
        frames: pixel frames of the video, 1 + 4k.
        steps: denoising steps of every chunk.
        shift: of the noise levels towards noise; ignored when ``sigmas`` is given.
        chunk_frames: latent frames of a chunk.
        ar_step: steps a chunk stays behind its left neighbour; 0: all chunks step together.
        window_frames: pixel frames of one window, 1 + 4k; a longer video takes several.
        overlap_frames: pixel frames of history that a later window starts from, 1 + 4k.
        history_noise: timestep (0..999) up to which history and start frames are noised, to soften their errors.
        attention: one chunk a call with stored keys and values, or the whole window with full or block-causal
            attention.
        clean_refresh: pass finished chunks once more, clean (chunk-wise only).
        start_latents: latent frames given at the beginning (start image or clip).
        sigmas: own noise levels, falling, the last one 0.
        sliding: no overlap windows: the video is one take, and every chunk attends to itself and the whole chunks
            within ``window_frames`` before its end (chunk-wise only). Rotary positions count on, but attention
            sees only their distances, which stay within the window.
    """

    frames: int = 97
    steps: int = 30
    shift: float = 8.0
    chunk_frames: int = 5
    ar_step: int = 5
    window_frames: int = 97
    overlap_frames: int = 17
    history_noise: int = 20
    attention: Attention = "chunk-wise"
    clean_refresh: bool = False
    start_latents: int = 0
    sigmas: tuple[float, ...] | None = None
    sliding: bool = False


def latent_length(frames: int) -> int:
    """Latent frames of 1 + 4k pixel frames."""
    return (frames - 1) // TEMPORAL + 1


def pixel_length(latents: int) -> int:
    """Pixel frames of a number of latent frames."""
    return (latents - 1) * TEMPORAL + 1


def build_plan(settings: SamplingSettings) -> Plan:
    """The run's windows and calls in order. Raises PlanError for settings that cannot be sampled."""
    _check(settings)
    sigmas = settings.sigmas or sigma_table(settings.steps, settings.shift)
    timesteps = timesteps_of(sigmas)
    windows = _windows(settings)
    calls: list[Call] = []
    for window in windows:
        ready = sum(chunk.number is None for chunk in window.chunks)
        schedule = rows(len(timesteps), len(window.chunks), ready, settings.ar_step)
        if settings.attention == "chunk-wise":
            calls += _chunk_wise(window, schedule, sigmas, timesteps, settings, len(calls))
        else:
            calls += _vanilla(window, schedule, sigmas, timesteps, settings, len(calls))
    return Plan(
        family=FAMILY,
        latent_frames=latent_length(settings.frames),
        steps=len(timesteps),
        sigmas=sigmas,
        chunk_frames=settings.chunk_frames,
        chunk_wise=settings.attention == "chunk-wise",
        causal=settings.attention != "vanilla full",
        clean_refresh=settings.clean_refresh and settings.attention == "chunk-wise",
        windows=tuple(windows),
        calls=tuple(calls),
    )


def _windows(settings: SamplingSettings) -> list[Window]:
    total = latent_length(settings.frames)
    length = total if settings.sliding else min(latent_length(settings.window_frames), total)
    overlap = latent_length(settings.overlap_frames)
    windows: list[Window] = []
    start, context, number = 0, settings.start_latents, 0
    while True:
        frames = min(length, total - start)
        sizes, ready = chunk_sizes(frames, settings.chunk_frames, context)
        chunks, at = [], 0
        for place, size in enumerate(sizes):
            generated = place >= ready
            chunks.append(Chunk(place, at, at + size, number if generated else None))
            number += generated
            at += size
        windows.append(Window(len(windows), start, frames, context, tuple(chunks)))
        if start + frames == total:
            return windows
        start, context = start + frames - overlap, overlap


def _part(chunk: Chunk, row: Row, sigmas: tuple[float, ...], timesteps: tuple[int, ...], history_noise: int) -> Part:
    if chunk.number is None:
        return _context_part(chunk, history_noise)
    position = row.position(chunk.place)
    timestep = timestep_at(position, timesteps)
    if chunk.place not in row.stepping:
        return Part(chunk.place, chunk.start, chunk.stop, timestep, 0.0, 0.0, -1)
    step = position - 1
    return Part(chunk.place, chunk.start, chunk.stop, timestep, sigmas[step], sigmas[step + 1], step)


def _context_part(chunk: Chunk, history_noise: int) -> Part:
    level = history_noise / TRAIN_TIMESTEPS
    return Part(chunk.place, chunk.start, chunk.stop, history_noise, level, level, -1)


def _chunk_wise(
    window: Window,
    schedule: list[Row],
    sigmas: tuple[float, ...],
    timesteps: tuple[int, ...],
    settings: SamplingSettings,
    first_index: int,
) -> list[Call]:
    calls: list[Call] = []
    sight = latent_length(settings.window_frames) if settings.sliding else window.frames
    starts = [chunk.start for chunk in window.chunks]

    def add(kind: Literal["denoise", "context", "refresh"], row: int, part: Part, sigma: float) -> None:
        index, oldest = first_index + len(calls), starts[bisect_left(starts, part.stop - sight)]
        calls.append(Call(index, kind, window.index, row, (part,), sigma, (oldest, part.stop), True, True))

    for chunk in window.chunks:
        if chunk.number is None:
            add("context", 0, _context_part(chunk, settings.history_noise), sigmas[0])
    for r, row in enumerate(schedule):
        finished = []
        for chunk in (window.chunks[place] for place in row.stepping):
            part = _part(chunk, row, sigmas, timesteps, settings.history_noise)
            add("denoise", r, part, part.sigma)
            if part.step == len(timesteps) - 1:
                finished.append(chunk)
        if settings.clean_refresh and r + 1 < len(schedule):
            for chunk in finished:
                clean = Part(chunk.place, chunk.start, chunk.stop, 0, 0.0, 0.0, -1)
                add("refresh", r, clean, sigmas[-2])
    return calls


def _vanilla(
    window: Window,
    schedule: list[Row],
    sigmas: tuple[float, ...],
    timesteps: tuple[int, ...],
    settings: SamplingSettings,
    first_index: int,
) -> list[Call]:
    calls = []
    for r, row in enumerate(schedule):
        parts = tuple(_part(c, row, sigmas, timesteps, settings.history_noise) for c in window.chunks)
        sigma = max(part.sigma for part in parts if part.step >= 0)
        index, causal = first_index + r, settings.attention == "vanilla block-causal"
        calls.append(Call(index, "denoise", window.index, r, parts, sigma, (0, window.frames), False, causal))
    return calls


def _check(s: SamplingSettings) -> None:
    if s.attention not in get_args(Attention):
        raise PlanError(f"attention is {s.attention!r}; it must be one of {', '.join(map(repr, get_args(Attention)))}")
    _at_least("steps", s.steps, 1)
    _at_least("chunk_size", s.chunk_frames, 1)
    _pixel_frames("frames", s.frames)
    _pixel_frames("window", s.window_frames, low=1 + TEMPORAL)  # room for history and for something new
    if s.sigmas is None and not s.shift > 0:
        raise PlanError(f"shift is {s.shift}; it must be above 0 (nearest: 0.01)")
    if s.sigmas is not None:
        _check_sigmas(s.sigmas)
    steps = s.steps if s.sigmas is None else len(s.sigmas) - 1
    if not 0 <= s.ar_step <= steps:
        nearest = min(max(s.ar_step, 0), steps)
        raise PlanError(f"ar_step is {s.ar_step}; it must lie between 0 and the {steps} steps (nearest: {nearest})")
    if not 0 <= s.history_noise < TRAIN_TIMESTEPS:
        nearest = min(max(s.history_noise, 0), TRAIN_TIMESTEPS - 1)
        raise PlanError(f"history_noise is {s.history_noise}; it must lie between 0 and 999 (nearest: {nearest})")
    if s.sliding:
        _check_sliding(s)
    total = latent_length(s.frames)
    window = total if s.sliding else min(latent_length(s.window_frames), total)
    if s.start_latents < 0 or s.start_latents >= window:
        needed = pixel_length(s.start_latents + 1)
        raise PlanError(
            f"the given start fills {s.start_latents} latent frames, but the first window has only {window}; "
            f"frames and window must be at least {needed}"
        )
    if total > window:
        longest = pixel_length(window - 1)
        if s.overlap_frames > longest:
            raise PlanError(
                f"overlap is {s.overlap_frames} frames; it must be shorter than the window of {s.window_frames} "
                f"(nearest: {longest})"
            )
        _pixel_frames("overlap", s.overlap_frames)


def _check_sliding(s: SamplingSettings) -> None:
    if s.attention != "chunk-wise":
        raise PlanError(f"attention is {s.attention!r}; a sliding window works with 'chunk-wise' only")
    if latent_length(s.window_frames) <= s.chunk_frames:
        least = pixel_length(s.chunk_frames + 1)
        raise PlanError(
            f"window is {s.window_frames} frames, no longer than a chunk of {s.chunk_frames} latent frames; a chunk "
            f"would see nothing before it (nearest: {least})"
        )


def _at_least(name: str, value: int, low: int) -> None:
    if value < low:
        raise PlanError(f"{name} is {value}; it must be at least {low} (nearest: {low})")


def _pixel_frames(name: str, value: int, low: int = 1) -> None:
    if value < low:
        raise PlanError(f"{name} is {value} frames; it must be 1 + a multiple of 4, at least {low} (nearest: {low})")
    if (value - 1) % TEMPORAL:
        below = pixel_length(latent_length(value))
        legal = f"{below} or {below + TEMPORAL}"
        raise PlanError(f"{name} is {value} frames; it must be 1 + a multiple of 4 (nearest: {legal})")


def _check_sigmas(sigmas: tuple[float, ...]) -> None:
    falling = all(a > b for a, b in zip(sigmas, sigmas[1:], strict=False))
    if len(sigmas) < 2 or not falling or sigmas[-1] != 0.0 or sigmas[0] > 1.0:
        shown = ", ".join(f"{s:g}" for s in sigmas[:6])
        raise PlanError(f"sigmas are [{shown}, ...]; they must fall from at most 1 to 0, with no value twice")
