"""The promises of the architecture, on the SkyReels-V2 family, with ComfyUI's own objects."""

from __future__ import annotations

import logging
from typing import Any

import comfy.model_management
import pytest
import torch
from torch import Tensor

from tests.nodes.early_ends import at_call, check_that_nothing_is_left, every_end, stop, structure

ATTENTIONS = ["chunk-wise", "vanilla full", "vanilla block-causal"]
FLOWCACHE = {"motion_floor": 1.0, "weight_norm": "min-max", "vote": None, "min_update_ratio": 0.0}


# -- 1. MotionCache off, and other samplers ----------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_off_is_bit_equal_to_no_node(mc, attention: str):
    apply = mc.module("nodes.cache").MotionCacheApply
    off = mc.sample(apply.execute(mc.load(), "off").args[0], attention=attention)
    plain = mc.sample(attention=attention)
    assert torch.equal(off.latents, plain.latents)
    assert off.summary["computed_fraction"] == 1.0
    assert off.summary["nothing_reused_because"] == "the cache is off"
    assert plain.summary["nothing_reused_because"] == "no MotionCache node is connected"


@pytest.mark.parametrize(
    ("attention", "granularity"),
    [("vanilla full", "token"), ("vanilla block-causal", "chunk"), ("chunk-wise", "step")],
)
def test_a_rule_that_does_not_fit_the_sampling_changes_nothing_and_says_so(
    mc, caplog: pytest.LogCaptureFixture, attention: str, granularity: str
):
    found = mc.sample(mc.cached(granularity=granularity), attention=attention)
    assert torch.equal(found.latents, mc.sample(attention=attention).latents)
    assert found.summary["nothing_reused_because"] in caplog.text
    assert "MotionCache is not active: " in caplog.text and "attention" in found.summary["nothing_reused_because"]


def test_a_stock_sampler_samples_plainly_and_the_log_says_that_the_cache_is_not_active(
    mc, caplog: pytest.LogCaptureFixture
):
    import nodes

    def stock(model: Any) -> Tensor:
        latent = {"samples": torch.zeros(1, 16, 3, 6, 8)}
        return nodes.common_ksampler(model, 5, 4, 3.0, "euler", "simple", mc.positive, mc.negative, latent)[0][
            "samples"
        ]

    plain = stock(mc.load())
    assert "MotionCache" not in caplog.text
    assert torch.equal(stock(mc.cached()), plain)
    (record,) = [record for record in caplog.records if "MotionCache is not active" in record.message]
    assert record.levelno == logging.WARNING
    assert plain.std() > 0.1


def test_our_samplers_do_not_warn(mc, caplog: pytest.LogCaptureFixture):
    mc.sample(mc.cached())
    assert "not active" not in caplog.text


# -- 2. threshold 0 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", ["token", "chunk"])
@pytest.mark.parametrize("threshold", [0.0, -1.0])
def test_a_threshold_of_zero_is_chunk_wise_sampling(mc, plain, granularity: str, threshold: float):
    model = mc.cached(granularity=granularity, chunk_threshold=threshold, token_threshold=threshold)
    found = mc.sample(model)
    assert torch.equal(found.latents, plain.latents)
    assert found.summary["computed_fraction"] == 1.0
    assert found.summary["branch_steps"] == {"full": 3 * 6 * 2, "partial": 0, "reused": 0}
    assert f"chunk_threshold is {threshold:g}; 0 or less" in found.summary["nothing_reused_because"]
    assert torch.equal(found.decisions.share_computed(), torch.ones(7, 3, 4))


def test_step_level_with_threshold_zero_is_vanilla_sampling(mc):
    model = mc.cached(granularity="step", chunk_threshold=0.0)
    found = mc.sample(model, attention="vanilla full")
    assert torch.equal(found.latents, mc.sample(attention="vanilla full").latents)
    assert found.summary["computed_fraction"] == 1.0


def test_above_zero_there_are_full_partial_and_reused_steps(mc, plain):
    """So that the other tests test something."""
    found = mc.sample(mc.cached())
    assert all(count > 0 for count in found.summary["branch_steps"].values())
    assert 0.3 < found.summary["computed_fraction"] < 1.0
    assert found.summary["nothing_reused_because"] is None
    assert (found.latents - plain.latents).abs().max() > 0.01
    assert found.latents.shape == plain.latents.shape and torch.isfinite(found.latents).all()


# -- 3. FlowCache's rule -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.06, 0.15])
@pytest.mark.parametrize("inputs", [{"steps": 12}, {"steps": 10, "ar_step": 0, "frames": 37}], ids=str)
def test_motion_floor_one_decides_for_whole_chunks_and_is_the_chunk_rule(mc, threshold: float, inputs: dict):
    both = {"chunk_threshold": threshold, "token_threshold": threshold}
    tokens = mc.sample(mc.cached(**FLOWCACHE, **both), **inputs)
    phase = [(outcome, done) for *_, phase, outcome, done in tokens.outcomes if phase == "token"]
    assert {outcome for outcome, _ in phase} == {"full", "reused"}
    chunks = mc.sample(mc.cached(granularity="chunk", **both), **inputs)
    assert all(phase != "token" for *_, phase, _, _ in chunks.outcomes)
    assert torch.equal(tokens.latents, chunks.latents)
    assert tokens.summary["token_forwards"] == chunks.summary["token_forwards"]


# -- 4. chunk-wise against block-causal --------------------------------------------------------------------------------

PLANS = {
    "three chunks": {},
    "short last chunk": {"frames": 33, "chunk_size": 4},
    "chunks of one frame": {"frames": 17, "chunk_size": 1, "steps": 4, "ar_step": 1},
    "one chunk": {"frames": 9},
    "together": {"ar_step": 0},
    "one after the other": {"ar_step": 6, "frames": 33},
    "windows": {"frames": 57, "window": 33, "overlap": 9},
    "windows with an odd overlap and a short last one": {"frames": 61, "window": 33, "overlap": 17, "chunk_size": 4},
    "history without noise": {"frames": 41, "window": 25, "overlap": 5, "history_noise": 0},
    "euler": {"solver": "euler", "frames": 33},
    "no guidance": {"guidance": 1.0, "frames": 33},
    "16 frames a second": {"fps": 16.0},
}


@pytest.mark.parametrize("name", PLANS)
def test_with_clean_refresh_it_is_the_block_causal_run(mc, name: str):
    refreshed = mc.sample(clean_refresh=True, **PLANS[name])
    whole = mc.sample(attention="vanilla block-causal", **PLANS[name])
    assert whole.latents.std() > 0.3
    mc.assert_near(refreshed.latents, whole.latents, 1e-4)


@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize("chunk_size", [3, 2])
def test_with_clean_refresh_it_is_the_block_causal_run_behind_given_frames(mc, frames: int, chunk_size: int):
    start = {"samples": torch.randn(1, 16, frames, 6, 8, generator=torch.Generator().manual_seed(3))}
    inputs = {"start_latents": start, "frames": 33, "chunk_size": chunk_size}
    refreshed = mc.sample(clean_refresh=True, **inputs)
    whole = mc.sample(attention="vanilla block-causal", **inputs)
    mc.assert_near(refreshed.latents, whole.latents, 1e-4)
    mc.assert_near(refreshed.latents[:, :, :frames], start["samples"], 1e-5)


def test_without_refresh_it_is_an_approximation_and_says_so(mc, plain):
    whole = mc.sample(attention="vanilla block-causal")
    assert (plain.latents - whole.latents).abs().max() > 0.01
    assert any("clean refresh is off" in note for note in plain.report["notes"])
    assert not any("clean refresh is off" in note for note in whole.report["notes"])
    refreshed = mc.sample(clean_refresh=True)
    assert not any("clean refresh is off" in note for note in refreshed.report["notes"])
    assert refreshed.summary["token_forwards_context_and_refresh"] > 0


@pytest.mark.parametrize("inputs", [{"steps": 1, "ar_step": 0}, {"ar_step": 0}, {"ar_step": 0, "frames": 37}], ids=str)
def test_where_all_chunks_step_together_nothing_needs_a_refresh(mc, inputs: dict):
    mc.assert_near(mc.sample(**inputs).latents, mc.sample(attention="vanilla block-causal", **inputs).latents, 1e-5)


def test_full_attention_is_another_model(mc):
    full, causal = (mc.sample(attention=attention).latents for attention in ATTENTIONS[1:])
    assert (full - causal).abs().max() > 0.05


# -- 5. a run leaves nothing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inputs", [{}, {"frames": 57, "window": 33}, {"clean_refresh": True}], ids=str)
def test_the_same_model_sampled_twice_gives_the_same_and_keeps_nothing(mc, left_behind, inputs: dict):
    model = mc.cached()
    options, patches = structure(model.model_options), dict(model.patches)
    first, second = mc.sample(model, **inputs), mc.sample(model, **inputs)
    assert torch.equal(first.latents, second.latents)
    assert first.timeless == second.timeless
    assert torch.equal(first.decisions.share_computed(), second.decisions.share_computed())
    assert structure(model.model_options) == options
    assert model.patches.keys() == patches.keys()
    assert left_behind() == []


@every_end
@pytest.mark.parametrize("number", [0, 7, 12])
def test_state_is_gone_after_an_interrupt_or_an_error_and_the_next_run_is_bit_equal(
    mc, monkeypatch: pytest.MonkeyPatch, left_behind, what: Any, error: type[Exception], number: int
):
    check_that_nothing_is_left(mc, monkeypatch, left_behind, what, error, number)


def test_an_interrupt_is_obeyed_at_the_next_call(mc, monkeypatch: pytest.MonkeyPatch):
    seen = []
    relay = mc.module("nodes.host.session")._Relay
    begin = relay.begin
    monkeypatch.setattr(relay, "begin", lambda self, call: seen.append(call.index) or begin(self, call))
    with at_call(monkeypatch, 4, stop), pytest.raises(comfy.model_management.InterruptProcessingException):
        mc.sample()
    assert seen == [0, 1, 2, 3, 4]


def test_other_samplers_on_the_same_model_are_not_touched_by_a_run(mc, plain):
    import nodes

    def stock(model: Any) -> Tensor:
        latent = {"samples": torch.zeros(1, 16, 3, 6, 8)}
        return nodes.common_ksampler(model, 5, 3, 3.0, "euler", "simple", mc.positive, mc.negative, latent)[0][
            "samples"
        ]

    model = mc.load()
    before = stock(model)
    assert torch.equal(mc.sample(model).latents, plain.latents)
    assert torch.equal(stock(model), before)
    assert torch.equal(mc.sample(model).latents, plain.latents)


def test_two_models_with_other_settings_do_not_mix(mc, plain):
    base = mc.load()
    cached, strict = mc.cached(base), mc.cached(base, token_threshold=0.0, chunk_threshold=0.0)
    first = mc.sample(cached)
    assert torch.equal(mc.sample(strict).latents, plain.latents)
    assert torch.equal(mc.sample(base).latents, plain.latents)
    assert torch.equal(mc.sample(cached).latents, first.latents)
