"""Motion weights against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from motioncache_core.motion import frame_difference, motion_weights, normalise


def frames_of(*rows: list[float]) -> Tensor:
    """``[1, F, P, 1]`` of one number a token."""
    return torch.tensor(rows).view(1, len(rows), -1, 1)


def weights(frames: Tensor, previous: Tensor | None = None, **changes: object) -> Tensor:
    settings = {"first_of_video": False, "norm": "min-max", "floor": 0.6} | changes
    return motion_weights(frames, previous, **settings).view(frames.shape[1], -1)


def test_change_is_relative_to_the_size_of_the_frame_before():
    frames = frames_of([1.0, 2.0], [2.0, 5.0])
    previous = torch.tensor([[[2.0], [1.0]]])
    # 1 from 2: 1/2, 2 from 1: 1/1; then 2 from 1: 1/1, 5 from 2: 3/2
    expected = torch.tensor([[0.5, 1.0], [1.0, 1.5]])
    torch.testing.assert_close(frame_difference(frames, previous), expected)


def test_the_papers_change_is_not_divided():
    frames = frames_of([1.0, 2.0], [2.0, 5.0])
    found = frame_difference(frames, torch.tensor([[[2.0], [1.0]]]), relative=False)
    torch.testing.assert_close(found, torch.tensor([[1.0, 1.0], [1.0, 3.0]]))
    # a small value that moves little against a large one: relative motion ranks them the other way round
    frames = frames_of([0.1, 10.0], [0.3, 12.0])
    ranked = [weights(frames, first_of_video=True, relative=relative)[1].argmax().item() for relative in (True, False)]
    assert ranked == [0, 1]


def test_change_is_averaged_over_samples_and_channels_before_the_division():
    first = torch.tensor([[[1.0, 3.0]], [[2.0, 2.0]]])
    second = torch.tensor([[[2.0, 3.0]], [[2.0, 5.0]]])
    frames = torch.stack([first, second], dim=1)  # [2 samples, 2 frames, 1 token, 2 channels]
    # changes 1, 0, 0, 3: mean 1; sizes before 1, 3, 2, 2: mean 2
    assert frame_difference(frames, None)[1].item() == pytest.approx(0.5)


def test_the_first_frame_without_predecessor_copies_the_second():
    change = frame_difference(frames_of([1.0, 4.0], [2.0, 3.0], [2.0, 9.0]), None)
    torch.testing.assert_close(change, torch.tensor([[1.0, 0.25], [1.0, 0.25], [0.0, 2.0]]))


def test_one_frame_without_predecessor_has_no_change():
    assert frame_difference(frames_of([3.0, 4.0]), None).tolist() == [[0.0, 0.0]]


def test_a_frame_of_zeros_before_does_not_divide_by_zero():
    change = frame_difference(frames_of([0.0, 0.0], [1.0, 0.0]), None)
    assert torch.isfinite(change).all()
    assert change[1, 1] == 0


def test_min_max_maps_every_frame_to_floor_and_one():
    change = torch.tensor([[1.0, 2.0, 5.0], [0.1, 0.3, 0.2]])
    # (2 - 1) / 4 = 0.25 -> 0.6 + 0.4 * 0.25 = 0.7; (0.2 - 0.1) / 0.2 = 0.5 -> 0.8
    expected = torch.tensor([[0.6, 0.7, 1.0], [0.6, 1.0, 0.8]])
    torch.testing.assert_close(normalise(change, "min-max", 0.6), expected, atol=1e-6, rtol=0)


def test_the_power_bends_the_normalised_change():
    change = torch.tensor([[0.0, 0.5, 1.0]])
    torch.testing.assert_close(normalise(change, "min-max", 0.2, 2.0), torch.tensor([[0.2, 0.4, 1.0]]))
    torch.testing.assert_close(normalise(change, "min-max", 0.0, 0.5), torch.tensor([[0.0, 0.5**0.5, 1.0]]))


def test_mean_and_max_divide_and_know_no_floor():
    change = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 4.0]])
    mean = torch.tensor([[0.5, 1.0, 1.5], [0.0, 0.0, 3.0]])
    largest = torch.tensor([[1 / 3, 2 / 3, 1.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(normalise(change, "mean", 0.9), mean)
    torch.testing.assert_close(normalise(change, "max", 0.9), largest)


def test_a_still_frame_gets_the_floor():
    assert weights(frames_of([2.0, 3.0], [2.0, 3.0]), first_of_video=True, floor=0.25).tolist() == [[0.25] * 2] * 2


@pytest.mark.parametrize("norm", ["min-max", "mean", "max"])
def test_weights_are_one_a_token_and_finite(norm: str):
    frames = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    made = motion_weights(frames, frames[:, 0], first_of_video=False, norm=norm, floor=0.3)
    assert made.shape == (24,)
    assert torch.isfinite(made).all() and (made >= 0).all()


@pytest.mark.parametrize("floor", [0.0, 0.3, 0.6, 1.0])
def test_min_max_weights_lie_between_floor_and_one_and_reach_both(floor: float):
    frames = torch.randn(1, 5, 12, 4, generator=torch.Generator().manual_seed(1))
    made = weights(frames, torch.randn(1, 12, 4, generator=torch.Generator().manual_seed(2)), floor=floor)
    assert made.amin(dim=1).tolist() == pytest.approx([floor] * 5)
    assert made.amax(dim=1).tolist() == pytest.approx([1.0] * 5)


def test_floor_one_makes_all_tokens_exactly_alike():
    frames = torch.randn(1, 3, 8, 4, generator=torch.Generator().manual_seed(3))
    assert torch.equal(weights(frames, frames[:, 2] * 0.5, floor=1.0), torch.ones(3, 8))


def test_the_first_frame_of_the_video_weighs_as_the_second():
    made = weights(frames_of([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]), first_of_video=True)
    torch.testing.assert_close(made, torch.tensor([[0.6, 0.8, 1.0]] * 2))


def test_a_frame_whose_predecessor_is_unknown_counts_as_moving():
    made = weights(frames_of([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]))
    torch.testing.assert_close(made, torch.tensor([[1.0, 1.0, 1.0], [0.6, 0.8, 1.0]]))


def test_the_reference_gives_such_a_frame_the_floor():
    made = weights(frames_of([1.0, 1.0], [1.0, 2.0]), quirks=frozenset({"no_previous_frame_is_floor"}))
    torch.testing.assert_close(made, torch.tensor([[0.6, 0.6], [0.6, 1.0]]))


@pytest.mark.parametrize("first_of_video", [True, False])
def test_a_chunk_of_one_frame_without_predecessor_counts_as_moving(first_of_video: bool):
    assert weights(frames_of([5.0, 7.0]), first_of_video=first_of_video).tolist() == [[1.0, 1.0]]


def test_the_chunk_before_gives_the_first_frame_its_motion():
    made = weights(frames_of([1.0, 2.0, 4.0]), torch.tensor([[[1.0], [1.0], [2.0]]]))
    torch.testing.assert_close(made, torch.tensor([[0.6, 1.0, 1.0]]))
