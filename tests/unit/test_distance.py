"""Distances against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from motioncache_core.config import SKYREELS_1_3B_COEFFICIENTS, SKYREELS_14B_COEFFICIENTS
from motioncache_core.distance import polynomial, relative_l1, relative_l1_per_token, table_distance


def test_relative_l1_is_mean_change_over_mean_size():
    before = torch.tensor([1.0, -3.0, 2.0, -2.0])  # mean size 2
    now = torch.tensor([2.0, -3.0, 2.0, -3.0])  # mean change 0.5
    assert relative_l1(now, before) == pytest.approx(0.25)
    assert isinstance(relative_l1(now, before), float)


def test_relative_l1_of_nothing_changed_is_zero_and_of_zeros_is_finite():
    ones = torch.ones(3)
    assert relative_l1(ones, ones) == 0.0
    assert relative_l1(ones, torch.zeros(3)) == pytest.approx(1e8)


def test_relative_l1_per_token_averages_each_token_by_itself():
    before = torch.tensor([[[[1.0, 1.0], [4.0, 4.0]]]])  # [1, 1 slot, 2 tokens, 2 channels]
    now = torch.tensor([[[[1.0, 2.0], [2.0, 4.0]]]])
    torch.testing.assert_close(relative_l1_per_token(now, before), torch.tensor([0.5, 0.25]))


def test_relative_l1_per_token_averages_over_samples_and_slots():
    before = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1).expand(2, 6, 1, 1)
    assert relative_l1_per_token(before + 1, before).tolist() == pytest.approx([0.5])


def test_polynomial_takes_the_highest_power_first():
    assert polynomial(0.5, (2.0, 3.0, 4.0)) == 2 * 0.25 + 3 * 0.5 + 4
    assert polynomial(3.0, (7.0,)) == 7.0


def test_polynomial_of_tensors_equals_that_of_numbers():
    values = torch.tensor([-1.0, 0.0, 0.5, 2.0])
    found = polynomial(values, (1.0, 0.0, -1.0), clamp=False)
    assert found.tolist() == [0.0, -1.0, -0.75, 3.0]
    assert polynomial(values, (1.0, 0.0, -1.0)).tolist() == [0.0, 0.0, 0.0, 3.0]
    assert values.tolist() == [-1.0, 0.0, 0.5, 2.0], "the input is not changed"


@pytest.mark.parametrize("relative", [0.0, 0.004, 0.102, 0.5])
def test_the_published_polynomial_is_negative_outside_its_range_and_clamped_there(relative: float):
    assert polynomial(relative, SKYREELS_1_3B_COEFFICIENTS, clamp=False) < 0
    assert polynomial(relative, SKYREELS_1_3B_COEFFICIENTS) == 0.0


@pytest.mark.parametrize("relative", [0.005, 0.02, 0.05, 0.1])
def test_the_published_polynomial_is_positive_inside(relative: float):
    assert polynomial(relative, SKYREELS_1_3B_COEFFICIENTS) > 0


def test_the_polynomials_constant_is_its_value_at_zero():
    assert polynomial(0.0, SKYREELS_1_3B_COEFFICIENTS, clamp=False) == -4.99875664e-02
    assert polynomial(0.0, SKYREELS_14B_COEFFICIENTS, clamp=False) == -3.15583525e-01


TABLE = ((999.0, 0.0), (0.0, 2.0), (500.0, 1.0))


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (999, 0, 2.0),  # end to end
        (500, 250, 0.5),  # half of the way from 500 to 0
        (250, 500, 0.5),  # never negative
        (500, 500, 0.0),
        (1200, 999, 0.0),  # beyond the end the end value holds
        (0, -50, 0.0),
        (999, 749.5, 0.5),
    ],
)
def test_table_distance_interpolates_in_any_order_of_the_table(before: float, now: float, expected: float):
    assert table_distance(TABLE, before, now) == pytest.approx(expected)
