"""Settings are checked when they are made; every refusal names the setting, its value and the nearest legal value."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest

from motioncache_core.config import CacheConfig, ConfigError
from motioncache_core.presets import PRESETS

TABLE = ((999.0, 0.0), (0.0, 2.0))


def test_the_first_preset_holds_the_published_values():
    name, published = next(iter(PRESETS.items()))
    assert "published" in name
    assert dataclasses.asdict(published) == {
        "granularity": "token",
        "warmup_steps": 4,
        "chunk_phase_updates": 6,
        "chunk_threshold": 0.1,
        "token_threshold": 0.1,
        "motion_floor": 0.6,
        "motion_power": 1.0,
        "distance": "time embedding",
        "distance_coefficients": None,
        "distance_table": None,
        "motion_source": "published",
        "weight_norm": "min-max",
        "vote": 0.5,
        "min_update_ratio": 0.4,
        "max_reuse_ratio": 1.0,
    }


def test_presets_are_the_three_rules_and_off():
    rules = {name: preset for name, preset in PRESETS.items() if "tiny world" not in name}
    assert [preset.granularity for preset in rules.values()] == ["token", "chunk", "step", "off"]
    assert not any("fast" in name.lower() or "slow" in name.lower() for name in rules), "not published as a pair"


def test_measured_presets_go_from_exact_to_fast_and_say_where_they_were_measured():
    measured = {name: preset for name, preset in PRESETS.items() if "tiny world" in name}
    assert [name.partition(" ")[0] for name in measured] == ["quality", "balanced", "fast"]
    thresholds = [(preset.chunk_threshold, preset.token_threshold) for preset in measured.values()]
    assert thresholds == sorted(thresholds)
    assert len({preset.distance_table for preset in measured.values()}) == 1


def test_a_configuration_cannot_be_changed_in_place():
    config = CacheConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.chunk_threshold = 0.2
    changed = config.with_changes(chunk_threshold=0.2)
    assert (config.chunk_threshold, changed.chunk_threshold) == (0.1, 0.2)
    assert changed.token_threshold == config.token_threshold


OUT_OF_RANGE = [
    ("warmup_steps", -1, 0),
    ("chunk_phase_updates", -3, 0),
    ("motion_floor", -0.01, 0.0),
    ("motion_floor", 1.5, 1.0),
    ("motion_power", 0.0, 0.05),
    ("motion_power", 21, 20.0),
    ("min_update_ratio", 1.2, 1.0),
    ("max_reuse_ratio", -0.5, 0.0),
    ("vote", -0.1, 0.0),
    ("vote", 1.0, 0.99),
    ("vote", 7.0, 0.99),
]


@pytest.mark.parametrize(("name", "value", "nearest"), OUT_OF_RANGE)
def test_a_number_out_of_range_is_refused_with_the_nearest_legal_one(name: str, value: float, nearest: float):
    with pytest.raises(ConfigError) as refusal:
        CacheConfig(**{name: value})
    message = str(refusal.value)
    assert message.startswith(f"{name} is {value}; ")
    proposed = float(re.search(r"nearest: ([-\d.]+)", message)[1])
    assert proposed == nearest
    legal = CacheConfig(**{name: int(proposed) if isinstance(value, int) else proposed})
    assert getattr(legal, name) == nearest


@pytest.mark.parametrize("name", ["warmup_steps", "chunk_phase_updates"])
@pytest.mark.parametrize("value", [1.5, True, "4", None])
def test_a_count_must_be_a_whole_number(name: str, value: object):
    with pytest.raises(ConfigError, match=rf"^{name} is {re.escape(repr(value))}; .*whole number"):
        CacheConfig(**{name: value})


@pytest.mark.parametrize("name", ["chunk_threshold", "token_threshold", "motion_floor", "vote"])
@pytest.mark.parametrize("value", [math.nan, True, "0.1"])
def test_a_quantity_must_be_a_number(name: str, value: object):
    with pytest.raises(ConfigError, match=rf"^{name} is .*must be a number"):
        CacheConfig(**{name: value})


@pytest.mark.parametrize("name", ["chunk_threshold", "token_threshold"])
@pytest.mark.parametrize("value", [-1, 0, 0.0, 5.0, math.inf])
def test_any_threshold_is_legal(name: str, value: float):
    assert getattr(CacheConfig(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value", "first"),
    [("granularity", "frame", "off"), ("distance", "l2", "time embedding"), ("weight_norm", "sum", "min-max")],
)
def test_a_name_must_be_one_of_the_list(name: str, value: str, first: str):
    with pytest.raises(ConfigError, match=f"^{name} is '{value}'; it must be one of '{first}', "):
        CacheConfig(**{name: value})


def test_an_unknown_setting_is_refused_with_the_list_of_settings():
    with pytest.raises(ConfigError, match="unknown setting 'treshold'; the settings are .*token_threshold"):
        CacheConfig().with_changes(treshold=0.1)


def test_no_vote_is_none():
    assert CacheConfig(vote=None).vote is None


def test_a_table_is_needed_for_the_table_distance_only():
    assert CacheConfig(distance="table", distance_table=TABLE).distance_table == TABLE
    assert CacheConfig(distance="patch embedding", distance_table=None).distance_table is None
    for table in (None, (), TABLE[:1]):
        with pytest.raises(ConfigError, match="distance_table has fewer than 2"):
            CacheConfig(distance="table", distance_table=table)
    with pytest.raises(ConfigError, match="names a timestep twice"):
        CacheConfig(distance="table", distance_table=((5.0, 0.0), (5.0, 1.0)))


def test_an_empty_polynomial_is_refused():
    with pytest.raises(ConfigError, match="distance_coefficients is empty"):
        CacheConfig(distance_coefficients=())
