"""Which passes of the network make up a step of MAGI-1, and with which share.

The base models mix three passes by time (MAGI-1, arXiv 2505.13211, section on guidance), the distilled ones need one,
and a second without history for the cleanest chunk of the window. Shares of a step sum to 1, so they act on
predictions of the clean latents as they do on velocities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...plan import Call

Shares = tuple[tuple[str, float], ...]
"""(branch, share of the velocity) pairs."""


@dataclass(frozen=True)
class Branch:
    """How a pass is made.

    Args:
        prompt: it sees the chunk's prompt, else the learned null text.
        dropped: the condition of the blocks says that the text was left out.
        history: it attends to earlier chunks; without, to its own chunk only, and nothing of it is stored.
    """

    prompt: bool
    dropped: bool
    history: bool


BRANCHES: dict[str, Branch] = {
    "text": Branch(prompt=True, dropped=False, history=True),
    "null": Branch(prompt=False, dropped=True, history=True),
    "alone": Branch(prompt=False, dropped=True, history=False),
    "text alone": Branch(prompt=True, dropped=False, history=False),
}


@dataclass(frozen=True)
class ThreePass:
    """Guidance of the base models: from each time on, how much history and text weigh.

    v = (1 - h) alone + (h - x) null + x text, h and x from the last entry that begins before t.
    """

    times: tuple[float, ...] = (0.0, 0.0217, 0.1, 0.3, 0.999)
    history: tuple[float, ...] = (1.5, 1.5, 1.5, 1.0, 1.0)
    text: tuple[float, ...] = (7.5, 7.5, 7.5, 0.0, 0.0)

    stored_branch = "null"
    """Whose keys and values of finished chunks all branches read."""

    def shares(self, t: float, cleanest: bool) -> Shares:
        """All three passes of a chunk at time ``t``."""
        begun = sum(begins - 1e-7 < t for begins in self.times)
        history, text = self.history[begun - 1], self.text[begun - 1]
        return ("text", text), ("null", history - text), ("alone", 1.0 - history)


@dataclass(frozen=True)
class OnePass:
    """The distilled models: no guidance; past ``threshold`` the cleanest chunk of the window is steadied.

    Args:
        nearly_clean: whether that chunk is passed a second time without history.
        threshold: time above which (compared with the table's float32 values).
        history_share: share of the pass with history.
    """

    nearly_clean: bool = True
    threshold: float = 0.3
    history_share: float = 0.7

    stored_branch = "text"

    def shares(self, t: float, cleanest: bool) -> Shares:
        """The passes of a chunk at time ``t``; ``cleanest``: it is the window's oldest active one."""
        if self.nearly_clean and cleanest and t > self.threshold:
            return ("text", self.history_share), ("text alone", 1.0 - self.history_share)
        return (("text", 1.0),)


Guidance = ThreePass | OnePass


def branches_of(call: Call) -> tuple[str, ...]:
    """Passes that a call makes of any of its parts, in the order of :data:`BRANCHES`."""
    made = {name for part in call.parts for name, _ in part.branches}
    return tuple(name for name in BRANCHES if name in made)


def combine(call: Call, outputs: Mapping[str, Tensor]) -> Tensor:
    """The mix of a call's passes.

    Args:
        outputs: ``[B, C, F, H, W]`` velocities (or predictions of the clean latents) of :func:`branches_of` the call;
            what a branch holds of a part that it does not make is ignored.
    """
    mixed = []
    for part in call.parts:
        own = slice(part.start - call.start, part.stop - call.start)
        shared = [(share, outputs[name][:, :, own]) for name, share in part.branches if share]
        mixed.append(_sum(shared) if shared else torch.zeros_like(outputs[part.branches[0][0]][:, :, own]))
    return torch.cat(mixed, dim=2)


def _sum(shared: list[tuple[float, Tensor]]) -> Tensor:
    """Order of the addends: from the least to the most informed pass, as the original adds them."""
    (share, total), *rest = reversed(shared)
    total = total if share == 1.0 else total * share
    for share, output in rest:
        total = total + output * share
    return total
