"""What the benchmark of motion sources adds up."""

from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tools.bench import motion_source
from tools.tinyworld.dataset import held_out

ROLE = ("positive", 0, 0)


@pytest.mark.parametrize(
    ("scores", "area"), [([0, 1, 2, 3], 1.0), ([3, 2, 1, 0], 0.0), ([1, 1, 1, 1], 0.5), ([0, 2, 1, 3], 0.75)]
)
def test_the_area_is_the_chance_to_score_a_true_place_higher(scores: list[float], area: float):
    truth = np.array([False, False, True, True])
    assert motion_source.area_under_curve(np.array(scores), truth) == area
    assert math.isnan(motion_source.area_under_curve(np.array(scores), truth | True))


def test_weights_are_held_against_the_truth_and_the_next_step():
    moving = torch.zeros(5, 1, 2)
    moving[..., 1] = 1
    right = torch.arange(10) % 2 + torch.arange(10) / 100  # the second column moves
    policies = {
        "published": SimpleNamespace(motion={(ROLE, 0, 3): -right}, renewed={(ROLE, 0, 4): right}),
        "clean prediction": SimpleNamespace(motion={(ROLE, 0, 3): right}),
    }
    found = defaultdict(lambda: defaultdict(list))
    motion_source.add(found, policies, moving)
    assert found[3]["finds what moves, published"] == [0.0]
    assert found[3]["finds what moves, clean prediction"] == [1.0]
    assert found[3]["ranks what changes, published"] == [pytest.approx(-1)]
    assert found[3]["ranks what changes, clean prediction"] == [pytest.approx(1)]


def test_scenes_are_trained_and_move():
    scenes = motion_source.moving_scenes(6)
    assert len(set(scenes)) == 6
    assert not any(held_out(scene) or scene.sprites[0].motion == "none" for scene in scenes)
