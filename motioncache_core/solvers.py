"""Stepwise solvers of the flow ODE, one object a chunk: x0 prediction in, next sample out.

FlowUniPC: UniPC (arXiv 2302.04867) of order 2 with B(h) = exp(h) - 1, corrector from the second step on, order 1 in
the last step, on the flow-matching path alpha = 1 - sigma. Tensors keep the dtype of the sample; coefficients are
computed in float32 on the CPU, as the scheduler that the models were released with does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

SOLVERS = ("unipc", "euler")


class Solver(ABC):
    """Steps one chunk down a ladder of noise levels.

    Args:
        sigmas: ``n + 1`` falling levels, the last one 0.
    """

    def __init__(self, sigmas: Sequence[float]):
        self.sigmas = tuple(sigmas)
        self.index = 0

    @abstractmethod
    def step(self, x0: Tensor, sample: Tensor) -> Tensor:
        """Sample at the next level from the prediction ``x0`` at the present one; both of any one shape."""

    def skip(self) -> None:
        """Count a step that was taken without the solver. Raises ValueError if it needs every step's prediction."""
        raise ValueError(f"{type(self).__name__} needs the prediction of every step")


class Euler(Solver):
    """First order: the straight line from the sample through x0. It remembers nothing of earlier steps."""

    def step(self, x0: Tensor, sample: Tensor) -> Tensor:
        now, after = self.sigmas[self.index : self.index + 2]
        self.index += 1
        # A short step leaves most of the sample as it is: what is added must not carry x0's rounding in full.
        return sample + (x0 - sample) * ((now - after) / now)

    def skip(self) -> None:
        self.index += 1


class FlowUniPC(Solver):
    """UniPC-2 for flow matching, one step a call.

    Quirk ``scheduler_alias``: the caller overwrites the sample that the reference remembers, so the corrector of the
    second step starts from the new sample.
    """

    def __init__(self, sigmas: Sequence[float], quirks: frozenset[str] = frozenset(), first_index: int = 0):
        super().__init__(sigmas)
        self.index = self.first_index = first_index
        self.alias = "scheduler_alias" in quirks
        self.predictions: list[Tensor] = []
        self.last_sample: Tensor | None = None

    def step(self, x0: Tensor, sample: Tensor) -> Tensor:
        steps_taken = self.index - self.first_index
        if self.last_sample is not None:
            start = sample if self.alias and steps_taken == 1 else self.last_sample
            sample = self._correct(x0, start).to(sample.dtype)
        self.predictions = [*self.predictions[-1:], x0]
        self.last_sample = sample
        order = min(2, len(self.sigmas) - 1 - self.index, steps_taken + 1)
        result = self._predict(sample, order)
        self.index += 1
        return result.to(sample.dtype)

    def _log_snr(self, index: int) -> Tensor:
        sigma = torch.tensor(self.sigmas[index], dtype=torch.float32)
        return torch.log(1.0 - sigma) - torch.log(sigma)

    def _first_order(self, sample: Tensor, x0: Tensor, start: int) -> tuple[Tensor, Tensor, float]:
        """(first-order step from level ``start`` to the next, h of that step, weight of higher-order terms)."""
        sigma, sigma_next = torch.tensor(self.sigmas[start : start + 2], dtype=torch.float32)
        h = self._log_snr(start + 1) - self._log_snr(start)
        weight = float((1.0 - sigma_next) * torch.expm1(-h))
        return float(sigma_next / sigma) * sample - weight * x0, h, weight

    def _predict(self, sample: Tensor, order: int) -> Tensor:
        now = self.predictions[-1]
        result, h, weight = self._first_order(sample, now, self.index)
        if order == 1:
            return result
        ratio = (self._log_snr(self.index - 1) - self._log_snr(self.index)) / h
        slope = (self.predictions[-2] - now) / float(ratio)
        return result - weight * (0.5 * slope)

    def _correct(self, x0: Tensor, last_sample: Tensor) -> Tensor:
        start = self.index - 1
        before = self.predictions[-1]
        result, h, weight = self._first_order(last_sample, before, start)
        if len(self.predictions) == 1:
            return result - weight * (0.5 * (x0 - before))
        ratio = (self._log_snr(start - 1) - self._log_snr(start)) / h
        slope = (self.predictions[-2] - before) / float(ratio)
        old_share, new_share = _corrector_shares(ratio, -h)
        return result - weight * (old_share * slope + new_share * (x0 - before))


def _corrector_shares(ratio: Tensor, hh: Tensor) -> tuple[float, float]:
    """Solution of the two order conditions of UniC-2 for the nodes ``ratio`` and 1 (UniPC, Theorem 3.1)."""
    growth = torch.expm1(hh)
    phi_2 = growth / hh - 1.0
    phi_3 = phi_2 / hh - 0.5
    nodes = torch.stack([torch.ones(2), torch.stack([ratio, torch.ones(())])])
    old, new = torch.linalg.solve(nodes, torch.stack([phi_2, 2.0 * phi_3]) / growth)
    return float(old), float(new)


def make_solver(name: str, sigmas: Sequence[float], quirks: frozenset[str] = frozenset()) -> Solver:
    """Solver by name. Raises ValueError for an unknown one."""
    if name == "unipc":
        return FlowUniPC(sigmas, quirks)
    if name == "euler":
        return Euler(sigmas)
    raise ValueError(f"solver is {name!r}; it must be one of {', '.join(map(repr, SOLVERS))}")
