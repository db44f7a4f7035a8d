"""Decode chunk along a chain of nodes gives the frames of a whole decode, piece by piece."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from tests.nodes.test_decode_stream import vaes  # noqa: F401 - a fixture
from tests.nodes.test_magi1_storyboard import Board as MagiBoard
from tests.nodes.test_storyboard import Board
from tests.nodes.test_takes import Files, files  # noqa: F401 - a fixture


class Decoding:
    """Decode chunk with one VAE, and what it gave."""

    def __init__(self, mc: Any, vae: Any):
        self.node, self.vae = mc.module("nodes.storyboard").MotionCacheDecodeChunk, vae
        self.images: list[Tensor] = []
        self.before: list[int] = []

    def __call__(self, take: Any) -> Any:
        take, images, before = self.node.execute(take, self.vae).args
        self.before.append(before)
        if not isinstance(images, ExecutionBlocker):
            self.images.append(images)
        return take

    def check(self, latents: Tensor) -> None:
        """They are what decoding all latents at once gives, and the counts before each piece are right."""
        whole = self.vae.decode(latents).flatten(0, 1)
        assert torch.equal(torch.cat(self.images), whole)
        assert self.before[0] == 0 and self.before == sorted(self.before) and self.before[-1] < len(whole)


@pytest.mark.parametrize("start", [0, 4])
def test_along_a_chain(mc: Any, vaes: dict[str, Any], start: int):  # noqa: F811
    board, decoding = Board(mc), Decoding(mc, vaes["random wan"])
    given = torch.randn(1, 16, start, 6, 8, generator=torch.Generator().manual_seed(3))
    take = board.begin(**({"start_latents": {"samples": given}} if start else {}))
    for chunks in (1, 3, 2):
        take = decoding(board.more(take, chunks))
    latents, _, take = board.finish(take)
    decoding(take)
    assert len(decoding.images) >= 3
    decoding.check(latents)


def test_nothing_new_blocks_what_follows(mc: Any, vaes: dict[str, Any]):  # noqa: F811
    board = Board(mc)
    take = board.more(board.begin(), 1)
    assert not take.finished
    _, images, before = mc.module("nodes.storyboard").MotionCacheDecodeChunk.execute(take, vaes["random wan"]).args
    assert isinstance(images, ExecutionBlocker) and before == 0


def test_two_endings_are_decoded_from_one_middle(mc: Any, vaes: dict[str, Any]):  # noqa: F811
    board, first = Board(mc), Decoding(mc, vaes["random wan"])
    middle = first(board.more(board.begin(), 4))
    for positive in (mc.positive, mc.prompt(5)):
        ending = Decoding(mc, vaes["random wan"])
        latents, _, take = board.finish(board.more(middle, 1, positive=positive))
        ending.images, ending.before = list(first.images), list(first.before)
        ending(take)
        ending.check(latents)


def test_a_loaded_take_is_decoded_on(mc: Any, vaes: dict[str, Any], files: Files):  # noqa: F811
    board, decoding = Board(mc), Decoding(mc, vaes["random wan"])
    path: Path = files.save(decoding(board.more(board.begin(), 4)))
    assert path.exists()
    latents, _, take = board.finish(files.load(mc.cached()))
    decoding(take)
    decoding.check(latents)


def test_magi1_along_a_chain(magi: Any, vaes: dict[str, Any]):  # noqa: F811
    board, decoding = MagiBoard(magi), Decoding(magi.mc, vaes["magi1"])
    take = decoding(board.more(board.begin(), 5))
    latents, _, take = board.finish(decoding(board.more(take, 1)))
    decoding(take)
    decoding.check(latents)


@pytest.mark.parametrize("frames", [1, 4, 7])
def test_magi1_begun_with_latents(magi: Any, vaes: dict[str, Any], frames: int):  # noqa: F811
    """Fewer given frames than a chunk has come out with the first chunk that is made; of more, whole chunks before."""
    board, decoding = MagiBoard(magi), Decoding(magi.mc, vaes["magi1"])
    given = {"samples": torch.randn(1, 16, frames, 6, 8, generator=torch.Generator().manual_seed(3))}
    take = board.more(board.begin(start_latents=given, continue_frames=4 * max(frames, 2)), 1)
    assert not take.finished
    take = decoding(take)
    assert sum(map(len, decoding.images)) == (24 if frames == 7 else 0)
    latents, _, take = board.finish(decoding(board.more(take, 4)))
    decoding(take)
    decoding.check(latents)


def test_two_nodes_behind_one_another_give_nothing_twice(mc: Any, vaes: dict[str, Any]):  # noqa: F811
    board, decoding = Board(mc), Decoding(mc, vaes["random wan"])
    take = decoding(decoding(board.more(board.begin(), 4)))
    latents, _, take = board.finish(take)
    decoding(decoding(take))
    assert len(decoding.images) == 2 and len(decoding.before) == 4
    assert torch.equal(torch.cat(decoding.images), decoding.vae.decode(latents).flatten(0, 1))


def test_a_finished_take_holds_nothing_to_decode_on(mc: Any, vaes: dict[str, Any]):  # noqa: F811
    board, decoding = Board(mc), Decoding(mc, vaes["random wan"])
    middle = decoding(board.more(board.begin(), 4))
    held = middle.stream.bytes
    _, _, finished = board.finish(middle)
    end = decoding(finished)
    assert end.stream.ended and end.stream.bytes == 0
    assert middle.stream.bytes == held > 0 and not middle.stream.ended


def test_a_finished_take_ends(mc: Any):
    board = Board(mc)
    latents, report, take = board.finish(board.more(board.begin(), 1))
    with pytest.raises(ValueError, match="take is finished, no chunk can follow"):
        board.more(take, 1)
    again, same, _ = board.finish(take)  # e.g. a finished one that was saved and loaded
    assert torch.equal(again, latents) and same == report


def test_a_small_file_holds_nothing_of_the_decoder(mc: Any, vaes: dict[str, Any], files: Files):  # noqa: F811
    """Its features are larger than all latents; the next Decode chunk begins anew."""
    board, decoding = Board(mc), Decoding(mc, vaes["random wan"])
    take = board.more(board.begin(), 4)
    small = files.save(take, with_memory=False).stat().st_size
    decoded = decoding(take)
    assert files.save(decoded).stat().st_size > files.save(take).stat().st_size
    assert files.save(decoded, with_memory=False).stat().st_size <= small
    latents, _, finished = board.finish(files.load(mc.cached()))
    again = Decoding(mc, vaes["random wan"])
    again(finished)
    again.check(latents)
    more = board.more(decoded, 3, autosave="kept")
    assert more.stream is not None and files.load(mc.cached(), "kept.safetensors").stream is None
