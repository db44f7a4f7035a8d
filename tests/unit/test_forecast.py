"""What is said of a run before it begins."""

from __future__ import annotations

import json

import pytest
import torch

from motioncache_core.config import CacheConfig, Magi1CacheConfig
from motioncache_core.forecast import EXPECTATIONS, plan_preview
from motioncache_core.models.magi1.forecast import forecast_of as magi1_forecast
from motioncache_core.models.magi1.plan import SamplingSettings as Magi1Settings
from motioncache_core.models.magi1.plan import build_plan as magi1_plan
from motioncache_core.models.skyreels_v2.forecast import forecast_of, is_exact
from motioncache_core.models.skyreels_v2.plan import SamplingSettings, build_plan
from motioncache_core.timeline import PHASES

STEPS = 12
PLAN = build_plan(SamplingSettings(frames=57, steps=STEPS, chunk_frames=5, ar_step=3))
TABLE = ((999.0, 0.0), (0.0, 1.0))


def steps_of(config: CacheConfig | None, plan=PLAN, **more: object) -> list[tuple]:  # noqa: ANN001 - Plan
    forecast = forecast_of(plan, config, **more)
    found = [forecast(None, step) for step in range(plan.steps)]
    return [(e.phase, e.what) for e in found]


def test_without_a_cache_all_is_computed():
    assert steps_of(None) == [(None, "computed")] * STEPS


def test_a_table_foretells_the_chunk_phase():
    """Distances by hand: timesteps' differences over 999; a step is recomputed when they have piled up to 0.2."""
    config = CacheConfig(
        warmup_steps=2, chunk_phase_updates=1, chunk_threshold=0.2, distance="table", distance_table=TABLE
    )
    assert is_exact(PLAN, config, None)
    timesteps = [call.parts[0].timestep for call in PLAN.calls if call.parts[0].chunk == 0]
    expected, level, updates = [], 0.0, 0
    for step in range(STEPS):
        if step <= 2:
            expected.append(("warm-up", "computed"))
            continue
        if updates == 1:
            expected.append(("token", "open"))
            continue
        level += (timesteps[step - 1] - timesteps[step]) / 999
        done = level >= 0.2
        level, updates = (0.0, updates + 1) if done else (level, updates)
        expected.append(("chunk", "computed" if done else "reused"))
    assert steps_of(config) == expected
    assert {what for _, what in expected} == {"computed", "reused", "open"}


def test_the_time_embedding_needs_the_layers():
    config = CacheConfig(distance_coefficients=(1.0, 0.0), warmup_steps=1, chunk_threshold=1.5, granularity="chunk")
    assert not is_exact(PLAN, config, None)
    assert steps_of(config) == [("warm-up", "computed")] * 2 + [("chunk", "open")] * 10
    modulation = torch.zeros(STEPS, 6, 4) + 2.0 ** torch.arange(STEPS).view(-1, 1, 1)  # doubles: relative change 1
    assert is_exact(PLAN, config, modulation)
    found = steps_of(config, modulation=modulation)
    assert found == [("warm-up", "computed")] * 2 + [("chunk", "reused"), ("chunk", "computed")] * 5


def test_bounds_name_the_earliest_phase():
    config = CacheConfig(distance="patch embedding", warmup_steps=3, chunk_phase_updates=4)
    assert steps_of(config) == [("warm-up", "computed")] * 4 + [("chunk", "open")] * 4 + [("token", "open")] * 4
    nothing = config.with_changes(chunk_threshold=0.0, token_threshold=0.0)
    assert {what for _, what in steps_of(nothing)} == {"computed"}


def test_magi1_knows_its_phases():
    plan = magi1_plan(Magi1Settings(frames=96, steps=16, window_chunks=4))
    forecast = magi1_forecast(plan, Magi1CacheConfig(warmup_steps=2, chunk_phase_updates=5))
    drawn = plan_preview(plan, Magi1CacheConfig(), forecast, True, [])
    cells = {tuple(cell[:2]): (PHASES[cell[2]], EXPECTATIONS[cell[3]]) for cell in drawn["cells"]}
    assert [cells[(1, step)] for step in (0, 1, 2, 6, 7)] == [
        ("warm-up", "computed"),
        ("warm-up", "computed"),
        ("chunk", "open"),
        ("chunk", "open"),
        ("token", "open"),
    ]
    assert cells[(3, 15)] == ("token", "computed"), "the last row of the run"
    assert cells[(0, 15)] == ("token", "open")


@pytest.mark.parametrize("config", [None, CacheConfig(distance="patch embedding", warmup_steps=4)])
def test_the_drawing_of_a_plan_is_plain_data(config: CacheConfig | None):
    drawn = plan_preview(PLAN, config, forecast_of(PLAN, config), False, ["a note"])
    assert json.loads(json.dumps(drawn)) == drawn
    assert drawn["lanes"] == [[0, 5, 0, 0], [5, 10, 3, 0], [10, 15, 6, 0]]
    assert drawn["rows_of_time"] == 6 + STEPS and len(drawn["cells"]) == 3 * STEPS
    assert drawn["first_reuse"] == (None if config is None else 5)
    assert drawn["calls"] == {"denoise": 36, "context": 0, "refresh": 0}
