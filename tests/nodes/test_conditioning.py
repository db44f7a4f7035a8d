"""LoRA, hooks, prompts over time, and what is refused: through ComfyUI's own nodes, with and without the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from comfy_extras.nodes_custom_sampler import CFGGuider
from safetensors.torch import save_file
from torch import Tensor

STEPS = {"steps": 8}
"""Enough for the token phase."""


# -- LoRA and hooks ----------------------------------------------------------------------------------------------------

STRENGTH = 0.7
LAYERS = {
    "blocks.0.self_attn.q": (128, 128),
    "blocks.1.ffn.0": (256, 128),
    "blocks.1.cross_attn.k": (128, 128),
    "time_projection.1": (768, 128),
}


@pytest.fixture(scope="module")
def lora(_model_folder: Path) -> dict[str, Tensor]:
    """A LoRA file of rank 2, known to ComfyUI as ``tiny_lora.safetensors``."""
    import folder_paths

    generator = torch.Generator().manual_seed(4)
    weights = {}
    for layer, (rows, columns) in LAYERS.items():
        weights[f"diffusion_model.{layer}.lora_up.weight"] = torch.randn(rows, 2, generator=generator) * 0.15
        weights[f"diffusion_model.{layer}.lora_down.weight"] = torch.randn(2, columns, generator=generator) * 0.15
    save_file(weights, _model_folder / "tiny_lora.safetensors")
    folder_paths.add_model_folder_path("loras", str(_model_folder))
    return weights


def with_lora(model: Any) -> Any:
    import nodes

    return nodes.LoraLoaderModelOnly().load_lora_model_only(model, "tiny_lora.safetensors", STRENGTH)[0]


def test_a_lora_of_the_core_loader_is_its_weights_merged_and_leaves_the_base_alone(
    mc, plain, lora: dict[str, Tensor], _model_folder: Path
):
    from tools import tiny_checkpoints

    weights = tiny_checkpoints.transformer()
    for layer in LAYERS:
        up, down = (lora[f"diffusion_model.{layer}.lora_{way}.weight"] for way in ("up", "down"))
        weights[f"{layer}.weight"] = weights[f"{layer}.weight"] + STRENGTH * (up @ down)
    save_file(weights, _model_folder / "tiny_merged.safetensors")
    found = mc.sample(with_lora(mc.load()))
    assert (found.latents - plain.latents).abs().max() > 0.05
    mc.assert_near(found.latents, mc.sample(mc.load("tiny_merged.safetensors")).latents, 1e-4)
    assert torch.equal(mc.sample(mc.load()).latents, plain.latents)


def test_a_lora_works_before_and_behind_the_cache_node(mc, lora: dict[str, Tensor]):
    before, behind = mc.sample(mc.cached(with_lora(mc.load()))), mc.sample(with_lora(mc.cached()))
    assert torch.equal(before.latents, behind.latents) and before.outcomes == behind.outcomes
    assert (before.latents - mc.sample(mc.cached()).latents).abs().max() > 0.05


def hooks() -> Any:
    from comfy_extras.nodes_hooks import CreateHookLoraModelOnly

    return CreateHookLoraModelOnly().create_hook_model_only("tiny_lora.safetensors", STRENGTH)[0]


def hooked(prompt: list, group: Any) -> list:
    from comfy_extras.nodes_hooks import ConditioningSetProperties

    return ConditioningSetProperties().set_properties(prompt, 1.0, "default", hooks=group)[0]


def test_a_lora_as_hook_on_both_prompts_is_the_lora(mc, lora: dict[str, Tensor]):
    group = hooks()
    prompts = {"positive": hooked(mc.positive, group), "negative": hooked(mc.negative, group)}
    found = mc.sample(mc.cached(), **prompts)
    expected = mc.sample(with_lora(mc.cached()))
    assert found.outcomes == expected.outcomes
    mc.assert_near(found.latents, expected.latents, 1e-5)


def test_a_lora_as_hook_on_one_prompt_changes_that_branch_only(mc, plain, lora: dict[str, Tensor]):
    """With the same prompt on both sides, guidance adds the difference that the LoRA makes; without LoRA, nothing."""
    same = {"positive": mc.positive, "negative": mc.positive}
    alone = mc.sample(guidance=1.0)
    mc.assert_near(mc.sample(**same).latents, alone.latents, 1e-4)
    one = mc.sample(positive=hooked(mc.positive, hooks()), negative=mc.positive, guidance=1.0)
    mc.assert_near(one.latents, mc.sample(with_lora(mc.load()), guidance=1.0).latents, 1e-5)
    other = mc.sample(positive=mc.positive, negative=hooked(mc.positive, hooks()), guidance=6.0)
    assert (other.latents - alone.latents).abs().max() > 0.05
    assert torch.equal(mc.sample().latents, plain.latents), "the base is as before"


def test_hooks_with_keyframes_are_refused(mc, lora: dict[str, Tensor]):
    from comfy_extras.nodes_hooks import CreateHookKeyframe, SetHookKeyframes

    frames = CreateHookKeyframe().create_hook_keyframe(1.0, 0.0)[0]
    one = SetHookKeyframes().set_hook_keyframes(hooks(), frames)[0]
    assert torch.isfinite(mc.sample(positive=hooked(mc.positive, one)).latents).all()
    two = SetHookKeyframes().set_hook_keyframes(
        hooks(), CreateHookKeyframe().create_hook_keyframe(0.5, 0.5, frames)[0]
    )[0]
    with pytest.raises(ValueError, match="positive has hooks with keyframes"):
        mc.sample(positive=hooked(mc.positive, two))


# -- prompts over time -------------------------------------------------------------------------------------------------


def during(prompt: list, start: float, end: float) -> list:
    import nodes

    return nodes.ConditioningSetTimestepRange().set_range(prompt, start, end)[0]


@pytest.mark.parametrize("inputs", [{}, {"clean_refresh": True, "frames": 33}], ids=str)
def test_the_same_prompt_first_and_then_is_the_prompt(mc, inputs: dict):
    start = {"samples": torch.randn(1, 16, 2, 6, 8, generator=torch.Generator().manual_seed(3))}
    twice = during(mc.positive, 0.0, 0.4) + during(mc.positive, 0.4, 1.0)
    expected = mc.sample(start_latents=start, **inputs)
    assert torch.equal(mc.sample(positive=twice, start_latents=start, **inputs).latents, expected.latents)


def test_another_prompt_from_some_level_on(mc, plain):
    other = mc.prompt(7)
    changed = mc.sample(positive=during(mc.positive, 0.0, 0.4) + during(other, 0.4, 1.0))
    assert (changed.latents - plain.latents).abs().max() > 0.01
    assert (changed.latents - mc.sample(positive=other).latents).abs().max() > 0.01


def test_a_new_prompt_computes_that_step(mc):
    """The residual of another prompt is not reused."""
    twice = during(mc.positive, 0.0, 0.5) + during(mc.positive, 0.5, 1.0)
    model = mc.cached(granularity="chunk", chunk_threshold=1e9)
    assert mc.sample(model, **STEPS).summary["branch_steps"]["full"] == 2 * 2 * 3
    found = mc.sample(model, positive=twice, **STEPS)
    full = [(step, role) for _, step, role, _, outcome, _ in found.outcomes if outcome == "full" and step > 1]
    assert {role for _, role in full} == {"positive/0/0"} and len(full) == 3, "once for each chunk"


def test_two_prompts_at_once_keep_apart(mc):
    """Combined prompts: both are asked at every step and averaged."""
    both = mc.positive + mc.prompt(7)
    found = mc.sample(mc.cached(), positive=both, **STEPS)
    assert {role for _, _, role, *_ in found.outcomes} == {"positive/0/0", "positive/1/0", "negative/0/0"}
    same = mc.sample(mc.cached(), positive=mc.positive + mc.positive, **STEPS)
    mc.assert_near(same.latents, mc.sample(mc.cached(), **STEPS).latents, 1e-4)
    refreshed = mc.sample(positive=both, clean_refresh=True)
    mc.assert_near(refreshed.latents, mc.sample(positive=both, attention="vanilla block-causal").latents, 1e-4)


@pytest.mark.parametrize("ranges", [((0.0, 1.0), (0.5, 1.0)), ((0.0, 0.6), (0.5, 1.0)), ((0.2, 1.0), (0.0, 1.0))])
def test_prompts_that_overlap_for_a_part_of_the_time_are_refused_chunk_by_chunk(mc, ranges: tuple):
    both = during(mc.positive, *ranges[0]) + during(mc.prompt(7), *ranges[1])
    with pytest.raises(ValueError, match="positive has prompts that are used together for a part of the steps"):
        mc.sample(positive=both)
    assert torch.isfinite(mc.sample(positive=both, attention="vanilla full").latents).all()


def test_two_prompts_with_one_range_work(mc):
    both = during(mc.positive, 0.0, 0.5) + during(mc.prompt(7), 0.0, 0.5) + during(mc.positive, 0.5, 1.0)
    with pytest.raises(ValueError, match="used together for a part"):
        mc.sample(positive=both)
    whole = during(mc.positive, 0.0, 1.0) + during(mc.positive, 0.0, 1.0)
    mc.assert_near(mc.sample(positive=whole).latents, mc.sample().latents, 1e-4)


# -- refused -----------------------------------------------------------------------------------------------------------


def test_an_area_a_controlnet_and_boxes_are_refused_before_the_model_loads(mc, loads: list):
    import comfy.controlnet

    import nodes

    area = nodes.ConditioningSetArea().append(mc.positive, 32, 32, 0, 0, 1.0)[0]
    control = [[mc.positive[0][0], {"control": comfy.controlnet.ControlBase()}]]
    boxes = [[mc.positive[0][0], {"gligen": ("position", None, [])}]]
    for prompt, what in ((area, "an area"), (control, "a ControlNet"), (boxes, "GLIGEN boxes")):
        for inputs in ({"positive": prompt}, {"negative": prompt}):
            with pytest.raises(ValueError, match=f"{next(iter(inputs))} uses {what}"):
                mc.sample(**inputs)
    assert not loads


@pytest.mark.parametrize("attention", ["chunk-wise", "vanilla full"])
def test_context_windows_are_refused(mc, loads: list, attention: str):
    from comfy_extras.nodes_context_windows import WanContextWindowsManualNode

    model = WanContextWindowsManualNode.execute(mc.load(), 17, 5, "standard_static", 1, False, "pyramid").args[0]
    with pytest.raises(ValueError, match="context windows"):
        mc.sample(model, attention=attention)
    assert not loads


@pytest.mark.parametrize("name", ["EasyCache", "LazyCache"])
def test_step_caches_are_refused_chunk_by_chunk_and_run_in_vanilla_sampling(mc, name: str):
    from comfy_extras import nodes_easycache

    node = getattr(nodes_easycache, f"{name}Node")
    model = node.execute(mc.load(), 5.0, 0.1, 0.95, False).args[0]
    together = {"attention": "vanilla full", "ar_step": 0, "frames": 41, "window": 25}
    found, plain = mc.sample(model, **together), mc.sample(**together)
    assert torch.isfinite(found.latents).all()
    assert (found.latents - plain.latents).abs().max() > 1e-3, "it left out steps"
    for inputs in ({"ar_step": 0}, {"attention": "vanilla full"}, {"attention": "vanilla block-causal", "ar_step": 3}):
        with pytest.raises(
            ValueError, match="EasyCache or LazyCache.*set attention to 'vanilla full' and ar_step to 0"
        ):
            mc.sample(model, **inputs)
    guider = CFGGuider.execute(model, mc.positive, mc.negative, 6.0).args[0]
    with pytest.raises(ValueError, match="make the video in one window"):
        mc.custom(guider, **together)
    assert torch.isfinite(mc.custom(guider, **together | {"window": 57})[0]).all()


def test_a_prompt_that_a_node_on_the_model_brings_is_refused_chunk_by_chunk(mc):
    """The old Perp-Neg node asks for a prompt of its own, which no list of the guider holds."""
    from comfy_extras.nodes_perpneg import PerpNeg

    model = PerpNeg.execute(mc.load(), mc.prompt(7), 1.0).args[0]
    with pytest.raises(ValueError, match="a node on the MODEL brings a prompt of its own"):
        mc.sample(model)
    assert torch.isfinite(mc.sample(model, attention="vanilla full").latents).all()
