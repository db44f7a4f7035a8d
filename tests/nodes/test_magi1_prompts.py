"""Prompts that change from chunk to chunk, through the real nodes with tiny random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tools import tiny_magi1

CHUNK = 6
"""Latent frames."""
THREE = {"frames": 72, "steps": 4}
every_model = pytest.mark.parametrize("name", [None, tiny_magi1.MERGED], ids=["base", "distilled"])


def loaded(magi: Any, name: str | None) -> Any:
    return magi.load(name) if name else magi.load()


@every_model
@pytest.mark.parametrize("attention", ["chunk-wise", "vanilla (window together)"])
def test_a_prompt_acts_from_its_chunk_on_and_leaves_those_before_untouched(magi: Any, name: str | None, attention: str):
    model = loaded(magi, name)
    plain = magi.sample(model, **THREE, attention=attention).latents
    other = magi.chunk_prompts((2, magi.mc.prompt(7)))
    edited = magi.sample(model, **THREE, attention=attention, chunk_prompts=other).latents
    # passed together, rows of other lengths may be rounded otherwise
    magi.mc.assert_near(edited[:, :, :CHUNK], plain[:, :, :CHUNK], 0.0 if attention == "chunk-wise" else 1e-5)
    for chunk in (1, 2):
        own = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
        assert (edited[:, :, own] - plain[:, :, own]).abs().max() > 1e-3


def test_every_chunk_of_a_chain_has_its_own_prompt_in_whatever_order_it_was_made(magi: Any):
    second, third = magi.mc.prompt(7), magi.mc.prompt(8, tokens=5)
    both, turned = magi.chunk_prompts((2, second), (3, third)), magi.chunk_prompts((3, third), (2, second))
    made = magi.sample(**THREE, chunk_prompts=both).latents
    assert torch.equal(magi.sample(**THREE, chunk_prompts=turned).latents, made)
    only_second = magi.sample(**THREE, chunk_prompts=magi.chunk_prompts((2, second))).latents
    assert torch.equal(made[:, :, : 2 * CHUNK], only_second[:, :, : 2 * CHUNK])
    assert (made[:, :, 2 * CHUNK :] - only_second[:, :, 2 * CHUNK :]).abs().max() > 1e-3


def test_a_prompt_for_the_first_chunk_stands_for_positive(magi: Any):
    other = magi.mc.prompt(7)
    made = magi.sample(frames=24, steps=4, chunk_prompts=magi.chunk_prompts((1, other))).latents
    assert torch.equal(made, magi.sample(positive=other, frames=24, steps=4).latents)


def test_the_same_prompt_again_changes_nothing(magi: Any):
    again = magi.chunk_prompts((2, [[magi.positive[0][0].clone(), {}]]))
    assert torch.equal(magi.sample(**THREE, chunk_prompts=again).latents, magi.sample(**THREE).latents)


def test_chunks_of_a_start_video_are_not_counted(magi: Any):
    given = torch.randn(1, 16, CHUNK, 6, 8, generator=torch.Generator().manual_seed(3))
    inputs = {"start_latents": {"samples": given}, "frames": 48, "steps": 4}
    plain = magi.sample(**inputs).latents
    edited = magi.sample(**inputs, chunk_prompts=magi.chunk_prompts((2, magi.mc.prompt(7)))).latents
    assert plain.shape[2] == 3 * CHUNK
    assert torch.equal(edited[:, :, : 2 * CHUNK], plain[:, :, : 2 * CHUNK])
    assert (edited[:, :, 2 * CHUNK :] - plain[:, :, 2 * CHUNK :]).abs().max() > 1e-3


@every_model
def test_motioncache_with_prompts_that_change(magi: Any, name: str | None):
    prompts = magi.chunk_prompts((2, magi.mc.prompt(7)))
    cached = magi.sample(magi.cached(loaded(magi, name)), frames=48, chunk_prompts=prompts)
    assert all(count > 0 for count in cached.summary["branch_steps"].values())
    strict = magi.cached(loaded(magi, name), chunk_threshold=0.0, token_threshold=0.0)
    plain = magi.sample(loaded(magi, name), frames=48, chunk_prompts=prompts)
    assert torch.equal(magi.sample(strict, frames=48, chunk_prompts=prompts).latents, plain.latents)


def test_special_tokens_and_padding_belong_to_each_prompt(magi: Any):
    module, text = magi.mc.module("nodes.host.magi1_prompts"), magi.mc.module("motioncache_core.models.magi1.text")
    vectors = torch.randn(8, 4096, generator=torch.Generator().manual_seed(4))
    options = {text.TOKENS_KEY: [text.DURATION], text.VECTORS_KEY: vectors}
    (first, _), mask = magi.positive[0], torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0]])
    prompts = magi.chunk_prompts((2, [[first + 1, options]]), (4, [[first + 2, {"attention_mask": mask}]]))
    script = module.Script.of(magi.positive, prompts, 4096)
    (texts,) = script.texts(chunks=6, given_chunks=1, longest=800, samples=1)
    assert [texts[chunk].shape[0] for chunk in range(6)] == [8, 8, 9, 9, 3, 3]
    assert texts[0] is texts[1] and texts[4] is texts[5], "equal texts are made once"
    assert torch.equal(texts[0], first[0]) and torch.equal(texts[4], (first + 2)[0, :3])
    for chunk in (2, 3):
        assert torch.equal(texts[chunk][0], vectors[5 - chunk]), "as many chunks are still to come"
        assert torch.equal(texts[chunk][1:], (first + 1)[0])
    assert script.longest == 8


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (((4, 0),), r"the prompt for chunk 4 begins behind the end of the video, which has 3 chunks .* \(nearest: 3\)"),
        (((2, 0), (2, 1)), r"first_chunk is 2, and a prompt of the chain begins there already \(nearest: 1\)"),
        (((1, 0), (2, 1), (2, 2)), r"begins there already \(nearest: 3\)"),
        (((0, 0),), r"first_chunk is 0; chunks count from 1 \(nearest: 1\)"),
    ],
    ids=["behind the end", "twice", "twice, and the one before", "zero"],
)
def test_chunks_that_cannot_be_are_refused_with_the_nearest(magi: Any, prompts: tuple, message: str):
    with pytest.raises(ValueError, match=message):
        magi.sample(**THREE, chunk_prompts=magi.chunk_prompts(*((c, magi.mc.prompt(seed)) for c, seed in prompts)))


@pytest.mark.parametrize(
    ("conditioning", "message"),
    [
        ([[torch.zeros(1, 4, 768), {}]], "the prompt for chunk 2 has shape .*MAGI-1 takes text of width 4096"),
        ([[torch.zeros(1, 4, 4096), {}]] * 2, "the prompt for chunk 2 holds 2 prompts; MAGI-1 takes one"),
        ([[torch.zeros(1, 4, 4096), {"end_percent": 0.5}]], "the prompt for chunk 2 holds for a part of the steps"),
        ([[torch.zeros(1, 4, 4096), {"area": (1, 1, 0, 0)}]], "the prompt for chunk 2 uses an area of the picture"),
        ([[torch.zeros(1, 4, 4096), {"mask": torch.ones(1, 48, 64)}]], "the prompt for chunk 2 has a mask"),
    ],
    ids=["another encoder", "two prompts", "timestep range", "area", "mask"],
)
def test_prompts_that_cannot_be_served_are_refused_by_their_chunk(magi: Any, conditioning: list, message: str):
    with pytest.raises(ValueError, match=message):
        magi.sample(chunk_prompts=magi.chunk_prompts((2, conditioning)))


def test_hooks_belong_to_the_prompt_that_all_chunks_share(magi: Any):
    import comfy.hooks

    hooked = [[torch.zeros(1, 4, 4096), {"hooks": comfy.hooks.HookGroup()}]]
    with pytest.raises(ValueError, match="the prompt for chunk 2 has hooks .*; only positive"):
        magi.sample(chunk_prompts=magi.chunk_prompts((2, hooked)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": torch.ones(1, 48, 64), "strength": 1.0}, "positive has a mask .*Remove the mask"),
        ({"area": (1, 1, 0, 0)}, "positive uses an area of the picture"),
        ({"control": object()}, "positive uses a ControlNet, which does not work chunk by chunk"),
        ({"gligen": ("position", None, [])}, "positive uses GLIGEN boxes"),
    ],
    ids=["mask", "area", "controlnet", "boxes"],
)
def test_what_holds_for_a_part_of_the_picture_is_refused_by_the_input(magi: Any, options: dict, message: str):
    """Not by the name of a pass of MAGI-1's guidance, which is no input."""
    with pytest.raises(ValueError, match=f"^{message}"):
        magi.sample(positive=[[magi.positive[0][0], options]])


def test_a_strength_has_no_effect_and_that_is_said(magi: Any, caplog: pytest.LogCaptureFixture):
    import nodes

    (strong,) = nodes.ConditioningSetAreaStrength().append(magi.positive, 0.3)
    found = magi.sample(positive=strong)
    assert "A prompt's strength (Conditioning Set Area Strength) has no effect" in caplog.text
    caplog.clear()
    assert torch.equal(found.latents, magi.sample().latents)
    assert "strength" not in caplog.text
