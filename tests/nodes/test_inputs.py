"""What goes in: batches, odd sizes, short videos, given frames, precisions; what is refused before anything loads."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import comfy.model_management
import pytest
import torch
from comfy_api.latest import io
from comfy_extras.nodes_custom_sampler import CFGGuider
from torch import Tensor


def latents(frames: int, batch: int = 1, height: int = 6, width: int = 8, seed: int = 3) -> Tensor:
    return torch.randn(batch, 16, frames, height, width, generator=torch.Generator().manual_seed(seed))


def empty(frames: int, batch: int = 1, height: int = 6, width: int = 8) -> Tensor:
    return torch.zeros(batch, 16, frames, height, width)


def guider(mc, model: Any) -> Any:
    return CFGGuider.execute(model, mc.positive, mc.negative, 6.0).args[0]


# -- sizes and lengths -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["chunk-wise", "vanilla full"])
def test_two_start_latents_are_two_videos(mc, attention: str):
    start = latents(2, batch=2)
    model = mc.cached(granularity="token" if attention == "chunk-wise" else "step")
    both = mc.sample(model, start_latents={"samples": start}, attention=attention, steps=8)
    assert both.latents.shape == (2, 16, 7, 6, 8)
    alone = mc.sample(model, start_latents={"samples": start[:1]}, attention=attention, steps=8)
    mc.assert_near(both.latents[:1], alone.latents, 1e-4)
    first = [outcome for outcome in both.outcomes if "/0/0" in outcome[-4]]
    assert first == alone.outcomes and len(both.outcomes) == 2 * len(first)
    assert (both.latents[1] - both.latents[0]).abs().max() > 0.5


def test_a_batch_of_empty_latents_is_made_of_other_noise(mc):
    model = mc.cached()
    output, _ = mc.custom(guider(mc, model), empty(7, batch=2))
    alone, _ = mc.custom(guider(mc, model), empty(7))
    mc.assert_near(output[:1], alone, 1e-4)
    assert (output[1] - output[0]).abs().max() > 0.5


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (3, 16)], ids=str)
def test_odd_latents_work_chunk_by_chunk_as_in_the_block_causal_run(mc, size: tuple[int, int]):
    outputs = [
        mc.custom(guider(mc, mc.load()), empty(7, 1, *size), **inputs)[0]
        for inputs in ({"clean_refresh": True}, {"attention": "vanilla block-causal"})
    ]
    assert outputs[0].shape == (1, 16, 7, *size)
    mc.assert_near(outputs[0], outputs[1], 1e-4)
    cached, _ = mc.custom(guider(mc, mc.cached()), empty(7, 1, *size), steps=8)
    assert torch.isfinite(cached).all()


@pytest.mark.parametrize("attention", ["chunk-wise", "vanilla full"])
@pytest.mark.parametrize(
    "inputs",
    [
        {"frames": 1},
        {"frames": 5},
        {"frames": 9, "chunk_size": 1},
        {"frames": 33, "chunk_size": 100},
        {"steps": 1, "ar_step": 0},
        {"frames": 29, "chunk_size": 3},
        {"width": 16, "height": 16},
        {"width": 80, "height": 32},
    ],
    ids=str,
)
def test_short_and_small_videos_work(mc, inputs: dict, attention: str):
    found = mc.sample(mc.cached(), attention=attention, **inputs)
    sides = (inputs.get("height", 48) // 8, inputs.get("width", 64) // 8)
    assert found.latents.shape == (1, 16, (inputs.get("frames", 25) - 1) // 4 + 1, *sides)
    assert torch.isfinite(found.latents).all() and found.latents.std() > 0.1


def test_a_four_channel_latent_is_repaired_by_the_stock_node(mc):
    output, _ = mc.custom(guider(mc, mc.load()), torch.zeros(1, 4, 7, 6, 8))
    assert torch.equal(output, mc.custom(guider(mc, mc.load()), empty(7))[0])


def test_windows_of_the_sampler_object_go_on_from_latents(mc):
    """Its windows share one guider run, those of the node have one each."""
    inputs = {"frames": 57, "window": 33, "overlap": 9}
    output, _ = mc.custom(guider(mc, mc.load("tiny_no_fps.safetensors")), **inputs)
    assert torch.equal(output, mc.sample(mc.load("tiny_no_fps.safetensors"), **inputs).latents)
    short, _ = mc.custom(guider(mc, mc.load("tiny_no_fps.safetensors")), frames=33, window=33)
    assert torch.equal(output[:, :, :9], short)


# -- keys and values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "share"), [("bfloat16", 0.05), ("float16", 0.01), ("fp8_e4m3fn", 0.5)])
@pytest.mark.parametrize("place", ["GPU", "CPU"])
def test_stored_keys_and_values_may_be_small(mc, plain, precision: str, share: float, place: str):
    found = mc.sample(kv_precision=precision, kv_place=place)
    mc.assert_near(found.latents, plain.latents, share)
    assert not torch.equal(found.latents, plain.latents)
    assert mc.sample(mc.cached(), kv_precision=precision, kv_place=place, steps=8).summary["computed_fraction"] < 1


def test_the_cpu_holds_the_same_keys_and_values(mc, plain):
    assert torch.equal(mc.sample(kv_place="CPU").latents, plain.latents)


def test_half_precision_weights_run_near(mc, plain):
    found = mc.sample(mc.load(weight_dtype="bf16"))
    assert torch.isfinite(found.latents).all()
    mc.assert_near(found.latents, plain.latents, 0.3)
    assert mc.sample(mc.cached(mc.load(weight_dtype="bf16")), steps=8).summary["computed_fraction"] < 1


@pytest.mark.parametrize(("guidance", "branches"), [(6.0, 2), (1.0, 1)])
def test_memory_for_keys_and_values_is_asked_for_and_is_what_is_laid_out(
    mc, monkeypatch: pytest.MonkeyPatch, guidance: float, branches: int
):
    asked, laid = [], []
    load = comfy.model_management.load_models_gpu
    cache = mc.module("motioncache_core.kv_cache").KVCache
    allocate = cache.allocate

    def note_load(models: list, memory_required: float = 0, **more: Any) -> Any:
        asked.append(memory_required)
        return load(models, memory_required=memory_required, **more)

    def note_buffers(self: Any, role: Any) -> None:
        before = sum(t.nbytes for buffers in self._buffers.values() for t in buffers)
        allocate(self, role)
        laid.append(sum(t.nbytes for buffers in self._buffers.values() for t in buffers) - before)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", note_load)
    monkeypatch.setattr(cache, "allocate", note_buffers)
    mc.sample(guidance=guidance)
    on_cpu = list(asked)
    # 2 layers, keys and values, 7 frames of 12 tokens, width 128, float32
    assert sum(laid) == branches * 2 * 2 * 7 * 12 * 128 * 4
    asked.clear()
    mc.sample(guidance=guidance, kv_place="CPU")
    assert on_cpu[0] - asked[0] >= sum(laid) / 2


# -- given frames and the VAE ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vae(_model_folder: Path) -> Any:
    import comfy.sd

    from tools import tiny_checkpoints

    with torch.inference_mode():
        return comfy.sd.VAE(sd=tiny_checkpoints.vae())


@pytest.mark.parametrize("images", [1, 5])
def test_a_start_image_is_encoded_and_kept(mc, vae, images: int):
    pictures = torch.rand(images, 40, 90, 3, generator=torch.Generator().manual_seed(1))
    found = mc.sample(mc.cached(), start_image=pictures, vae=vae)
    context = mc.module("nodes.host.latents").encode_images(vae, pictures, 64, 48)
    assert context.shape == (1, 16, (images - 1) // 4 + 1, 6, 8)
    mc.assert_near(found.latents[:, :, : context.shape[2]], context, 1e-4)
    other = mc.sample(mc.cached(), start_image=1 - pictures, vae=vae)
    assert (found.latents - other.latents)[:, :, context.shape[2] :].abs().max() > 1e-2


def test_history_can_go_through_the_vae(mc, vae):
    inputs = {"frames": 57, "window": 33, "overlap": 9, "vae": vae}
    encoded = mc.sample(history="re-encode with VAE", **inputs)
    kept = mc.sample(**inputs)
    assert torch.equal(encoded.latents[:, :, :9], kept.latents[:, :, :9])
    assert (encoded.latents - kept.latents)[:, :, 9:].abs().max() > 1e-3
    assert encoded.latents.shape == kept.latents.shape and torch.isfinite(encoded.latents).all()


# -- refusals ----------------------------------------------------------------------------------------------------------

REFUSED = [
    ({"frames": 26}, "frames is 26 frames", [25, 29]),
    ({"window": 12, "frames": 57, "overlap": 5}, "window is 12 frames", [9, 13]),
    ({"overlap": 10, "frames": 57, "window": 33}, "overlap is 10 frames", [9, 13]),
    ({"overlap": 33, "frames": 57, "window": 33}, "overlap is 33 frames", [29]),
    ({"ar_step": 7}, "ar_step is 7", [6]),
    ({"steps": 0, "ar_step": 0}, "steps is 0", [1]),
    ({"chunk_size": 0}, "chunk_size is 0", [1]),
    ({"history_noise": 1000}, "history_noise is 1000", [999]),
    ({"shift": 0.0}, "shift is 0.0", [0.01]),
    ({"width": 61}, "width is 61 pixels", [64]),
    ({"height": 3}, "height is 3 pixels", [8]),
]


@pytest.mark.parametrize(("inputs", "said", "nearest"), REFUSED, ids=lambda value: str(value))
def test_an_illegal_value_is_refused_before_the_model_loads_and_the_nearest_one_works(
    mc, loads: list, monkeypatch: pytest.MonkeyPatch, inputs: dict, said: str, nearest: list
):
    with pytest.raises(ValueError) as refusal:
        mc.sample(**inputs)
    message = str(refusal.value)
    assert message.startswith(said) and not loads
    proposed = re.search(r"nearest: ([^)]+)\)", message)[1].split(" or ")
    assert [float(text) for text in proposed] == nearest
    monkeypatch.undo()
    name = next(iter(inputs))
    assert torch.isfinite(mc.sample(**(inputs | {name: nearest[0]})).latents).all()


def test_the_graph_is_refused_when_it_is_queued(mc):
    node = mc.module("nodes.sampling").MotionCacheAutoregressiveSampler
    typed = {"frames": 25, "steps": 6, "shift": 8.0, "chunk_size": 3, "ar_step": 2, "window": 57, "overlap": 9}
    typed |= {"history_noise": 20, "attention": "chunk-wise"}
    assert node.validate_inputs(**typed) is True
    said = "ar_step is 9; it must lie between 0 and the 6 steps (nearest: 6)"
    assert node.validate_inputs(**typed | {"ar_step": 9}) == said
    assert node.validate_inputs(**typed | {"ar_step": 9, "steps": None}) is True, "not known yet"


def test_a_file_whose_name_comes_from_another_node_counts_as_unchanged(mc):
    """ComfyUI asks with None then; an error would make everything behind the loader again at each Run."""
    asked = 0
    for node in mc.module("nodes").NODES:
        files = FILES & inspect.signature(node.fingerprint_inputs).parameters.keys()
        others = {"weight_dtype": "default"} if any(w.id == "weight_dtype" for w in node.define_schema().inputs) else {}
        for name in files:
            assert node.fingerprint_inputs(**{name: None}, **others) == node.fingerprint_inputs(
                **{name: None}, **others
            )
            asked += 1
    assert asked == len(FILES) + 1, "two loaders of models"


FILES = {"model_name", "vae_name", "take_name", "prompt_name"}
"""Choices of files, which say themselves what is wrong with one."""


def test_unknown_choices_are_refused_when_the_graph_is_queued(mc):
    """ComfyUI does not do it for nodes of this kind."""
    seen = 0
    for node in mc.module("nodes").NODES:
        inputs = {one.id: one for one in node.define_schema().inputs}
        choices = {name: one.options for name, one in inputs.items() if isinstance(one, io.Combo.Input)}
        for choice in choices.keys() - FILES:
            asked = inspect.signature(node.validate_inputs).parameters
            typed = {name: None if name in FILES else getattr(inputs[name], "default", None) for name in asked}
            for value in choices[choice]:
                assert "must be one of" not in str(node.validate_inputs(**typed | {choice: value}))
            said = node.validate_inputs(**typed | {choice: "fp7"})
            assert said == f"{choice} is 'fp7'; it must be one of {', '.join(choices[choice])}", node.__name__
            seen += 1
    assert seen > 25


GIVEN = [
    ({"start_latents": {"samples": latents(2, height=8)}}, "start_latents are of a 64 x 64 video.*use 64 x 64"),
    ({"start_latents": {"samples": torch.zeros(1, 4, 6, 8)}}, r"start_latents have shape \(1, 4, 6, 8\)"),
    ({"start_latents": {"samples": latents(7)}}, "start fills 7 latent frames.*must be at least 29"),
    ({"start_image": torch.zeros(1, 48, 64, 3)}, "start_image needs a VAE, but vae is not connected"),
    ({"history": "re-encode with VAE"}, "history 're-encode with VAE' needs a VAE"),
]


@pytest.mark.parametrize(("inputs", "said"), GIVEN, ids=lambda value: str(value)[:30])
def test_given_frames_that_do_not_fit_are_refused_before_the_model_loads(mc, loads: list, inputs: dict, said: str):
    with pytest.raises(ValueError, match=said):
        mc.sample(**inputs)
    assert not loads


def test_images_that_fill_no_latent_frame_are_refused(mc, vae, loads: list):
    with pytest.raises(ValueError, match=r"start_image has 3 frames; it must have 1 \+ a multiple of 4 \(nearest: 1\)"):
        mc.sample(start_image=torch.zeros(3, 48, 64, 3), vae=vae)
    both = {"start_image": torch.zeros(1, 48, 64, 3), "start_latents": {"samples": latents(1)}}
    with pytest.raises(ValueError, match="start_image and start_latents are both connected"):
        mc.sample(vae=vae, **both)
    assert not loads


def masks() -> dict[str, Tensor]:
    part, later, soft = torch.ones(7, 48, 64), torch.ones(7, 48, 64), torch.ones(7, 48, 64)
    part[:, :24] = 0
    later[3] = 0
    soft[:2] = 0.5
    return {"part of the picture": part, "a frame in the middle": later, "half": soft}


@pytest.mark.parametrize("name", masks())
def test_a_noise_mask_other_than_whole_leading_frames_is_refused(mc, name: str):
    with pytest.raises(ValueError, match="only whole frames at the beginning of the video can be kept"):
        mc.custom(guider(mc, mc.load()), latents(7), masks()[name])


def test_a_noise_mask_that_keeps_nothing_or_everything(mc):
    model = mc.load()
    nothing, _ = mc.custom(guider(mc, model), latents(7), torch.ones(7, 48, 64))
    assert torch.equal(nothing, mc.custom(guider(mc, model), empty(7))[0])
    with pytest.raises(ValueError, match="start fills 7 latent frames"):
        mc.custom(guider(mc, model), latents(7), torch.zeros(7, 48, 64))


@pytest.mark.parametrize(
    ("sigmas", "said"),
    [
        ([0.5, 0.2, 0.0], "SIGMAS begin at 0.5; a video is made from noise"),
        ([0.99, 0.5], "they must fall from at most 1 to 0"),
        ([0.99, 0.5, 0.5, 0.0], "with no value twice"),
    ],
)
def test_sigmas_that_are_no_way_from_noise_to_picture_are_refused(mc, sigmas: list[float], said: str):
    with pytest.raises(ValueError, match=said):
        mc.custom(guider(mc, mc.load()), sigmas=torch.tensor(sigmas), ar_step=0)


@pytest.mark.parametrize(("scheduler", "steps"), [("simple", 6), ("normal", 6), ("beta", 8), ("sgm_uniform", 3)])
def test_levels_of_stock_schedulers_work(mc, scheduler: str, steps: int):
    """They begin at exactly 1, where UniPC has no value."""
    from comfy_extras.nodes_custom_sampler import BasicScheduler

    sigmas = BasicScheduler.execute(mc.load(), scheduler, steps, 1.0).args[0]
    assert sigmas[0] == 1.0
    output, _ = mc.custom(guider(mc, mc.load()), sigmas=sigmas)
    assert torch.isfinite(output).all() and 0.1 < output.std() < 10


def test_very_many_levels_of_a_stock_scheduler_work(mc):
    """So close to 1 that the second one lies above 0.9999."""
    sigmas = torch.tensor([1.0, 0.99995, 0.9, 0.5, 0.0])
    output, _ = mc.custom(guider(mc, mc.load()), sigmas=sigmas, steps=4)
    assert torch.isfinite(output).all()


def test_no_noise_is_refused_and_a_picture_is_a_video_of_one_frame(mc):
    from comfy_extras.nodes_custom_sampler import DisableNoise, SamplerCustomAdvanced

    sigmas = torch.tensor(mc.plan().sigmas)
    own = mc.sampler()
    with pytest.raises(ValueError, match="connect RandomNoise instead of DisableNoise"):
        SamplerCustomAdvanced.execute(
            DisableNoise.execute().args[0], guider(mc, mc.load()), own, sigmas, {"samples": empty(7)}
        )
    picture, _ = mc.custom(guider(mc, mc.load()), torch.zeros(1, 16, 6, 8))
    assert torch.equal(picture, mc.custom(guider(mc, mc.load()), empty(1))[0])
    flat = torch.zeros(1, 16, 6, 8)
    with pytest.raises(ValueError, match=r"the latent has shape \(1, 16, 6, 8\); connect a video latent"):
        guider(mc, mc.load()).sample(flat + 1, flat, own, sigmas, seed=1)
