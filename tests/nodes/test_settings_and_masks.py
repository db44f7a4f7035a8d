"""The MotionCache node's settings, the report, and decisions as masks."""

from __future__ import annotations

import json

import pytest
import torch


def test_the_cache_node_says_what_it_cannot_serve_and_passes_it_on(mc, caplog: pytest.LogCaptureFixture):
    """A Wan image-to-video network of ComfyUI's."""
    import comfy.sd

    from tools import tiny_checkpoints

    weights = tiny_checkpoints.without_fps(tiny_checkpoints.transformer())
    weights["patch_embedding.weight"] = torch.zeros(128, 36, 1, 2, 2)
    for name, shape in {"0": (1280,), "1": (1280, 1280), "3": (128, 1280), "4": (128,)}.items():
        weights[f"img_emb.proj.{name}.weight"] = torch.zeros(shape)
        weights[f"img_emb.proj.{name}.bias"] = torch.zeros(shape[0])
    for block in range(2):
        for layer in ("k_img", "v_img"):
            weights[f"blocks.{block}.cross_attn.{layer}.weight"] = torch.zeros(128, 128)
            weights[f"blocks.{block}.cross_attn.{layer}.bias"] = torch.zeros(128)
        weights[f"blocks.{block}.cross_attn.norm_k_img.weight"] = torch.ones(128)
    model = comfy.sd.load_diffusion_model_state_dict(weights)
    assert model.model.diffusion_model.model_type == "i2v"
    apply = mc.module("nodes.cache").MotionCacheApply
    assert apply.execute(model, next(iter(mc.module("motioncache_core.presets").PRESETS))).args[0] is model
    assert "image-to-video model" in caplog.text and "It passes unchanged." in caplog.text
    with pytest.raises(ValueError, match="image-to-video model"):
        mc.sample(model)


def test_a_preset_measures_the_picture_where_no_polynomial_is_known(mc, caplog: pytest.LogCaptureFixture):
    apply = mc.module("nodes.cache").MotionCacheApply
    presets = mc.module("motioncache_core.presets").PRESETS
    support = mc.module("nodes.host.model_support")
    model = mc.load()
    for name, preset in presets.items():
        caplog.clear()
        patched = apply.execute(model, name).args[0]
        config = support.attached_config(patched.model_options)
        assert support.attached_config(model.model_options) is None, "the MODEL that came in is not touched"
        kept = preset.granularity == "off" or preset.distance == "table"
        assert config == (preset if kept else preset.with_changes(distance="patch embedding"))
        assert ("No published distance is known for a model of width 128" in caplog.text) is not kept
        assert ("measured on the tiny world" in caplog.text) is (preset.distance == "table")


def test_own_knobs_reach_the_run(mc):
    cache = mc.module("nodes.cache")
    knobs = cache.knobs_of(mc.config(granularity="chunk", chunk_threshold=0.3))
    patched = cache.MotionCacheApply.execute(mc.load(), cache.CUSTOM, **knobs).args[0]
    found = mc.sample(patched, steps=8)
    assert found.report["config"]["chunk_threshold"] == 0.3 and found.report["config"]["granularity"] == "chunk"
    assert found.outcomes == mc.sample(mc.cached(granularity="chunk", chunk_threshold=0.3), steps=8).outcomes


def test_knobs_and_presets_are_each_others_inverse(mc):
    cache = mc.module("nodes.cache")
    for preset in mc.module("motioncache_core.presets").PRESETS.values():
        assert cache.custom_config(type(preset), **cache.knobs_of(preset)) == preset


@pytest.mark.parametrize("text", ["", "999:0", "999-0, 5:1", "a:b, c:d"])
def test_a_table_that_cannot_be_read_is_refused(mc, text: str):
    cache = mc.module("nodes.cache")
    with pytest.raises(ValueError, match="distance_table has"):
        cache.read_table(text)
    assert "distance_table" in cache.MotionCacheApply.validate_inputs(cache.CUSTOM, "table", text)


def test_a_table_is_pairs_in_any_order(mc):
    cache = mc.module("nodes.cache")
    assert cache.read_table(" 999:0,500 : 0.8 ,0:2.1,") == ((999.0, 0.0), (500.0, 0.8), (0.0, 2.1))
    table = {"distance": "table", "distance_table": ((1000.0, 0.0), (0.0, 1.0))}
    found = mc.sample(mc.cached(**table), steps=8)
    distances = {b["distance"] for call in found.report["calls"] for b in call["branches"]}
    steps = [call.parts[0].timestep for call in mc.plan(steps=8).calls if call.parts[0].chunk == 0]
    expected = {(a - b) / 1000 for a, b in zip(steps[1:], steps[2:], strict=False)}
    assert {round(d, 6) for d in distances - {None}} == {round(d, 6) for d in expected}


def test_decisions_are_masks_of_the_video(mc):
    from_run = mc.sample(mc.cached(), steps=8)
    node = mc.module("nodes.preview").MotionCacheDecisionMask
    share = node.execute(from_run.decisions, "share of steps recomputed", 0).args[0]
    assert share.shape == (25, 48, 64)
    by_frame = from_run.decisions.share_computed().repeat_interleave(torch.tensor([1] + [4] * 6), dim=0)
    assert torch.equal(share[:, 8::16, 8::16], by_frame)
    assert torch.equal(node.execute(from_run.decisions, "one step", 0).args[0], torch.ones(25, 48, 64))
    later = node.execute(from_run.decisions, "one step", 7).args[0]
    assert 0 <= later.min() < 1
    with pytest.raises(ValueError, match=r"step is 8; the run has steps 0 to 7 \(nearest: 7\)"):
        node.execute(from_run.decisions, "one step", 8)


def test_the_report_is_json_and_its_share_is_that_of_the_picture(mc):
    found = mc.sample(mc.cached(), steps=8)
    assert json.loads(json.dumps(found.report))["format"] == "motioncache_report"
    assert found.decisions.share_computed().mean().item() == pytest.approx(found.summary["computed_fraction"], abs=0.01)


def test_motion_can_be_seen_on_the_clean_prediction(mc):
    noisy, clean, again = (
        mc.sample(mc.cached(motion_source=source), steps=8)
        for source in ("published", "clean prediction", "clean prediction")
    )
    assert torch.equal(clean.latents, again.latents)
    weights = [
        torch.cat([e.weights.flatten() for e in found.decisions.entries if e.weights is not None])
        for found in (noisy, clean)
    ]
    assert weights[0].shape == weights[1].shape and not torch.equal(*weights)
    assert not torch.equal(noisy.latents, clean.latents)
    with pytest.raises(ValueError, match="motion_source is 'clean prediction'; it must be one of 'published'"):
        mc.module("motioncache_core.config").Magi1CacheConfig(motion_source="clean prediction")
