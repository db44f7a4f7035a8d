"""Chains of storyboard nodes with ComfyUI's own objects: equal to one run, immutable, and each stretch with its own."""

from __future__ import annotations

import gc
import json
from typing import Any

import pytest
import torch
from torch import Tensor

CHUNK = 3
"""Latent frames of a chunk in the defaults."""
BEGIN: dict[str, Any] = {
    "width": 64,
    "height": 48,
    "fps": 24.0,
    "seed": 1,
    "steps": 6,
    "shift": 8.0,
    "chunk_size": CHUNK,
    "ar_step": 2,
    "window": 33,
    "history_noise": 20,
    "clean_refresh": False,
    "solver": "unipc",
    "kv_precision": "model",
    "kv_place": "GPU",
    "keep": "as computed",
}
STRETCH: dict[str, Any] = {
    "guidance": 6.0,
    "noise": "continue",
    "seed": 0,
    "cache": "as the MODEL says",
    "threshold": -1.0,
}


class Board:
    """The nodes."""

    def __init__(self, mc: Any):
        self.mc, self.nodes, self.begins = mc, mc.module("nodes.storyboard"), mc.module("nodes.begin")

    def begin(self, model: Any = None, **inputs: Any) -> Any:
        return self.begins.MotionCacheBeginVideo.execute(model or self.mc.cached(), **(BEGIN | inputs)).args[0]

    def more(self, take: Any, chunks: int, positive: Any = None, negative: Any = "own", **inputs: Any) -> Any:
        negative = self.mc.negative if negative == "own" else negative
        node = self.nodes.MotionCacheGenerateChunks
        return node.execute(take, positive or self.mc.positive, chunks, negative=negative, **(STRETCH | inputs)).args[0]

    def finish(self, take: Any) -> tuple[Tensor, dict[str, Any], Any]:
        """(latents, report, take)."""
        made = self.nodes.MotionCacheFinishVideo.execute(take).args
        return made[0]["samples"], json.loads(made[1]), made[4]

    def whole(self, chunks: int, model: Any = None, start: int = 0, **inputs: Any) -> Any:
        """The same in one run of the sampler."""
        frames = (start + chunks * CHUNK - 1) * 4 + 1
        values = {"frames": frames, "window": BEGIN["window"], "history": "sliding window", **inputs}
        return self.mc.sample(model or self.mc.cached(), **values)


@pytest.fixture
def board(mc: Any) -> Board:
    return Board(mc)


@pytest.mark.parametrize("parts", [(1, 1, 1, 1, 1), (2, 3), (5,)])
def test_a_chain_equals_the_sampler(board: Board, parts: tuple[int, ...]):
    take = board.begin()
    for chunks in parts:
        take = board.more(take, chunks)
    latents, report, _ = board.finish(take)
    whole = board.whole(5)
    assert {branch["outcome"] for call in report["calls"] for branch in call["branches"]} == {
        "full",
        "partial",
        "reused",
    }
    assert torch.equal(latents, whole.latents)
    keys = ("computed_fraction", "token_forwards", "model_calls", "branch_steps", "flops")
    assert {key: report["summary"][key] for key in keys} == {key: whole.summary[key] for key in keys}


@pytest.mark.parametrize("refresh", [True, False])
def test_with_a_start_a_chain_equals_the_sampler(board: Board, refresh: bool):
    given = {"samples": torch.randn(1, 16, 4, 6, 8, generator=torch.Generator().manual_seed(3))}
    take = board.begin(start_latents=given, clean_refresh=refresh)
    latents, _, _ = board.finish(board.more(board.more(take, 1), 2))
    whole = board.whole(3, start=4, start_latents=given, clean_refresh=refresh).latents
    assert torch.equal(latents[:, :, 4:], whole[:, :, 4:])
    assert torch.equal(latents[:, :, :4], given["samples"])  # the sampler takes them through the model's units and back


def test_branches_equal_the_unbranched_and_leave_the_middle_alone(board: Board):
    other = board.mc.prompt(7)
    middle = board.more(board.begin(), 3)
    kept = {name: tensor.clone() for name, tensor in middle.parked.tensors.items()}
    one, _, _ = board.finish(board.more(middle, 2))
    two, _, _ = board.finish(board.more(middle, 2, positive=other))
    again, _, _ = board.finish(board.more(middle, 2))
    assert torch.equal(one, again) and torch.equal(one, board.whole(5).latents)
    assert torch.equal(one[:, :, : 3 * CHUNK], two[:, :, : 3 * CHUNK])
    assert not torch.equal(one[:, :, 3 * CHUNK :], two[:, :, 3 * CHUNK :])
    assert all(torch.equal(kept[name], tensor) for name, tensor in middle.parked.tensors.items())


def test_a_chunk_in_flight_keeps_its_own_settings(board: Board):
    """What the third node says changes nothing of the chunks that entered before it, though they are still in work."""
    other = board.mc.prompt(9)
    first = board.more(board.more(board.begin(), 2), 2)
    assert len(first.finished) < 4
    plain, _, _ = board.finish(board.more(first, 1))
    for changes in (
        {"positive": other},
        {"negative": board.mc.prompt(5)},
        {"guidance": 2.0},
        {"guidance": 1.0},
        {"noise": "own seed", "seed": 77},
        {"cache": "off"},
        {"threshold": 0.0},
    ):
        found, _, _ = board.finish(board.more(first, 1, **changes))
        assert torch.equal(found[:, :, : 4 * CHUNK], plain[:, :, : 4 * CHUNK]), changes
        assert not torch.equal(found[:, :, 4 * CHUNK :], plain[:, :, 4 * CHUNK :]), changes


@pytest.mark.parametrize("own", [{"cache": "off"}, {"threshold": 0.9}])
def test_cache_settings_of_a_stretch_end_with_it(board: Board, own: dict[str, Any]):
    take = board.more(board.more(board.more(board.begin(), 1), 1, **own), 1)
    first, second, third = (stretch.cache for stretch in take.stretches)
    assert first is not None and second != first and third == first


def test_another_model_for_a_stretch(board: Board):
    """A MODEL with other weights: the chunks in flight keep theirs, loaded in turn."""
    name = "diffusion_model.blocks.0.ffn.0.weight"
    changed = board.mc.cached()
    weight = changed.model.state_dict()[name]
    difference = torch.randn(weight.shape, generator=torch.Generator().manual_seed(4)) * 0.2
    changed.add_patches({name: ("diff", (difference,))})
    first = board.more(board.begin(), 2)
    plain, _, _ = board.finish(board.more(first, 2))
    found, _, _ = board.finish(board.more(first, 2, model=changed))
    assert torch.equal(found[:, :, : 2 * CHUNK], plain[:, :, : 2 * CHUNK])
    assert not torch.equal(found[:, :, 2 * CHUNK :], plain[:, :, 2 * CHUNK :])
    whole = board.finish(board.more(board.begin(changed), 2))[0]
    assert not torch.equal(whole, plain[:, :, : 2 * CHUNK])
    assert torch.equal(board.finish(board.more(first, 2))[0], plain)


def test_a_stretch_with_another_part_of_the_model(board: Board):
    """Parts that a node puts in place of the model's own have no id that tells them; chunks in flight keep theirs."""

    class Turned(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x) * 3

    first = board.more(board.begin(board.mc.load()), 2)
    plain = board.finish(board.more(first, 2))[0]
    changed = board.mc.load()
    changed.add_object_patch("diffusion_model.blocks.0.ffn.1", Turned())
    found = board.finish(board.more(first, 2, model=changed))[0]
    assert torch.equal(found[:, :, : 2 * CHUNK], plain[:, :, : 2 * CHUNK])
    assert not torch.equal(found[:, :, 2 * CHUNK :], plain[:, :, 2 * CHUNK :])
    assert torch.equal(board.finish(board.more(first, 2))[0], plain)


def test_guidance_one_in_the_middle_is_bridged(board: Board):
    """A stretch without a negative pass: later ones find its positive keys and values in their place."""
    take = board.more(board.more(board.begin(), 1), 2, guidance=1.0)
    latents, _, _ = board.finish(board.more(take, 2))
    assert latents.isfinite().all() and latents.std() > 0.1
    again, _, _ = board.finish(board.more(board.more(board.more(board.begin(), 1), 2, guidance=1.0), 2))
    assert torch.equal(latents, again)


def size(take: Any) -> int:
    return sum(t.nbytes for page in take.parked.pages.values() for layers in page.values() for t in layers)


@pytest.mark.parametrize(("keep", "share"), [("float16", 0.02), ("fp8_e4m3fn", 0.3)])
def test_smaller_states_are_near(board: Board, keep: str, share: float):
    exact = board.more(board.more(board.begin(), 3), 1)
    small = board.more(board.more(board.begin(keep=keep), 3), 1)
    assert size(small) <= size(exact) / 2
    found, wanted = board.finish(small)[0], board.finish(exact)[0]
    assert not torch.equal(found, wanted)
    board.mc.assert_near(found, wanted, share)


@pytest.mark.parametrize("keep", ["as computed", "fp8_e4m3fn", "float16"])
def test_a_store_in_fp8_goes_on(board: Board, keep: str):
    take = board.more(board.more(board.begin(kv_precision="fp8_e4m3fn", keep=keep), 3), 1)
    found = board.finish(take)[0]
    assert torch.equal(found, board.whole(4, kv_precision="fp8_e4m3fn").latents)


def test_a_batch_of_two_with_guidance_one_in_the_middle(board: Board):
    """Every sample finds its own memory in place of the negative one."""
    latents = torch.randn(2, 16, 3, 6, 8, generator=torch.Generator().manual_seed(3))

    def made(given: Any) -> Any:
        take = board.begin(board.mc.load(), start_latents={"samples": given}, keep="as computed")
        return board.finish(board.more(board.more(board.more(take, 1), 2, guidance=1.0), 2))[0]

    both = made(latents)
    alone = made(latents[:1])
    board.mc.assert_near(both[:1], alone, 1e-4)


def test_parts_that_see_motion_in_other_ways(board: Board):
    other = board.mc.cached(motion_source="clean prediction")
    latents, report, _ = board.finish(board.more(board.more(board.begin(), 3), 2, model=other))
    assert latents.isfinite().all()
    assert any("different cache settings" in note for note in report["notes"])


def test_another_lora_is_told_to_be_slow(board: Board, caplog: pytest.LogCaptureFixture):
    changed = board.mc.cached()
    name = "diffusion_model.blocks.0.ffn.0.bias"
    changed.add_patches({name: ("diff", (torch.ones_like(changed.model.state_dict()[name]),))})
    first = board.more(board.begin(), 1)
    board.more(first, 1, positive=board.mc.prompt(3))
    assert "a LoRA or another patch" not in caplog.text
    board.more(first, 1, model=changed)
    assert "a LoRA or another patch of its own" in caplog.text


def test_a_lora_on_a_prompt_is_told_to_be_slow(board: Board, caplog: pytest.LogCaptureFixture):
    from comfy.hooks import create_hook_lora

    name = "blocks.0.ffn.0"
    rows, columns = board.mc.load().model.state_dict()[f"diffusion_model.{name}.weight"].shape
    lora = {
        f"diffusion_model.{name}.lora_up.weight": torch.full((rows, 2), 0.1),
        f"diffusion_model.{name}.lora_down.weight": torch.ones(2, columns),
    }
    hooked = [[board.mc.positive[0][0], {"hooks": create_hook_lora(lora, 1.0, 0.0)}]]
    first = board.more(board.begin(), 1)
    board.more(board.more(first, 1, positive=hooked), 1, positive=hooked)
    assert "a LoRA or another patch of its own" in caplog.text


def test_latents_on_the_device_do_not_grow_with_the_chunks_of_one_node(board: Board, monkeypatch: Any):
    run = board.mc.module("nodes.host.take_run")
    most: dict[int, int] = {}
    enter = run.enter

    def seen(plan: Any, state: Any, chunks: Any, seed: int) -> None:
        enter(plan, state, chunks, seed)
        most[total] = max(most.get(total, 0), state.window.shape[2])

    monkeypatch.setattr(run, "enter", seen)
    for total in (8, 16):
        board.more(board.begin(board.mc.load(), steps=4, window=21), total)
    assert most[8] == most[16] < 8 * CHUNK


def test_a_state_that_keeps_nothing_makes_it_again(board: Board):
    """With clean refresh and all earlier chunks in sight, what is made again from the latents is what was there."""
    settings = {"model": board.mc.load(), "clean_refresh": True, "window": 97}
    exact = board.finish(board.more(board.more(board.begin(**settings), 3), 1))[0]
    small = board.more(board.more(board.begin(**settings, keep="nothing"), 3), 1)
    assert size(small) == 0 and len(small.finished) >= 1
    found, report, _ = board.finish(small)
    board.mc.assert_near(found, exact, 1e-4)
    assert any("made again from their latents" in note for note in report["notes"])


def together(takes: list[Any]) -> int:
    """Bytes of the keys and values that several takes hold, shared ones counted once, as ComfyUI's cache has them."""
    pages = {id(page): page for take in takes for page in take.parked.pages.values()}
    return sum(tensor.nbytes for page in pages.values() for layers in page.values() for tensor in layers)


def test_with_finished_chunks_kept_a_chain_holds_little_more_than_a_take(board: Board):
    takes = {}
    for keep in ("as computed", "finished chunks"):
        take, made = board.begin(keep=keep, window=29), []
        for _ in range(9):
            take = board.more(take, 1)
            made.append(take)
        takes[keep] = made
    some, all_of_it = (together(takes[keep]) for keep in ("finished chunks", "as computed"))
    page = size(takes["finished chunks"][-1]) / len(takes["finished chunks"][-1].parked.pages)
    assert some <= page * len(takes["finished chunks"][-1].finished), "a page for each finished chunk"
    assert all_of_it > 3 * some
    beside = {keep: made[-1].bytes_beside(made[-2]) for keep, made in takes.items()}
    assert 0 < beside["finished chunks"] < beside["as computed"] - 1.9 * page


def test_chunks_in_flight_whose_keys_are_not_kept_compute_one_step_in_full(board: Board):
    take = board.more(board.begin(keep="finished chunks"), 3)
    known = len(take.report.calls)
    again = board.more(take, 1).report.calls[known:]
    exact = board.more(board.more(board.begin(), 3), 1).report.calls[known:]
    in_flight = {chunk for call in again for chunk in call["chunks"]} - {"chunk 4"}
    assert in_flight
    for chunk in in_flight:
        steps = [[call for call in calls if call["chunks"] == [chunk]] for calls in (again, exact)]
        assert all(branch["outcome"] == "full" for branch in steps[0][0]["branches"])
        assert len(steps[0]) == len(steps[1]), "no step more"
    assert any(branch["outcome"] != "full" for call in exact for branch in call["branches"])
    assert any(branch["outcome"] != "full" for call in again for branch in call["branches"]), (
        "warm-up does not begin anew"
    )


def test_without_a_cache_finished_chunks_are_all_that_is_needed(board: Board):
    exact = board.finish(board.more(board.more(board.begin(board.mc.load()), 3), 2))[0]
    some = board.more(board.begin(board.mc.load(), keep="finished chunks"), 3)
    assert torch.equal(board.finish(board.more(some, 2))[0], exact)


def test_keys_and_values_that_no_device_holds_are_refused(board: Board, loads: list[Any], monkeypatch: Any):
    import comfy.model_management as management

    monkeypatch.setattr(management, "get_total_memory", lambda device: 100_000)
    with pytest.raises(ValueError, match=r"need 0.0 GB, and cpu has 0.0 GB in all; set kv_precision"):
        board.more(board.begin(), 5)
    assert loads == []
    with pytest.raises(
        ValueError, match=r"need 0.0 GB, and main memory has 0.0 GB in all; set kv_precision to fp8_\S+,"
    ):
        board.more(board.begin(kv_place="CPU"), 5)
    assert loads == []


def test_nothing_is_left_behind(board: Board, left_behind: Any):
    take = board.more(board.begin(), 2)
    board.finish(take)
    del take
    assert left_behind() == []


def test_interrupted_stretches_leave_nothing_and_go_again(board: Board, left_behind: Any, monkeypatch: Any):
    import comfy.model_management as management

    first = board.more(board.begin(), 2)
    calls = 0

    def interrupt() -> None:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise management.InterruptProcessingException

    with monkeypatch.context() as patch:
        patch.setattr(management, "throw_exception_if_processing_interrupted", interrupt)
        with pytest.raises(management.InterruptProcessingException):
            board.more(first, 2)
    gc.collect()
    assert torch.equal(board.finish(board.more(first, 2))[0], board.whole(4).latents)


@pytest.mark.parametrize(
    ("begin", "stretch", "message"),
    [
        ({"ar_step": 0}, {}, "ar_step is 0"),
        ({"width": 60}, {}, "width is 60 pixels"),
        ({"window": 9}, {}, "window is 9 frames"),
        ({"history_noise": 1000}, {}, "history_noise is 1000"),
        ({"keep": "float9"}, {}, "keep is 'float9'; it must be one of as computed"),
        ({"kv_precision": "float9"}, {}, "kv_precision is 'float9'"),
        ({"width": -64, "height": 0}, {}, "width is -64 pixels"),
        ({}, {"negative": None}, "negative is not connected, but guidance is 6"),
    ],
)
def test_what_cannot_be_made_is_refused_before_loading(
    board: Board, loads: list[Any], begin: dict[str, Any], stretch: dict[str, Any], message: str
):
    with pytest.raises(ValueError, match=message):
        board.more(board.begin(**begin), 1, **stretch)
    assert loads == []


def test_a_take_without_chunks_cannot_be_finished(board: Board):
    with pytest.raises(ValueError, match="has no chunks yet"):
        board.finish(board.begin())
