"""Chains of storyboard nodes with MAGI-1: equal to one run of its sampler, and each stretch with its own."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.nodes.test_storyboard import STRETCH, size
from tools import tiny_magi1

DISTILLED = tiny_magi1.MERGED
CHUNK = 24
"""Video frames of a chunk."""
NOT_OF_A_TAKE = ("frames", "attention")


class Board:
    """The nodes."""

    def __init__(self, magi: Any):
        self.magi, self.nodes = magi, magi.mc.module("nodes.storyboard")
        self.begins = magi.mc.module("nodes.begin")

    def begin(self, model: Any = None, **inputs: Any) -> Any:
        values = {name: value for name, value in self.magi.defaults.items() if name not in NOT_OF_A_TAKE}
        values |= {"declared_chunks": 0, "keep": "as computed"} | inputs
        return self.begins.MotionCacheBeginMagi1Video.execute(model or self.magi.cached(), **values).args[0]

    def more(self, take: Any, chunks: int, positive: Any = None, **inputs: Any) -> Any:
        node = self.nodes.MotionCacheGenerateChunks
        return node.execute(take, positive or self.magi.positive, chunks, **(STRETCH | inputs)).args[0]

    def finish(self, take: Any) -> tuple[Tensor, dict[str, Any], Any]:
        """(latents, report, take)."""
        made = self.nodes.MotionCacheFinishVideo.execute(take).args
        return made[0]["samples"], json.loads(made[1]), made[4]


@pytest.fixture
def board(magi: Any) -> Board:
    return Board(magi)


@pytest.mark.parametrize("name", [None, DISTILLED])
@pytest.mark.parametrize("refresh", [True, False])
def test_a_chain_equals_the_sampler(board: Board, name: str | None, refresh: bool):
    model = board.magi.cached(board.magi.load(name) if name else None)
    whole = board.magi.sample(model, frames=5 * CHUNK, clean_refresh=refresh)
    for parts in ((1, 1, 1, 1, 1), (2, 3)):
        take = board.begin(model, clean_refresh=refresh)
        for chunks in parts:
            take = board.more(take, chunks)
        latents, report, _ = board.finish(take)
        outcomes = {branch["outcome"] for call in report["calls"] for branch in call["branches"]}
        assert {"full", "partial", "reused"} == outcomes
        assert torch.equal(latents, whole.latents)
        assert report["summary"]["token_forwards"] == whole.summary["token_forwards"]


def test_without_a_cache_a_chain_equals_the_sampler(board: Board):
    model = board.magi.load()
    whole = board.magi.sample(model, frames=4 * CHUNK)
    latents, _, _ = board.finish(board.more(board.more(board.begin(model), 1), 3))
    assert torch.equal(latents, whole.latents)


@pytest.mark.parametrize("frames", [1, 4, 6, 9])
def test_with_a_start_a_chain_equals_the_sampler(board: Board, frames: int):
    given = {"samples": torch.randn(1, 16, frames, 6, 8, generator=torch.Generator().manual_seed(3))}
    options = {"start_latents": given, "continue_frames": 4 * max(frames, 2)}
    latents, _, _ = board.finish(board.more(board.more(board.begin(**options), 1), 2))
    made = latents.shape[2] - (frames if frames > 1 else 0)
    whole = board.magi.sample(board.magi.cached(), frames=4 * made, **options).latents
    assert latents.shape == whole.shape
    first = frames // 6 * 6  # whole given chunks stay as they are; the sampler takes them through the model's units
    assert torch.equal(latents[:, :, first:], whole[:, :, first:])


def test_prompts_of_stretches_equal_prompts_for_chunks(board: Board):
    """The sampler with *Prompt for chunks* and a chain whose second node has the other prompt are one video."""
    other = board.magi.mc.prompt(8)
    schedule = board.magi.chunk_prompts((3, other))
    whole = board.magi.sample(board.magi.cached(), frames=4 * CHUNK, chunk_prompts=schedule)
    latents, _, _ = board.finish(board.more(board.more(board.begin(), 2), 2, positive=other))
    assert torch.equal(latents, whole.latents)


def test_branches_and_memory(board: Board):
    middle = board.more(board.begin(), 4)
    one, _, _ = board.finish(board.more(middle, 2))
    two, _, _ = board.finish(board.more(middle, 2, positive=board.magi.mc.prompt(5)))
    assert torch.equal(one, board.finish(board.more(middle, 2))[0])
    assert torch.equal(one[:, :, :24], two[:, :, :24]) and not torch.equal(one[:, :, 24:], two[:, :, 24:])
    sizes = [size(middle)]
    for _ in range(5):
        middle = board.more(middle, 1)
        sizes.append(size(middle))
    assert sizes[1] == sizes[-1]


@pytest.mark.parametrize("window", [1, 2, 3, 4])
def test_a_state_that_keeps_nothing_goes_on(board: Board, window: int):
    options = {"window": window, "steps": {1: 8, 2: 8, 3: 12, 4: 8}[window]}
    small = board.more(board.more(board.begin(keep="nothing", **options), 5), 1)
    assert size(small) == 0
    latents, _, _ = board.finish(small)
    assert latents.isfinite().all()
    exact = board.finish(board.more(board.more(board.begin(**options), 5), 1))[0]
    assert torch.equal(latents[:, :, :6], exact[:, :, :6])
    board.magi.mc.assert_near(latents, exact, 0.5)


@pytest.mark.parametrize("keep", ["as computed", "finished chunks"])
def test_a_chunk_that_waits_for_its_clean_pass_is_not_made_again(board: Board, keep: str):
    take = board.begin(keep=keep)
    for chunks in (4, 1):
        take = board.more(take, chunks)
    assert not [note for note in board.finish(take)[1]["notes"] if "made again" in note]


@pytest.mark.parametrize("window", [1, 2])
def test_a_runs_last_row_is_whole_in_a_chain_too(board: Board, window: int):
    """With a window of one chunk it lies before the next chunk enters, which may never come."""
    reuses = {"warmup_steps": 1, "warmup_start": 0, "recompute_on_entry": False}
    model = board.magi.cached(**reuses, chunk_threshold=0.3, token_threshold=0.3)
    options = {"window": window, "steps": {1: 12, 2: 16}[window]}
    whole = board.magi.sample(model, frames=3 * CHUNK, **options)
    latents, report, _ = board.finish(board.more(board.more(board.begin(model, **options), 1), 2))
    assert torch.equal(latents, whole.latents)
    assert report["summary"]["flops"] == whole.summary["flops"]


@pytest.mark.parametrize("name", [None, DISTILLED], ids=["base", "distilled"])
@pytest.mark.parametrize("cached", [True, False], ids=["cached", "computed"])
@pytest.mark.parametrize("saves", [1, 2, 4])
def test_an_interrupted_take_goes_on_from_latents_only(
    board: Board, monkeypatch: pytest.MonkeyPatch, name: str | None, cached: bool, saves: int
):
    """What autosave writes unless asked for more: the chunk that is made next hardly differs."""
    import comfy.model_management as management

    model = board.magi.load(name) if name else board.magi.load()
    model = board.magi.cached(model) if cached else model
    straight, _, _ = board.finish(board.more(board.begin(model), 5))
    kept: list[Any] = []

    def save(path: Any, take: Any) -> None:
        kept.append(take)
        if len(kept) == saves:
            raise management.InterruptProcessingException

    with monkeypatch.context() as patch:
        patch.setattr(board.magi.mc.module("nodes.takes"), "save_take", save)
        with pytest.raises(management.InterruptProcessingException):
            take = board.more(board.begin(model), 5, autosave="kept")
            board.nodes.MotionCacheFinishVideo.execute(take, "kept")
    done = len(kept[-1].finished)
    latents, report, _ = board.finish(kept[-1])
    first = done * 6
    assert torch.equal(latents[:, :, :first], straight[:, :, :first])
    assert any("made again from their latents" in note for note in report["notes"])
    apart = (latents - straight)[:, :, first : first + 6].abs().max() / straight.abs().max()
    assert 0 < apart < 0.05, f"{apart:.3f} in the next chunk"


def special(board: Board, seed: int = 0) -> Any:
    """A prompt with MAGI-1's duration token."""
    text = board.magi.mc.module("motioncache_core.models.magi1.text")
    vectors = torch.randn(1 + text.DURATIONS, 4096, generator=torch.Generator().manual_seed(seed)) * 0.2
    options = {text.TOKENS_KEY: ["HQ", text.DURATION], text.VECTORS_KEY: vectors}
    return [[board.magi.positive[0][0], options]]


def test_duration_tokens_need_a_declared_length(board: Board, caplog: pytest.LogCaptureFixture):
    positive = special(board)
    whole = board.magi.sample(board.magi.cached(), positive, frames=4 * CHUNK)
    take = board.begin(declared_chunks=4)
    declared = board.finish(board.more(board.more(take, 2, positive), 2, positive))[0]
    assert torch.equal(declared, whole.latents)
    assert "duration token" not in caplog.text
    open_ended = board.finish(board.more(board.more(board.begin(), 2, positive), 2, positive))[0]
    assert "duration token is left out" in caplog.text
    assert not torch.equal(open_ended, whole.latents)
    with pytest.raises(ValueError, match=r"declared to have 4 \(nearest: 1\)"):
        board.more(board.more(take, 3), 2)


def test_the_other_family_is_refused(board: Board):
    with pytest.raises(ValueError, match="model is SkyReels-V2.*begun with MAGI-1"):
        board.nodes.MotionCacheGenerateChunks.execute(
            board.begin(), board.magi.positive, 1, model=board.magi.mc.load(), **STRETCH
        )


def test_a_part_whose_model_does_not_fit_the_guidance_is_told(board: Board, caplog: pytest.LogCaptureFixture):
    distilled = board.magi.cached(board.magi.load(DISTILLED))
    first = board.more(board.begin(), 1)
    board.more(first, 1, model=board.magi.cached())
    assert "expect a broken video" not in caplog.text
    for take in (board.begin(), first):
        caplog.clear()
        found = board.more(take, 1, model=distilled)
        assert "is a distilled model: expect a broken video. Choose 'one pass (distilled)' in Begin" in caplog.text
    caplog.clear()
    board.more(found, 1)
    assert "expect a broken video" not in caplog.text, "told once"


def test_a_part_may_be_made_by_the_quantised_model(board: Board):
    quantised = board.magi.load("4.5B_distill_quant/inference_weight.fp8.distill/model.safetensors")
    first = board.more(board.begin(board.magi.cached(board.magi.load(DISTILLED))), 1)
    assert board.finish(board.more(first, 1, model=board.magi.cached(quantised)))[0].isfinite().all()
