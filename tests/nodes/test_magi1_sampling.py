"""The promises of the architecture on the MAGI-1 family, with ComfyUI's own objects and tiny random weights.

A run here is 64 x 48 pixels, that is 4 x 3 tokens a latent frame, and 2 or 3 chunks of 6 latent frames.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import pytest
import torch
from torch import Tensor

from tests.nodes.early_ends import check_that_nothing_is_left, every_end, structure
from tools import tiny_magi1

BASE = "4.5B_base/inference_weight/model-00001-of-00002.safetensors"
DISTILLED = tiny_magi1.MERGED
QUANTISED = "4.5B_distill_quant/inference_weight.fp8.distill/model.safetensors"
LARGE = "MAGI-1_24B_base.safetensors"
UNNAMED = "magi.safetensors"
LATENTS_OF_A_CHUNK = 6
VANILLA = {"attention": "vanilla (window together)"}


@pytest.fixture(scope="module")
def plain(_magi: Any) -> Any:
    """The default run without a cache."""
    with torch.inference_mode():
        return _magi.sample()


def start(frames: int, batch: int = 1) -> dict[str, Tensor]:
    return {"samples": torch.randn(batch, 16, frames, 6, 8, generator=torch.Generator().manual_seed(3))}


# -- 1. MotionCache off, and other samplers ----------------------------------------------------------------------------


def test_off_is_bit_equal_to_no_node(magi: Any, plain: Any):
    apply = magi.mc.module("nodes.cache").MotionCacheApply
    off = magi.sample(apply.execute(magi.load(), "off").args[0])
    assert torch.equal(off.latents, plain.latents)
    assert off.summary["computed_fraction"] == 1.0
    assert off.summary["nothing_reused_because"] == "the cache is off"
    assert plain.summary["nothing_reused_because"] == "no MotionCache node is connected"
    assert plain.latents.shape == (1, 16, 12, 6, 8) and plain.latents.std() > 0.1


def test_with_the_window_together_the_cache_changes_nothing_and_says_so(magi: Any, caplog: pytest.LogCaptureFixture):
    found = magi.sample(magi.cached(), **VANILLA)
    assert torch.equal(found.latents, magi.sample(**VANILLA).latents)
    assert found.summary["nothing_reused_because"] in caplog.text
    assert "set attention to 'chunk-wise'" in caplog.text


def test_stock_samplers_are_refused_with_the_node_to_use(magi: Any):
    import nodes

    latent = {"samples": torch.zeros(1, 16, 6, 6, 8)}
    with pytest.raises(ValueError, match="use the node 'MAGI-1 sampler'"):
        nodes.common_ksampler(magi.load(), 5, 2, 1.0, "euler", "simple", magi.positive, magi.mc.prompt(1), latent)


def test_each_family_has_its_own_sampler(magi: Any):
    with pytest.raises(ValueError, match="This MODEL is MAGI-1; use the node 'MAGI-1 sampler'"):
        magi.mc.sample(magi.load())
    with pytest.raises(ValueError, match=r"This MODEL is SkyReels-V2 .*; use the node 'Autoregressive sampler'"):
        magi.sample(magi.mc.load())


# -- 2. threshold 0 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", ["token", "chunk"])
@pytest.mark.parametrize("name", [BASE, DISTILLED])
def test_a_threshold_of_zero_computes_everything(magi: Any, granularity: str, name: str):
    model = magi.cached(magi.load(name), granularity=granularity, chunk_threshold=0.0, token_threshold=0.0)
    found = magi.sample(model)
    assert torch.equal(found.latents, magi.sample(magi.load(name)).latents)
    assert found.summary["computed_fraction"] == 1.0
    assert found.summary["branch_steps"] == {"full": 2 * 8, "partial": 0, "reused": 0}
    assert "chunk_threshold is 0; 0 or less" in found.summary["nothing_reused_because"]


@pytest.mark.parametrize("name", [BASE, DISTILLED, QUANTISED, LARGE])
def test_above_zero_there_are_full_partial_and_reused_steps(magi: Any, name: str):
    """So that the other tests test something."""
    model = magi.load(name)
    # the random weights of the large layout move the latents in larger steps
    large = {"chunk_threshold": 0.15, "token_threshold": 0.4} if name == LARGE else {}
    found = magi.sample(magi.cached(model, **large))
    assert all(count > 0 for count in found.summary["branch_steps"].values())
    assert 0.3 < found.summary["computed_fraction"] < 1.0
    assert found.summary["flops"] < found.summary["flops_without_reuse"]
    assert (found.latents - magi.sample(model).latents).abs().max() > 0.01
    assert torch.isfinite(found.latents).all()


# -- 3. FlowCache's rule -----------------------------------------------------------------------------------------------


def test_motion_floor_one_decides_for_whole_chunks_and_is_the_chunk_rule(magi: Any):
    both = {"chunk_threshold": 0.05, "token_threshold": 0.05, "chunk_phase_updates": 0}
    tokens = magi.sample(magi.cached(motion_floor=1.0, **both))
    chunks = magi.sample(magi.cached(granularity="chunk", **both))
    assert {outcome for *_, phase, outcome, _ in tokens.outcomes if phase == "token"} == {"full", "reused"}
    assert all(phase != "token" for *_, phase, _, _ in chunks.outcomes)
    assert torch.equal(tokens.latents, chunks.latents)


# -- 4. chunk by chunk against the original's scheme -------------------------------------------------------------------

PLANS = {
    "two chunks": {},
    "one chunk": {"frames": 24},
    "more chunks than the window": {"frames": 120, "steps": 4},
    "a window of two": {"frames": 72, "window": 2},
    "an image": {"frames": 48, "start_latents": start(1)},
    "a video of part of a chunk": {"frames": 24, "start_latents": start(4), "continue_frames": 16},
    "a video of more than a chunk": {"frames": 24, "start_latents": start(8), "continue_frames": 32},
    "12 steps": {"steps": 12},
}


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", [BASE, DISTILLED])
def test_with_clean_refresh_it_is_the_original_scheme(magi: Any, name: str, plan: str):
    model = magi.load(name)
    together = magi.sample(model, **VANILLA, **PLANS[plan]).latents
    assert together.std() > 0.1
    magi.mc.assert_near(magi.sample(model, **PLANS[plan]).latents, together, 1e-4)


def test_without_refresh_it_is_an_approximation_and_says_so(magi: Any):
    frames = {"frames": 120, "steps": 4}
    plain, refreshed = magi.sample(clean_refresh=False, **frames), magi.sample(**frames)
    assert (plain.latents - refreshed.latents).abs().max() > 0.01
    assert any("clean refresh is off" in note for note in plain.report["notes"])
    assert not any("clean refresh is off" in note for note in refreshed.report["notes"])
    assert refreshed.summary["token_forwards_context_and_refresh"] > 0


def test_the_second_pass_of_the_distilled_models_can_be_left_out(magi: Any):
    model = magi.load(DISTILLED)
    with_it, without = magi.sample(model), magi.sample(model, steady_oldest=False)
    assert (with_it.latents - without.latents).abs().max() > 1e-3
    assert with_it.summary["token_forwards"] > without.summary["token_forwards"]


# -- 5. a run leaves nothing -------------------------------------------------------------------------------------------


def test_the_same_model_sampled_twice_gives_the_same_and_keeps_nothing(magi: Any, left_behind: Callable):
    model = magi.cached()
    options = structure(model.model_options)
    first, second = magi.sample(model), magi.sample(model)
    assert torch.equal(first.latents, second.latents)
    assert first.timeless == second.timeless
    assert structure(model.model_options) == options
    assert left_behind() == []


@every_end
@pytest.mark.parametrize("number", [0, 7])
def test_state_is_gone_after_an_interrupt_or_an_error_and_the_next_run_is_bit_equal(
    magi: Any,
    monkeypatch: pytest.MonkeyPatch,
    left_behind: Callable,
    what: Callable[[], None],
    error: type[Exception],
    number: int,
):
    check_that_nothing_is_left(magi, monkeypatch, left_behind, what, error, number)


# -- 6. runs do not mix ------------------------------------------------------------------------------------------------


def test_models_with_other_settings_and_the_other_family_do_not_mix(magi: Any, plain: Any):
    base = magi.load()
    cached, strict = magi.cached(base), magi.cached(base, token_threshold=0.0, chunk_threshold=0.0)
    first = magi.sample(cached)
    assert torch.equal(magi.sample(strict).latents, plain.latents)
    other = magi.mc.sample(steps=2, frames=9)
    assert torch.equal(magi.sample(base).latents, plain.latents)
    assert torch.equal(magi.sample(cached).latents, first.latents)
    assert torch.equal(magi.mc.sample(steps=2, frames=9).latents, other.latents)


def test_a_longer_video_has_the_same_noise_in_the_chunks_before(magi: Any):
    """Later chunks are not seen by earlier ones, so these come out the same."""
    short, long = magi.sample(frames=24).latents, magi.sample(frames=48).latents
    magi.mc.assert_near(long[:, :, :6], short, 1e-5)


# -- ComfyUI's own machinery -------------------------------------------------------------------------------------------


def lora(model: Any, strength: float = 0.7) -> Any:
    """A MODEL with low-rank changes on layers of every kind."""
    keys = [
        "videodit_blocks.layers.0.self_attention.linear_qkv.q.weight",
        "videodit_blocks.layers.1.self_attention.linear_proj.weight",
        "videodit_blocks.layers.1.mlp.linear_fc1.weight",
        "videodit_blocks.layers.2.ada_modulate_layer.proj.0.weight",
        "y_embedder.y_proj_xattn.0.weight",
    ]
    # a float8 layer's weight has a third axis, which no file of changes knows of
    shapes = {key: tensor.shape[-2:] for key, tensor in model.model.diffusion_model.state_dict().items()}
    generator = torch.Generator().manual_seed(9)
    patches = {f"diffusion_model.{k}": ("diff", (torch.randn(shapes[k], generator=generator) * 0.05,)) for k in keys}
    clone = model.clone()
    assert len(clone.add_patches(patches, strength)) == len(keys)
    return clone


@pytest.mark.parametrize("name", [BASE, QUANTISED])
def test_a_lora_acts_and_leaves_the_base_model_as_it_was(magi: Any, name: str):
    base = magi.load(name)
    before = magi.sample(base).latents
    changed = magi.sample(lora(base)).latents
    assert (changed - before).abs().max() > 1e-3
    assert torch.equal(magi.sample(base).latents, before)
    assert torch.equal(magi.sample(lora(base)).latents, changed)


def test_passes_that_go_one_by_one_give_the_same(magi: Any, monkeypatch: pytest.MonkeyPatch, plain: Any):
    cached = magi.sample(magi.cached())
    free = comfy.model_management.get_free_memory

    def none_left(device: Any = None, torch_free_too: bool = False) -> Any:
        return free(device, True) if torch_free_too else 0  # attention asks for both

    monkeypatch.setattr(comfy.model_management, "get_free_memory", none_left)
    magi.mc.assert_near(magi.sample().latents, plain.latents, 1e-4)
    split = magi.sample(magi.cached())
    assert split.outcomes == cached.outcomes
    magi.mc.assert_near(split.latents, cached.latents, 1e-4)


def test_memory_is_asked_for_keys_and_values_too(magi: Any, monkeypatch: pytest.MonkeyPatch):
    asked = []
    load = comfy.model_management.load_models_gpu

    def spy(models: Any, memory_required: float = 0, *args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs.get("minimum_memory_required"))
        return load(models, memory_required, *args, **kwargs)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", spy)
    for place in ("GPU", "CPU"):
        magi.sample(kv_place=place)
    on_gpu, on_cpu = asked
    chunk = magi.load().model.memory_required([1, 16, LATENTS_OF_A_CHUNK, 6, 8])
    assert on_cpu == pytest.approx(chunk)
    assert on_gpu > on_cpu


@pytest.mark.parametrize(("inputs", "share"), [({"kv_place": "CPU"}, 0.0), ({"kv_precision": "bfloat16"}, 0.05)])
def test_place_and_precision_of_the_store(magi: Any, plain: Any, inputs: dict[str, Any], share: float):
    found = magi.sample(**inputs).latents
    magi.mc.assert_near(found, plain.latents, share)
    assert torch.equal(found, plain.latents) == (share == 0.0)


# -- the prompt --------------------------------------------------------------------------------------------------------


def test_the_prompt_is_followed_and_padding_is_not_seen(magi: Any, plain: Any):
    assert (magi.sample(positive=magi.mc.prompt(7)).latents - plain.latents).abs().max() > 1e-3
    text = magi.positive[0][0]
    mask = torch.zeros(1, 12)
    mask[:, : text.shape[1]] = 1
    padded = [[torch.cat([text, torch.ones(1, 4, text.shape[2])], dim=1), {"attention_mask": mask}]]
    assert torch.equal(magi.sample(positive=padded).latents, plain.latents)


def test_special_tokens_stand_before_the_text_and_durations_tell_chunks_apart(magi: Any, plain: Any):
    text = magi.mc.module("motioncache_core.models.magi1.text")
    vectors = torch.randn(9, 4096, generator=torch.Generator().manual_seed(4)) * 0.2
    options = {text.TOKENS_KEY: ["HQ", text.DURATION], text.VECTORS_KEY: vectors}
    prompt = [[magi.positive[0][0], options]]
    assert (magi.sample(positive=prompt).latents - plain.latents).abs().max() > 1e-3
    prompts = magi.mc.module("nodes.host.magi1_prompts")
    (texts,) = prompts.chunk_texts(magi.positive[0][0], options, 3, 800, 1)
    assert [texts[chunk].shape[0] for chunk in range(3)] == [10] * 3
    for chunk in range(3):
        assert torch.equal(texts[chunk][0], vectors[1 + 2 - chunk]) and torch.equal(texts[chunk][1], vectors[0])
    (same,) = prompts.chunk_texts(magi.positive[0][0], {}, 3, 800, 1)
    assert same[0] is same[1] is same[2]


def test_a_negative_is_not_used_and_that_is_said(magi: Any, plain: Any, caplog: pytest.LogCaptureFixture):
    found = magi.sample(negative=magi.mc.prompt(8))
    assert torch.equal(found.latents, plain.latents)
    assert "negative is not used: MAGI-1 has learned its own empty prompt" in caplog.text


@pytest.mark.parametrize(
    ("positive", "message"),
    [
        (
            [[torch.zeros(1, 4, 768), {}]],
            "positive has shape .*MAGI-1 takes text of width 4096: encode it with t5-v1_1",
        ),
        ([[torch.zeros(1, 4, 4096), {}]] * 2, "positive holds 2 prompts; MAGI-1 takes one"),
        ([[torch.zeros(1, 4, 4096), {"start_percent": 0.5}]], "for a part of the steps only"),
        ([[torch.zeros(1, 4, 4096), {"area": (1, 1, 0, 0)}]], "area of the picture"),
    ],
    ids=["another encoder", "two prompts", "timestep range", "area"],
)
def test_prompts_that_cannot_be_served_are_refused(magi: Any, positive: list, message: str):
    with pytest.raises(ValueError, match=message):
        magi.sample(positive=positive)


# -- what the variant asks for -----------------------------------------------------------------------------------------


def test_steps_and_guidance_follow_the_variant(magi: Any):
    inputs = magi.mc.module("nodes.host.magi1_inputs")
    architecture = magi.mc.module("motioncache_core.models.magi1.architecture")
    model = magi.mc.module("nodes.host.magi1_model")
    for variant in architecture.VARIANTS:
        info = model.Magi1Info(variant.name, variant.config, variant.distilled)
        guidance, notice = inputs.guidance_for(info, inputs.AUTO, True)
        assert notice is None
        assert type(guidance).__name__ == ("OnePass" if variant.distilled else "ThreePass")
        assert inputs.steps_for(info, guidance, 0) == variant.steps
        assert inputs.steps_for(info, guidance, 12) == 12


def test_a_contradiction_of_guidance_and_weights_is_a_warning_with_the_fix(magi: Any, caplog: pytest.LogCaptureFixture):
    magi.sample(guidance="one pass (distilled)", frames=24, steps=4)
    assert "is a base model: expect a broken video. Choose 'three passes (base)'." in caplog.text
    with pytest.raises(ValueError, match="nothing tells whether magi.* is a base or a distilled model; set guidance"):
        magi.sample(magi.load(UNNAMED))
    chosen = magi.sample(magi.load(UNNAMED), guidance="one pass (distilled)").latents
    assert torch.equal(chosen, magi.sample(magi.load(DISTILLED)).latents)


def test_the_loader_tells_a_contradiction_in_the_configuration(
    magi: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    import folder_paths

    folder = tmp_path / "contradicting" / "4.5B_distill"
    first = tiny_magi1.write_official(folder, tiny_magi1.transformer(), distilled=True)
    wrong = tiny_magi1.official_config(tiny_magi1.TINY, distilled=False)
    wrong["model_config"]["num_layers"] = 34
    (folder / "4.5B_base_config.json").write_text(json.dumps(wrong), encoding="utf-8")
    folder_paths.add_model_folder_path("diffusion_models", str(tmp_path))
    try:
        magi.mc.module("nodes.magi1_loaders").MotionCacheLoadMagi1.execute(str(first.relative_to(tmp_path)), "default")
    finally:
        folder_paths.folder_names_and_paths["diffusion_models"][0].remove(str(tmp_path))
    warnings = " ".join(record.message for record in caplog.records if record.levelno == logging.WARNING)
    assert "num_layers is 34 in its configuration file and 3 in the weights" in warnings
    assert (
        "its configuration file 4.5B_base_config.json says base" in warnings and "its name says distilled" in warnings
    )


@pytest.mark.parametrize("weight_dtype", ["fp8_e4m3fn", "bf16", "fp32"])
def test_weights_in_other_precisions_sample(magi: Any, plain: Any, weight_dtype: str):
    found = magi.sample(magi.load(BASE, weight_dtype)).latents
    assert found.shape == plain.latents.shape and torch.isfinite(found).all()
    if weight_dtype in ("bf16", "fp32"):  # the file's bfloat16 is exact in both, and this machine computes in float32
        magi.mc.assert_near(found, plain.latents, 1e-4)
    else:
        assert not torch.equal(found, plain.latents)


# -- presets -----------------------------------------------------------------------------------------------------------


def test_the_cache_node_takes_the_familys_own_presets(magi: Any, caplog: pytest.LogCaptureFixture):
    cache = magi.mc.module("nodes.cache")
    option = magi.mc.module("nodes.host.model_support").attached_config
    presets = magi.mc.module("motioncache_core.presets").PRESETS_OF_FAMILY
    for family, model in (("magi1", magi.load()), ("skyreels_v2", magi.mc.load())):
        for name, config in presets[family].items():
            made = option(cache.MotionCacheApply.execute(model, name).args[0].model_options)
            assert type(made) is type(config) and made.granularity == config.granularity
    assert "is for" not in caplog.text
    made = option(cache.MotionCacheApply.execute(magi.load(), next(iter(presets["skyreels_v2"]))).args[0].model_options)
    assert made == next(iter(presets["magi1"].values()))
    assert "and this MODEL is MAGI-1: 'MotionCache (scaled to the steps)' is used." in caplog.text
    with pytest.raises(ValueError, match="step-level .* is for SkyReels-V2"):
        cache.MotionCacheApply.execute(magi.load(), "step-level (TeaCache's rule, vanilla sampling)")


def test_custom_knobs_hold_as_they_are(magi: Any):
    cache = magi.mc.module("nodes.cache")
    knobs = cache.knobs_of(magi.mc.module("motioncache_core.config").Magi1CacheConfig()) | {"token_threshold": 0.02}
    made = cache.MotionCacheApply.execute(magi.load(), "custom", **knobs).args[0]
    config = magi.mc.module("nodes.host.model_support").attached_config(made.model_options)
    assert (config.token_threshold, config.chunk_threshold, config.warmup_steps) == (0.02, 0.0065, 5)
    assert config.distance == "patch embedding" and config.made_for_steps is None
    with pytest.raises(ValueError, match="granularity is 'step'"):
        cache.MotionCacheApply.execute(magi.load(), "custom", **(knobs | {"granularity": "step"}))


def test_what_is_reused_can_be_stretched_by_preset_and_by_knob(magi: Any):
    cache, config = magi.mc.module("nodes.cache"), magi.mc.module("motioncache_core.config")
    option = magi.mc.module("nodes.host.model_support").attached_config
    presets = magi.mc.module("motioncache_core.presets").MAGI1_PRESETS
    ((name, preset),) = ((n, c) for n, c in presets.items() if c.rescale_residual)
    assert option(cache.MotionCacheApply.execute(magi.load(), name).args[0].model_options) == preset
    knobs = cache.knobs_of(preset)
    custom = cache.MotionCacheApply.execute(magi.load(), "custom", **knobs).args[0]
    assert option(custom.model_options) == preset.with_changes(made_for_steps=None)
    plain = cache.MotionCacheApply.execute(magi.load(), "custom", **knobs | {"stretch_reuse": False}).args[0]
    runs = [magi.sample(model, steps=16, frames=24) for model in (custom, plain)]
    for run in runs:
        assert run.summary["computed_fraction"] < 1.0 and "reused" in {outcome for *_, outcome, _ in run.outcomes}
    assert (runs[0].latents - runs[1].latents).abs().max() > 1e-3
    other = cache.custom_config(config.CacheConfig, **cache.knobs_of(config.CacheConfig()) | {"stretch_reuse": True})
    assert other == config.CacheConfig(), "the other family has no use for it"


def test_short_runs_reach_the_token_phase_with_the_scaled_preset_only(magi: Any):
    apply = magi.mc.module("nodes.cache").MotionCacheApply
    phases = {}
    for name in list(magi.mc.module("motioncache_core.presets").MAGI1_PRESETS)[:2]:
        found = magi.sample(apply.execute(magi.load(), name).args[0], steps=16, frames=24)
        phases[name] = {phase for *_, phase, _, _ in found.outcomes}
    scaled, published = phases.values()
    assert "token" in scaled and "token" not in published


# -- lengths, sizes and given frames -----------------------------------------------------------------------------------


def test_the_surplus_of_the_last_chunk_is_cut_off(magi: Any, plain: Any):
    found = magi.sample(frames=28)
    assert found.latents.shape[2] == 7
    assert torch.equal(found.latents, plain.latents[:, :, :7])


def test_a_start_image_is_the_first_latent_frame_of_as_many_frames_as_asked(magi: Any):
    assert magi.sample(start_latents=start(1)).latents.shape[2] == 12


def test_a_video_goes_on_from_its_last_or_first_frames(magi: Any):
    given = start(9)
    last = magi.sample(start_latents=given, frames=24, steps=4).latents
    assert last.shape[2] == 6 + 6
    magi.mc.assert_near(last[:, :, :6], given["samples"][:, :, 3:], 1e-5)
    first = magi.sample(start_latents=given, frames=24, steps=4, continue_from="first frames", continue_frames=8)
    assert first.latents.shape[2] == 2 + 6
    magi.mc.assert_near(first.latents[:, :, :2], given["samples"][:, :, :2], 1e-5)


class NoteVae:
    """Notes what it is given; four frames a latent frame, as MAGI-1's."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def encode(self, pixels: Tensor) -> Tensor:
        self.seen.append(pixels)
        return torch.zeros(1, 16, max(1, pixels.shape[0] // 4), pixels.shape[1] // 8, pixels.shape[2] // 8) + 0.1


def test_images_and_videos_are_brought_to_size_before_the_vae(magi: Any):
    vae = NoteVae()
    pixels = torch.rand(40, 30, 90, 3, generator=torch.Generator().manual_seed(2))
    magi.sample(start_image=pixels[:1], vae=vae, frames=24, steps=4, aspect="crop")
    magi.sample(start_video=pixels, vae=vae, frames=24, steps=4)
    assert [tuple(seen.shape) for seen in vae.seen] == [(1, 48, 64, 3), (24, 48, 64, 3)]
    prefix = magi.mc.module("motioncache_core.models.magi1.prefix")
    assert torch.equal(vae.seen[0], prefix.fit_frames(pixels[:1], 64, 48, "crop"))
    assert torch.equal(vae.seen[1], prefix.fit_frames(pixels[16:], 64, 48, "fit"))


class OtherVae(NoteVae):
    """Makes latents of another form."""

    def __init__(self, channels: int, frames: int):
        super().__init__()
        self.form = channels, frames

    def encode(self, pixels: Tensor) -> Tensor:
        super().encode(pixels)
        channels, frames = self.form
        return torch.zeros(1, channels, frames, pixels.shape[1] // 8, pixels.shape[2] // 8)


@pytest.mark.parametrize(("channels", "frames"), [(48, 6), (16, 24), (4, 6)])
def test_a_vae_that_makes_other_latents_is_refused_by_its_input(magi: Any, channels: int, frames: int):
    vae = OtherVae(channels, frames)
    message = r"vae made latents of shape .*needs \(1, 16, 6, 6, 8\): connect .*Load MAGI-1 VAE"
    with pytest.raises(ValueError, match=message):
        magi.sample(start_video=torch.rand(24, 48, 64, 3), vae=vae)
    assert len(vae.seen) == 1


def test_the_vae_of_wan_is_refused_before_it_encodes(magi: Any):
    """Its latents have the same shape, so that only a broken video would tell."""
    from comfy.ldm.wan.vae import WanVAE

    vae = NoteVae()
    vae.first_stage_model = WanVAE(dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    with pytest.raises(ValueError, match=r"vae is another model's \(WanVAE\): connect the one from Load MAGI-1 VAE"):
        magi.sample(start_image=torch.rand(1, 48, 64, 3), vae=vae)
    assert not vae.seen


def test_what_cannot_be_planned_is_refused_before_the_vae_encodes(magi: Any):
    vae, images = NoteVae(), torch.rand(24, 48, 64, 3)
    late = magi.chunk_prompts((9, magi.mc.prompt(1)))
    for inputs in ({"steps": 10}, {"frames": 46}, {"chunk_prompts": late}, {"positive": magi.positive * 2}):
        with pytest.raises(ValueError):
            magi.sample(start_video=images, vae=vae, **inputs)
    assert not vae.seen


def test_a_batch_of_latents_makes_a_batch_of_videos(magi: Any):
    pair = start(6, batch=2)
    both = magi.sample(magi.cached(), start_latents=pair, frames=24).latents
    assert both.shape[0] == 2 and not torch.equal(both[0], both[1])
    alone = magi.sample(magi.cached(), start_latents={"samples": pair["samples"][:1]}, frames=24).latents
    magi.mc.assert_near(both[:1], alone, 1e-4)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"width": 72}, r"width is 72 pixels; it must be a multiple of 16 \(nearest: 64\)"),
        ({"height": 8}, r"height is 8 pixels; it must be a multiple of 16 \(nearest: 16\)"),
        ({"frames": 46}, r"frames is 46; it must be a multiple of 4 \(nearest: 44 or 48\)"),
        ({"frames": 4, "start_latents": start(1)}, r"frames is 4; with a start image .* \(nearest: 8\)"),
        ({"steps": 10}, r"steps is 10; with a window of 4 chunks it must be a multiple of 4 \(nearest: 8\)"),
        ({"window": 0}, r"window is 0; it must be at least 1 \(nearest: 1\)"),
        ({"steps": 16, "window": 3}, r"steps is 16; .* a multiple of 12 \(nearest: 12\)"),
        ({"start_image": torch.zeros(1, 48, 64, 3)}, "start_image needs a VAE, but vae is not connected"),
        ({"start_latents": start(6), "start_video": torch.zeros(8, 48, 64, 3)}, "are connected; connect one of them"),
        ({"start_latents": start(6), "continue_frames": 32}, r"continue_frames is 32; .* to 24 \(nearest: 24\)"),
        ({"start_latents": start(6), "continue_frames": 10}, r"continue_frames is 10; .* \(nearest: 8\)"),
        ({"start_video": torch.zeros(5, 48, 64, 3), "vae": NoteVae()}, "start_video has 5 frames; at least 8"),
        ({"start_image": torch.zeros(5, 48, 64, 3), "vae": NoteVae()}, "connect them to start_video"),
        ({"start_latents": {"samples": torch.zeros(1, 16, 6, 8, 8)}}, "start_latents are of a 64 x 64 video"),
    ],
    ids=lambda value: str(list(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_made_is_refused_with_the_nearest_legal_value(magi: Any, inputs: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        magi.sample(**inputs)


def test_typed_values_are_judged_when_the_graph_is_queued(magi: Any):
    node = magi.mc.module("nodes.magi1_sampling").MotionCacheMagi1Sampler
    names = ("width", "height", "frames", "steps", "shift", "window", "attention", "clean_refresh")
    values = {name: magi.defaults[name] for name in names}
    assert node.validate_inputs(**values) is True
    assert node.validate_inputs(**values | {"steps": 0, "window": 8}) is True
    said = (
        "steps is 0 (the model's own, 16, 32, 64); with a window of 3 chunks it must be a multiple of 12 (nearest: 12)"
    )
    assert node.validate_inputs(**values | {"steps": 0, "window": 3}) == said
    assert node.validate_inputs(**values | {"window": 0}) == "window is 0; it must lie between 1 and 16 (nearest: 1)"
    assert "shift is inf; it must be a number" in node.validate_inputs(**values | {"shift": float("inf")})
    assert "width is 16000; it must lie between" in node.validate_inputs(**values | {"width": 16000})
    assert node.validate_inputs(**values | {"frames": None}) is True
    assert "nearest: 8" in node.validate_inputs(**values | {"steps": 9})
    assert "clean_refresh is off" in node.validate_inputs(**values | VANILLA | {"clean_refresh": False})


def test_decisions_become_one_mask_a_video_frame(magi: Any):
    found = magi.sample(magi.cached())
    node = magi.mc.module("nodes.preview").MotionCacheDecisionMask
    mask = node.execute(found.decisions, "share of steps recomputed", 0).args[0]
    assert mask.shape == (48, 48, 64) and 0 < mask.mean() < 1


# -- weights -----------------------------------------------------------------------------------------------------------


def test_own_layers_cast_with_comfyui_s_function(magi: Any, monkeypatch: pytest.MonkeyPatch):
    import comfy.ops

    model, real, cast = magi.load(QUANTISED), comfy.ops.cast_bias_weight, []
    expected = magi.sample(model).latents

    def noted(module: Any, *args: Any, **how: Any) -> Any:
        cast.append(type(module).__name__)
        return real(module, *args, **how)

    monkeypatch.setattr(comfy.ops, "cast_bias_weight", noted)
    assert torch.equal(magi.sample(model).latents, expected)
    assert {"QuantisedLinear", "NormPlusOne"} <= set(cast)


def test_a_newer_comfyui_may_return_more_than_weight_and_bias(magi: Any, monkeypatch: pytest.MonkeyPatch):
    import comfy.ops

    versions, weight = magi.mc.module("nodes.host.versions"), torch.ones(2)
    monkeypatch.setattr(comfy.ops, "cast_bias_weight", lambda module, **how: (weight, None, "stream"))
    found = versions.cast_bias_weight(None, dtype=torch.float32, device=torch.device("cpu"), bias_dtype=torch.float32)
    assert found == (weight, None)


@pytest.fixture
def without_float8(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device as Apple's."""
    import comfy.model_management as management

    monkeypatch.setattr(management, "supports_cast", lambda device, dtype: dtype.itemsize > 1)


@pytest.mark.parametrize(
    ("name", "weight_dtype", "message"),
    [
        (QUANTISED, "default", "model_name is .*whose weights are float8, which cpu cannot hold; take the one that is"),
        (BASE, "fp8_e4m3fn", r"weight_dtype is fp8_e4m3fn, which cpu cannot hold \(nearest: bf16\)"),
    ],
)
def test_float8_is_refused_where_the_device_cannot_hold_it(
    magi: Any, without_float8: None, name: str, weight_dtype: str, message: str
):
    loader = magi.mc.module("nodes.magi1_loaders").MotionCacheLoadMagi1
    with pytest.raises(ValueError, match=message):
        loader.execute(name, weight_dtype)


def test_a_file_kept_in_float8_is_widened_where_the_device_cannot_hold_it(magi: Any, without_float8: None):
    """Plain float8, without scales: the numbers are the same in any larger type."""
    module = magi.mc.module("nodes.host.magi1_model")
    network = magi.load(BASE).model.diffusion_model
    official = dict(network.state_dict())
    key = "videodit_blocks.layers.0.self_attention.linear_qkv.q.weight"
    official[key] = official[key].to(torch.float8_e4m3fn)
    layout = SimpleNamespace(config=network.config, name="kept in float8", distilled=False)
    loaded = module.load_magi1(layout, official).model.diffusion_model.state_dict()
    assert loaded[key].dtype.itemsize > 1
    assert torch.equal(loaded[key].float(), official[key].float())
