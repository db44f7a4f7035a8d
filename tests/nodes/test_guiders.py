"""Any guider, and guidance that asks again: through ComfyUI's own nodes, with and without the cache."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_custom_sampler import BasicGuider, CFGGuider, DualCFGGuider
from comfy_extras.nodes_perpneg import PerpNegGuider
from comfy_extras.nodes_slg import SkipLayerGuidanceDiT, SkipLayerGuidanceDiTSimple
from torch import Tensor

STEPS = {"steps": 8}
"""Enough for the token phase."""


def cfg_guider(mc, model: Any, cfg: float = 6.0) -> Any:
    return CFGGuider.execute(model, mc.positive, mc.negative, cfg).args[0]


# -- the SAMPLER object under stock guiders ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "inputs",
    [{}, {"frames": 57, "window": 33, "overlap": 9}, {"clean_refresh": True, "solver": "euler"}, {"ar_step": 0}],
    ids=str,
)
def test_the_sampler_object_is_the_sampler_node(mc, inputs: dict):
    model = mc.cached(mc.load("tiny_no_fps.safetensors"))
    node = mc.sample(model, **STEPS, **inputs)
    output, denoised = mc.custom(cfg_guider(mc, model), **STEPS, **inputs)
    assert node.summary["branch_steps"]["partial"] > 0
    assert torch.equal(output, node.latents)
    assert torch.equal(denoised, output), "the last prediction is the video"


@pytest.mark.parametrize("attention", ["vanilla full", "vanilla block-causal"])
def test_the_sampler_object_is_the_sampler_node_in_vanilla_sampling(mc, attention: str):
    model = mc.load("tiny_no_fps.safetensors")
    output, _ = mc.custom(cfg_guider(mc, model), attention=attention)
    assert torch.equal(output, mc.sample(model, attention=attention).latents)


@pytest.mark.parametrize("fps", [16.0, 24.0])
def test_the_sampler_object_has_the_frame_rate_of_its_input(mc, fps: float):
    """The MODEL carries the term of 24 frames a second as a rounded patch, so bit-equal it cannot be."""
    output, _ = mc.custom(cfg_guider(mc, mc.load()), fps=fps)
    mc.assert_near(output, mc.sample(fps=fps).latents, 1e-4)
    other = mc.sample(fps=40.0 - fps).latents
    assert (output - other).abs().max() > 1e-2


def test_given_frames_come_with_a_noise_mask(mc):
    model = mc.cached(mc.load("tiny_no_fps.safetensors"))
    start = torch.randn(1, 16, 2, 6, 8, generator=torch.Generator().manual_seed(3))
    latent = torch.cat([start, torch.zeros(1, 16, 5, 6, 8)], dim=2)
    mask = torch.ones(7, 48, 64)
    mask[:2] = 0
    output, _ = mc.custom(cfg_guider(mc, model), latent, mask, start_latents=2)
    node = mc.sample(model, start_latents={"samples": start})
    assert torch.equal(output, node.latents)
    mc.assert_near(output[:, :, :2], start, 1e-5)


def test_no_guidance_is_the_basic_guider_and_never_asks_for_the_negative(mc):
    model = mc.cached(mc.load("tiny_no_fps.safetensors"))
    node = mc.sample(model, guidance=1.0, **STEPS)
    assert {role for _, _, role, *_ in node.outcomes} == {"positive/0/0"}
    for guider in (BasicGuider.execute(model, mc.positive).args[0], cfg_guider(mc, model, 1.0)):
        assert torch.equal(mc.custom(guider, **STEPS)[0], node.latents)
    both = mc.sample(model, **STEPS)
    one_branch = both.summary["token_forwards_without_reuse"] / 2
    assert node.summary["token_forwards_without_reuse"] == one_branch


class NegativeFirst(comfy.samplers.CFGGuider):
    """A guider that passes its lists the other way round."""

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options: Any = None, seed: Any = None) -> Tensor:
        lists = [self.conds["negative"], self.conds["positive"]]
        negative, positive = comfy.samplers.calc_cond_batch(self.inner_model, lists, x, timestep, model_options)
        return negative + (positive - negative) * self.cfg


def test_the_order_in_which_a_guider_passes_its_lists_does_not_matter(mc):
    model = mc.cached()
    guider = NegativeFirst(model)
    guider.set_conds(mc.positive, mc.negative)
    guider.set_cfg(6.0)
    output, _ = mc.custom(guider, **STEPS)
    mc.assert_near(output, mc.custom(cfg_guider(mc, model), **STEPS)[0], 1e-4)


def test_three_prompts_with_the_same_one_twice_are_plain_guidance(mc):
    model = mc.cached()
    guider = DualCFGGuider.execute(model, mc.positive, mc.positive, mc.negative, 6.0, 6.0, "regular").args[0]
    mc.assert_near(mc.custom(guider, **STEPS)[0], mc.custom(cfg_guider(mc, model), **STEPS)[0], 1e-4)


@pytest.mark.parametrize("style", ["regular", "nested"])
def test_three_prompts_of_their_own(mc, style: str):
    third = mc.prompt(7)
    guider = DualCFGGuider.execute(mc.load(), mc.positive, third, mc.negative, 4.0, 3.0, style).args[0]
    refreshed, _ = mc.custom(guider, clean_refresh=True)
    whole, _ = mc.custom(guider, attention="vanilla block-causal")
    mc.assert_near(refreshed, whole, 1e-4)


def test_perpneg(mc):
    guider = PerpNegGuider.execute(mc.load(), mc.positive, mc.negative, mc.prompt(7), 4.0, 1.0).args[0]
    output, _ = mc.custom(guider)
    assert torch.isfinite(output).all()
    assert (output - mc.custom(cfg_guider(mc, mc.load(), 4.0))[0]).abs().max() > 1e-2
    cached = PerpNegGuider.execute(mc.cached(), mc.positive, mc.negative, mc.prompt(7), 4.0, 1.0).args[0]
    assert torch.isfinite(mc.custom(cached, **STEPS)[0]).all()


class FullMemory:
    """ComfyUI's memory management as the samplers see it when nothing is free: they ask for one branch at a time."""

    def __getattr__(self, name: str) -> Any:
        return getattr(comfy.model_management, name)

    def get_free_memory(self, *args: Any) -> int:
        return 0


GUIDERS = {
    "guidance": (lambda mc, model: cfg_guider(mc, model), {"positive", "negative"}),
    "no guidance": (lambda mc, model: cfg_guider(mc, model, 1.0), {"positive"}),
    "basic": (lambda mc, model: BasicGuider.execute(model, mc.positive).args[0], {"positive"}),
    "dual": (
        lambda mc, model: DualCFGGuider.execute(
            model, mc.positive, mc.prompt(7), mc.negative, 4.0, 3.0, "regular"
        ).args[0],
        {"positive", "middle", "negative"},
    ),
    "perpneg": (
        lambda mc, model: PerpNegGuider.execute(model, mc.positive, mc.negative, mc.prompt(7), 1.0, 1.0).args[0],
        {"positive", "negative", "empty_negative_prompt"},
    ),
}


@pytest.mark.parametrize("name", GUIDERS)
def test_memory_is_laid_out_before_the_first_call_for_the_branches_that_come(
    mc, monkeypatch: pytest.MonkeyPatch, name: str
):
    """ComfyUI asks how much memory is free before every call."""
    make, lists = GUIDERS[name]
    cache, relay = mc.module("motioncache_core.kv_cache").KVCache, mc.module("nodes.host.session")._Relay
    history: list[str] = []
    allocate, write, begin = cache.allocate, cache.write, relay.begin

    def note_allocate(self: Any, role: Any) -> None:
        if role not in self._buffers:
            history.append(f"make {role[0]}")
        allocate(self, role)

    monkeypatch.setattr(cache, "allocate", note_allocate)
    monkeypatch.setattr(
        cache, "write", lambda self, role, *a: history.append(f"use {role[0]}") or write(self, role, *a)
    )
    monkeypatch.setattr(relay, "begin", lambda self, call: history.append("call") or begin(self, call))
    mc.custom(make(mc, mc.load()), steps=2)
    first = history.index("call")
    assert set(history[:first]) == {f"make {name}" for name in lists}
    assert set(history[first:]) == {"call"} | {f"use {name}" for name in lists}


def test_branches_one_by_one_are_branches_together(mc, monkeypatch: pytest.MonkeyPatch):
    together = mc.sample(mc.cached(), **STEPS)
    calls = []
    relay = mc.module("nodes.host.session")._Relay
    rows = relay._rows
    monkeypatch.setattr(relay, "_rows", lambda self, uuids, n: calls.append(n) or rows(self, uuids, n))
    mc.sample(mc.cached(), **STEPS)
    assert set(calls) == {2}
    calls.clear()
    monkeypatch.setattr(comfy.samplers, "model_management", FullMemory())
    split = mc.sample(mc.cached(), **STEPS)
    assert set(calls) == {1}
    assert split.outcomes == together.outcomes
    mc.assert_near(split.latents, together.latents, 1e-4)


@pytest.mark.parametrize("tokens", [(8, 4), (8, 5), (3, 77)])
def test_prompts_of_other_lengths(mc, monkeypatch: pytest.MonkeyPatch, tokens: tuple[int, int]):
    """ComfyUI repeats a shorter prompt to batch both, or asks for each by itself."""
    prompts = {"positive": mc.prompt(0, tokens[0]), "negative": mc.prompt(1, tokens[1])}
    found = mc.sample(mc.cached(), **prompts, **STEPS)
    monkeypatch.setattr(comfy.samplers, "model_management", FullMemory())
    split = mc.sample(mc.cached(), **prompts, **STEPS)
    assert found.outcomes == split.outcomes
    mc.assert_near(found.latents, split.latents, 1e-4)


# -- guidance that asks the model again --------------------------------------------------------------------------------


def ask_again_and_ignore(model: Any, count: list[int]) -> Any:
    """A post-cfg function as SkipLayerGuidance has it, whose answer is thrown away."""

    def post_cfg(args: dict) -> Tensor:
        count.append(1)
        conds = [args["cond"], args["uncond"]]
        comfy.samplers.calc_cond_batch(args["model"], conds, args["input"], args["sigma"], args["model_options"])
        return args["denoised"]

    patched = model.clone()
    patched.set_model_sampler_post_cfg_function(post_cfg)
    return patched


@pytest.mark.parametrize("inputs", [{}, {"clean_refresh": True}, {"frames": 57, "window": 33}], ids=str)
def test_asking_again_does_not_disturb_what_is_remembered(mc, inputs: dict):
    count: list[int] = []
    asked = mc.sample(ask_again_and_ignore(mc.cached(), count), **STEPS, **inputs)
    quiet = mc.sample(mc.cached(), **STEPS, **inputs)
    assert len(count) == quiet.summary["model_calls"]
    assert asked.outcomes == quiet.outcomes
    assert torch.equal(asked.latents, quiet.latents)
    assert asked.summary["flops"] > quiet.summary["flops"], "the second passes cost something"


def test_skip_layer_guidance(mc):
    def skip(model: Any, scale: float) -> Any:
        return SkipLayerGuidanceDiT.execute(
            model, scale=scale, start_percent=0.0, end_percent=1.0, double_layers="1", single_layers=""
        ).args[0]

    quiet, guided = mc.sample(mc.cached(), **STEPS), mc.sample(skip(mc.cached(), 3.0), **STEPS)
    assert torch.equal(mc.sample(skip(mc.cached(), 0.0), **STEPS).latents, quiet.latents)
    assert (guided.latents - quiet.latents).abs().max() > 0.05 and torch.isfinite(guided.latents).all()
    refreshed = mc.sample(skip(mc.load(), 3.0), clean_refresh=True)
    mc.assert_near(refreshed.latents, mc.sample(skip(mc.load(), 3.0), attention="vanilla block-causal").latents, 1e-4)


def test_skipped_layers_of_the_negative_branch(mc):
    """The simple form replaces blocks of the unconditional branch itself, in its primary pass."""

    def skip(model: Any) -> Any:
        return SkipLayerGuidanceDiTSimple.execute(
            model, start_percent=0.0, end_percent=1.0, double_layers="0, 1", single_layers=""
        ).args[0]

    refreshed, plain = mc.sample(skip(mc.load()), clean_refresh=True), mc.sample(clean_refresh=True)
    assert (refreshed.latents - plain.latents).abs().max() > 0.05
    mc.assert_near(refreshed.latents, mc.sample(skip(mc.load()), attention="vanilla block-causal").latents, 1e-4)
    assert torch.equal(mc.sample(skip(mc.load()), guidance=1.0).latents, mc.sample(guidance=1.0).latents)
    cached = mc.sample(skip(mc.cached(chunk_threshold=0.3)), **STEPS)
    assert cached.summary["branch_steps"]["reused"] > 0 and torch.isfinite(cached.latents).all()


def test_functions_around_the_guidance_see_chunk_and_level(mc, plain):
    seen = []

    def cfg_function(args: dict) -> Tensor:
        seen.append((tuple(args["input"].shape), float(args["sigma"][0])))
        return args["input"] - (args["uncond_denoised"] + (args["cond_denoised"] - args["uncond_denoised"]) * 6.0)

    model = mc.load()
    model.set_model_sampler_cfg_function(cfg_function)
    mc.assert_near(mc.sample(model).latents, plain.latents, 1e-4)
    plan = mc.plan()
    assert seen == [((1, 16, call.frames, 6, 8), pytest.approx(call.sigma)) for call in plan.calls]


# -- previews and progress ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["node", "object"])
@pytest.mark.parametrize("inputs", [{}, {"frames": 57, "window": 33}], ids=str)
def test_a_preview_shows_the_newest_frame_and_progress_counts_calls(
    mc, monkeypatch: pytest.MonkeyPatch, way: str, inputs: dict
):
    """ComfyUI's previews show the first frame of what they get."""
    import latent_preview

    predictions, shown = [], []
    model = mc.load()
    model.set_model_sampler_post_cfg_function(lambda args: predictions.append(args["denoised"]) or args["denoised"])

    def prepare(patcher: Any, steps: int, x0_output: dict | None = None) -> Any:
        def callback(step: int, x0: Tensor, x: Tensor, total: int) -> None:
            shown.append((step, x0.clone(), total))
            if x0_output is not None:
                x0_output["x0"] = x0

        return callback

    monkeypatch.setattr(latent_preview, "prepare_callback", prepare)
    plan = mc.plan(**inputs)
    if way == "node":
        mc.sample(model, **inputs)
    else:
        mc.custom(cfg_guider(mc, model), **inputs)
    assert [(step, total) for step, _, total in shown] == [(i, len(plan.calls)) for i in range(len(plan.calls))]
    last = len(plan.calls) - (way == "object")  # the object's last one is the whole video, in order
    for (_, x0, _), prediction in list(zip(shown, predictions, strict=True))[:last]:
        assert torch.equal(x0[:, :, :1], prediction[:, :, -1:])
    if way == "object":
        assert shown[-1][1].shape[2] == plan.latent_frames
