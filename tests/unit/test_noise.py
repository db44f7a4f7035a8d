"""Noise depends on seed, use, chunk and sample alone, not on how long the video is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from motioncache_core.noise import chunk_noise

ORIGIN = {"seed": 7, "chunk": 2, "samples": 1, "frames": 3, "full": 3, "purpose": "start"}


def draw(**changes: object) -> Tensor:
    values = ORIGIN | changes
    return chunk_noise(channels=4, height=5, width=6, **values)


def test_the_same_key_draws_the_same_and_has_the_shape_asked_for():
    assert draw().shape == (1, 4, 3, 5, 6) and draw().dtype == torch.float32
    assert torch.equal(draw(), draw())


def test_the_global_generator_is_neither_used_nor_moved():
    torch.manual_seed(0)
    first, state = draw(), torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(draw(), first)
    torch.manual_seed(0)
    draw()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("other", [{"seed": 8}, {"chunk": 3}, {"purpose": "history"}, {"seed": 2**64 - 1}])
def test_another_seed_chunk_or_use_draws_independently(other: dict[str, object]):
    both = torch.stack([draw(frames=40, full=40).flatten(), draw(frames=40, full=40, **other).flatten()])
    assert abs(torch.corrcoef(both)[0, 1]) < 0.07  # 4800 values: 5 standard deviations


def test_a_short_chunk_gets_the_first_frames_of_a_full_one():
    assert torch.equal(draw(frames=1), draw()[:, :, :1])
    assert torch.equal(draw(frames=2), draw()[:, :, :2])


def test_the_first_sample_of_a_batch_is_the_single_one():
    batch = draw(samples=3)
    assert torch.equal(batch[:1], draw())
    assert not torch.equal(batch[0], batch[1]) and not torch.equal(batch[1], batch[2])


def test_it_is_standard_gaussian():
    values = draw(frames=200, full=200).flatten()
    assert abs(values.mean()) < 0.033 and abs(values.std() - 1) < 0.025  # 24000 values: 5 standard deviations


def test_the_numbers_stay_the_same_from_release_to_release():
    expected = [0.89568, -1.43174, 0.38751, 0.02520]
    torch.testing.assert_close(draw()[0, 0, 0, 0, :4], torch.tensor(expected), atol=1e-5, rtol=0)
