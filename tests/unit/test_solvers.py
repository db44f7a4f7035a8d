"""Solvers against steps worked out by hand, and against an equation whose solution is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from motioncache_core.models.skyreels_v2.schedule import sigma_table
from motioncache_core.solvers import SOLVERS, Euler, FlowUniPC, Solver, make_solver

every_solver = pytest.mark.parametrize("name", SOLVERS)


def test_an_euler_step_goes_along_the_line_through_the_prediction():
    solver = Euler((0.8, 0.2, 0.0))
    # a quarter of the way to noise is left: 2 + (10 - 2) / 4
    assert solver.step(torch.tensor([2.0]), torch.tensor([10.0])).item() == pytest.approx(4.0)
    assert solver.step(torch.tensor([3.0]), torch.tensor([4.0])).item() == 3.0


def test_three_steps_of_unipc():
    """Levels 0.8, 0.5, 0.2: the log signal-to-noise ratio rises by ln 4 each time, so ratios of steps are -1.

    Order 1: 0.625 x + 0.375 p. Corrector of order 1 adds 0.375 / 2 of the change of prediction. Second step: 0.4 x +
    0.6 p, and 0.3 of the change. Corrector of order 2: with growth -0.75 and hh = -ln 4, phi_2 = 0.75 / ln 4 - 1 and
    phi_3 = -phi_2 / ln 4 - 0.5 the shares solve old + new = phi_2 / -0.75, new - old = 2 phi_3 / -0.75.
    """
    x, p0, p1, p2 = 10.0, 2.0, 3.0, 2.5
    solver = FlowUniPC((0.8, 0.5, 0.2, 0.0))
    first = 0.625 * x + 0.375 * p0
    assert step(solver, p0, x) == pytest.approx(first, rel=1e-6)
    corrected = first + 0.1875 * (p1 - p0)
    second = 0.4 * corrected + 0.6 * p1 + 0.3 * (p1 - p0)
    assert step(solver, p1, first) == pytest.approx(second, rel=1e-6)
    phi_2 = 0.75 / math.log(4) - 1
    total, difference = phi_2 / -0.75, 2 * (-phi_2 / math.log(4) - 0.5) / -0.75
    new, old = (total + difference) / 2, (total - difference) / 2
    corrected = 0.4 * corrected + 0.6 * p1 + 0.6 * (old * (p1 - p0) + new * (p2 - p1))
    assert step(solver, p2, second) == pytest.approx(p2, rel=1e-6), "the last step ends on the prediction"
    assert solver.last_sample.item() == pytest.approx(corrected, rel=1e-5)


def step(solver: Solver, prediction: float, sample: float) -> float:
    return solver.step(torch.tensor([prediction]), torch.tensor([sample])).item()


def solve(name: str, sigmas: tuple[float, ...], scale: float) -> float:
    """Error at the end of the ladder for Gaussian data of that standard deviation, in float64.

    The best prediction is x (1 - s) scale^2 / v(s) with v(s) = (1 - s)^2 scale^2 + s^2; along a path x / sqrt(v(s))
    does not change.
    """

    def variance(sigma: float) -> float:
        return (1 - sigma) ** 2 * scale**2 + sigma**2

    solver = make_solver(name, sigmas)
    x = torch.tensor([1.3], dtype=torch.float64)
    expected = 1.3 * math.sqrt(variance(0.0) / variance(sigmas[0]))
    for sigma in sigmas[:-1]:
        x = solver.step(x * (1 - sigma) * scale**2 / variance(sigma), x)
    return abs(x.item() - expected)


def test_halving_the_steps_of_unipc_costs_more_than_twice_the_error_of_euler():
    ratios = {}
    for name in SOLVERS:
        coarse, fine = (solve(name, sigma_table(count, 3.0), scale=0.5) for count in (20, 40))
        ratios[name] = coarse / fine
    assert 1.7 < ratios["euler"] < 2.3, "first order"
    assert ratios["unipc"] > 3.2, "second order or better"


def test_unipc_is_nearer_than_euler():
    table = sigma_table(20, 3.0)
    assert solve("unipc", table, 0.5) < 0.2 * solve("euler", table, 0.5)


@every_solver
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_a_prediction_that_does_not_change_is_reached_on_a_straight_line(name: str, count: int):
    sigmas = sigma_table(count, 8.0)
    solver, clean = make_solver(name, sigmas), torch.tensor([0.5, -1.0], dtype=torch.float64)
    start = x = torch.tensor([2.0, 0.25], dtype=torch.float64)
    for sigma in sigmas[1:]:
        x = solver.step(clean, x)
        torch.testing.assert_close(x, clean + (start - clean) * sigma / sigmas[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(x, clean, atol=1e-12, rtol=0)


@every_solver
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_precision_of_the_sample_is_kept(name: str, dtype: torch.dtype):
    solver = make_solver(name, sigma_table(4, 8.0))
    x = torch.ones(2, 3, dtype=dtype)
    for _ in range(4):
        x = solver.step(x * 0.5, x)
    assert x.dtype == dtype and torch.isfinite(x).all()


@every_solver
def test_the_inputs_are_not_changed(name: str):
    solver, x0, x = make_solver(name, sigma_table(3, 8.0)), torch.full((4,), 0.5), torch.ones(4)
    for _ in range(3):
        solver.step(x0, x)
    assert torch.equal(x0, torch.full((4,), 0.5)) and torch.equal(x, torch.ones(4))


@every_solver
def test_each_place_is_solved_by_itself(name: str):
    def run(predictions: Tensor, x: Tensor) -> Tensor:
        solver = make_solver(name, sigma_table(len(predictions), 8.0))
        for prediction in predictions:
            x = solver.step(prediction, x)
            path.append(x)
        return x

    path: list[Tensor] = []
    generator = torch.Generator().manual_seed(0)
    predictions, start = torch.randn(5, 2, 3, generator=generator), torch.randn(2, 3, generator=generator)
    both = run(predictions, start)
    run(predictions[:, :1], start[:1])
    assert torch.equal(both[:1], path[9]) and torch.equal(path[2][:1], path[7])


def test_unipc_remembers_its_own_sample_unless_told_to_copy_the_reference():
    """The pipeline of the reference overwrites the remembered sample, so the second corrector starts from the new."""
    results = {}
    for quirks in (frozenset(), frozenset({"scheduler_alias"})):
        solver = FlowUniPC((0.8, 0.5, 0.2, 0.0), quirks)
        first = solver.step(torch.tensor([2.0]), torch.tensor([10.0]))
        results[bool(quirks)] = solver.step(torch.tensor([3.0]), first).item()
    corrected = {False: 0.625 * 10.0, True: 0.625 * (0.625 * 10.0 + 0.375 * 2.0)}
    for alias, start in corrected.items():
        x = start + 0.375 * 2.0 + 0.1875
        assert results[alias] == pytest.approx(0.4 * x + 0.6 * 3.0 + 0.3, rel=1e-6)


def test_an_unknown_solver_is_refused_with_the_list():
    with pytest.raises(ValueError, match="solver is 'heun'; it must be one of 'unipc', 'euler'"):
        make_solver("heun", (0.9, 0.0))
