"""What the settings of a whole run's case mean to our plan, guidance, cache and texts."""

from __future__ import annotations

import torch

from motioncache_core.config import Magi1CacheConfig
from motioncache_core.models.magi1.architecture import NULL_CAPTION, NULL_TEXT_TOKENS
from motioncache_core.models.magi1.compression import Compression
from motioncache_core.models.magi1.guidance import OnePass, ThreePass
from motioncache_core.models.magi1.plan import TEMPORAL, SamplingSettings
from motioncache_core.models.magi1.schedule import stages
from motioncache_core.models.magi1.text import (
    MAX_TOKENS,
    options_of,
    special_tokens_from,
)

from ..folder import Case
from .compression import EMPHASES
from .texts import RunTexts, run_texts

_METRIC = "mean|m - m_prev| / (mean|m_prev| + 1e-8), m = patch embedding of the chunk's latents"
_PREFIX = (
    "full chunks are extracted once at clean_t with null text; the frames of a partly covered chunk are pasted into "
    "the model input at every step"
)
_COMPRESSION = {
    "budget": "clean tokens - tokens of one chunk, at least one chunk",
    "when": ("cache full, more chunks to come, and the youngest cached chunk has done steps / window steps"),
    "kept_order": "descending score; the rows stay in that order in the cache",
}


def settings_of(case: Case, chunk_wise: bool) -> SamplingSettings:
    """The plan's settings of a run case."""
    s = case.settings
    case.expect(
        nearly_clean_compare="float32 time against the double 0.3",
        t_schedule="sd3",
        cfg_passes=frozenset({1, 3}),
        distilled=s["cfg_passes"] == 1,
    )
    if s["cfg_passes"] == 3:
        guidance = ThreePass(tuple(s["guidance_t"]), tuple(s["guidance_history"]), tuple(s["guidance_text"]))
    else:
        nearly_clean = not s.get("discard_nearly_clean_chunk", False)
        guidance = OnePass(nearly_clean, s["nearly_clean_threshold"], s["history_share"])
    settings = SamplingSettings(
        frames=s["num_frames"] // TEMPORAL * TEMPORAL,
        steps=s["steps"],
        shift=s["shift"],
        shortcut=s["shortcut_mode"],
        chunk_frames=s["chunk_width"],
        window_chunks=s["window"],
        history_chunks=tuple(s["history_range"]),
        clean_chunks=s["clean_range"],
        clean_t=s["clean_t"],
        guidance=guidance,
        attention="chunk-wise" if chunk_wise else "staged window",
        clean_refresh=s["clean_refresh"],
        start_latents=s["prefix_latent_frames"],
    )
    _agree(case, settings)
    return settings


def _agree(case: Case, settings: SamplingSettings) -> None:
    """Note what a case tells of its run that is not what its settings make of it."""
    rest = settings.start_latents - settings.given_chunks * settings.chunk_frames
    stages_made = stages(settings.chunks, settings.window_chunks, settings.given_chunks)
    # a single given latent is a picture, which the first chunk shows again
    shortened = rest and settings.start_latents > 1
    rows, columns = (case.settings.get(name, 0) // 2 for name in ("latent_h", "latent_w"))
    case.expect(
        latent_frames=settings.chunks * settings.chunk_frames,
        tokens_per_chunk=settings.chunk_frames * rows * columns,
        total_forward_steps=len(stages_made) * (settings.steps // settings.window_chunks),
        emitted_chunks=settings.chunks - settings.given_chunks,
        prefix_chunks=settings.given_chunks,
        prefix_rest_frames=rest,
        prefix_rule=_PREFIX,
        first_emission=f"without the {rest} prefix frames" if shortened else "complete",
    )


def config_of(case: Case) -> Magi1CacheConfig:
    """The cache's settings of a cached run case."""
    s = case.settings
    dtype = case.record["dtype"]
    case.expect(
        first_and_last_step_of_run_full=True,
        metric=_METRIC,
        metric_dtype=dtype,
        reuse=frozenset({"chunk", "token"}),
        distance_mode=frozenset({"chunk", "token"}),
    )
    common = {
        "warmup_steps": s["warmup"],
        "chunk_threshold": s["chunk_threshold"],
        "rescale_residual": s["residual_rescale"],
    }
    if s["reuse"] == "chunk":
        middle = {"counts below warmup": 0, "counts 5 to 5 + warmup - 1": 5}[s["warmup_at"]]
        return Magi1CacheConfig(
            granularity="chunk", warmup_start=middle, recompute_on_entry=s["whole_calc_when_cross"], **common
        )
    voices = s.get("vote_more_than_frames")
    ramp = (s["initial_reuse_ratio"], s["final_reuse_ratio"])
    return Magi1CacheConfig(
        chunk_phase_updates=s["chunk_phase_steps"],
        token_threshold=s["token_threshold"],
        motion_floor=s["weight_floor"],
        motion_power=s["weight_power"],
        vote=min(voices / s["chunk_width"], 0.99) if s["vote"] else None,
        max_reuse_ratio=s["max_reuse_ratio"],
        distance_per_token=s["distance_mode"] == "token",
        weights_once=s["weights_once"],
        reuse_ramp=None if None in ramp else ramp,
        **common,
    )


def texts_of(case: Case, chunks: int, given_chunks: int) -> RunTexts:
    """Texts of all chunks: the stored beginning of the caption, zeros behind it, special tokens in front."""
    s = case.settings
    stored = case.input("caption_embs")[0, 0]
    valid = int(case.input("caption_mask").sum())
    case.expect(
        caption_length=MAX_TOKENS,
        caption_positions_stored=len(stored),
        caption_mask_ones=valid,
        null_tokens=NULL_TEXT_TOKENS,
    )
    caption = torch.zeros(MAX_TOKENS, stored.shape[1])
    caption[: len(stored)] = stored
    tokens = special_tokens_from(case.input("tokens"))
    options = options_of(s["special_tokens"], tokens)
    before_null = [tokens.vectors[name] for name in s.get("negative_special_tokens", [])]
    null = case.weights()[NULL_CAPTION].float()
    return run_texts(caption, options, null, chunks, prefix_chunks=given_chunks, valid=valid, before_null=before_null)


def compression_of(case: Case) -> Compression:
    """How a run compresses finished chunks."""
    settings = case.settings["kv_compression"]
    for name, known in _COMPRESSION.items():
        if settings.get(name, known) != known:
            case.notes.append(f"setting kv_compression.{name} is {settings[name]!r}, computed was {known!r}")
    return Compression(
        cache_chunks=settings["cache_chunks"],
        keep=settings["strategy"],
        queries=settings["query"],
        importance_share=settings["mix_lambda"],
        emphasis=EMPHASES[settings["position_weight"]],
        power=settings.get("power", Compression.power),
        kernel=settings.get("kernel", Compression.kernel),
    )
