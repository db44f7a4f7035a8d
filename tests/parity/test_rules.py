"""Rules of the originals that only golden cases need, by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from motioncache_core.models.magi1.text import options_of, special_tokens_from
from motioncache_core.models.skyreels_v2.schedule import sigma_table, timesteps_of
from tools.verify.magi1.continuation import continued_frames, frames_at_rate
from tools.verify.magi1.texts import run_texts
from tools.verify.skyreels_v2.schedule import first_step_index
from tools.verify.skyreels_v2.transformer import frame_rate_of_frames


def test_stepping_starts_at_the_first_level_even_if_two_timesteps_coincide():
    coinciding = timesteps_of(sigma_table(144, 8.0))
    assert coinciding[0] == coinciding[1]
    assert first_step_index(coinciding) == 0
    assert first_step_index(coinciding, frozenset({"first_index_skips"})) == 1
    assert first_step_index((999, 800), frozenset({"first_index_skips"})) == 0


def test_the_frame_rates_of_a_batch():
    assert frame_rate_of_frames([0, 1], 3) == [(0, 0, 0), (1, 1, 1)]
    assert frame_rate_of_frames([0, 1], 3, frozenset({"fps_wrong_order"})) == [(0, 1, 0), (1, 0, 1)]


def test_frames_of_another_rate():
    assert frames_at_rate([i / 24 for i in range(6)], 6 / 24, 24) == [0, 1, 2, 3, 4, 5]
    assert frames_at_rate([i / 12 for i in range(3)], 3 / 12, 24) == [0, 0, 1, 1, 2, 2]
    assert frames_at_rate([i / 48 for i in range(6)], 6 / 48, 24) == [0, 2, 4]
    assert frames_at_rate([0.0], 0.001, 24) == [0]


def test_frames_that_are_continued_from():
    assert continued_frames(100, 24, "first") == range(32)
    assert continued_frames(20, 24, "first") == range(20)
    assert continued_frames(100, 24, "first", frames=8) == range(8)
    assert continued_frames(100, 24, "last") == range(4, 100)
    assert continued_frames(500, 24, "last") == range(380, 500)
    assert continued_frames(23, 24, "last") == range(22, 23)


def numbers(text: Tensor) -> list[float]:
    """The first value of each token."""
    return text[:, 0].tolist()


def test_texts_of_a_run():
    rows = torch.arange(17.0).unsqueeze(1).expand(17, 6)
    tokens = special_tokens_from({"other_tokens": rows, "logo_token": torch.full((1, 6), -2.0)})
    cond = torch.arange(100.0, 105.0).view(1, 5, 1).expand(1, 5, 6)
    null = torch.arange(1000.0, 1800.0).view(-1, 1).expand(-1, 6)
    options = options_of(["HQ", "DURATION"], tokens)
    texts = run_texts(cond, options, null, 5, prefix_chunks=2)
    assert [count for _, count in texts.text] == [0, 0, 7, 7, 7]
    assert [count for _, count in texts.null] == [50] * 5
    assert [numbers(text)[0] for text, _ in texts.text] == [1000, 1000, 9, 8, 7]
    assert all(torch.equal(text, null) for text, _ in texts.null)
    empty = run_texts(cond, options, null, 3, valid=0)
    assert empty.text == empty.null
    marked = run_texts(cond, options, null, 3, prefix_chunks=1, before_null=[tokens.vectors["LOGO"]])
    assert numbers(marked.null[0][0])[:2] == [-2, 1000]
    assert marked.null[0][1] == 50
    assert torch.equal(marked.text[0][0], null)
