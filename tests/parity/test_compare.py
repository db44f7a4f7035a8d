"""Comparison under a tolerance: what counts as a miss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tools.verify.compare import Restricted, compare, compare_records, first_difference
from tools.verify.folder import CaseError

E2E = Path(__file__).resolve().parents[1] / "reference" / "skyreels_v2" / "comfy_tiny" / "e2e.json"
RECORDS = json.loads(E2E.read_text())
COLUMNS = RECORDS["event_columns"]
TOLERANCE = {"events": {"exact": True}, "event_distance": {"abs": 4e-6}, "event_update_ratio": {"abs": 1e-6}}


def changed_records(column: str, by: float) -> list[list[Any]]:
    """The stored events with one value of a column changed."""
    records = [list(record) for record in RECORDS["events"]]
    value = records[60][COLUMNS.index(column)]
    records[60][COLUMNS.index(column)] = f"{value}!" if isinstance(value, str) else value + type(value)(by)
    return records


@pytest.mark.parametrize("column", COLUMNS)
def test_every_event_column_counts(column: str) -> None:
    by = 10 * TOLERANCE.get(f"event_{column}", {"abs": 0.1})["abs"]
    found = compare_records("events", COLUMNS, changed_records(column, by), RECORDS["events"], TOLERANCE)
    assert found.missed
    assert found.output == f"events.{column}"


def test_value_columns_have_a_tolerance() -> None:
    found = compare_records("events", COLUMNS, changed_records("distance", 2e-6), RECORDS["events"], TOLERANCE)
    assert not found.missed
    assert 0.4 < found.ratio < 0.6


def test_missing_record_is_a_miss() -> None:
    assert compare_records("events", COLUMNS, RECORDS["events"][:-1], RECORDS["events"], TOLERANCE).missed


@pytest.mark.parametrize(
    ("ours", "stored"),
    [(1, True), (1, 1.0), ("1", 1), ([1, 2], [1]), ({"a": 1}, {"a": 1, "b": 2}), ({"a": [1, 2]}, {"a": [2, 1]})],
)
def test_json_is_compared_with_types(ours: Any, stored: Any) -> None:
    assert first_difference(ours, stored)
    assert not first_difference(stored, stored)
    assert compare("json", ours, stored, {"default": {"exact": True}}).missed


def test_series_needs_the_same_entries() -> None:
    stored = {"0": torch.ones(2), "1": torch.ones(2)}
    tolerance = {"default": {"abs": 1e-3}}
    assert not compare("x", dict(stored), stored, tolerance).missed
    assert compare("x", {"1": stored["1"]}, stored, tolerance).missed
    assert not compare("x", Restricted({"1": stored["1"]}), stored, tolerance).missed
    assert compare("x", Restricted({}), stored, tolerance).missed
    assert compare("x", Restricted({"2": stored["1"]}), stored, tolerance).missed


def test_restriction_must_leave_something() -> None:
    ones, tolerance = torch.ones(2, 3), {"default": {"exact": True}}
    where = torch.tensor([[True], [False]])
    other = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 2.0]])
    assert not compare("x", Restricted(other, where), ones, tolerance).missed
    assert compare("x", Restricted(other, ~where), ones, tolerance).missed
    with pytest.raises(CaseError, match="leaves nothing"):
        compare("x", Restricted(other, torch.zeros(2, 1, dtype=torch.bool)), ones, tolerance)


@pytest.mark.parametrize("measure", ["abs", "mean_abs", "max_abs_over_max"])
def test_measures(measure: str) -> None:
    stored = torch.full((4,), 2.0)
    size = 2.0 if measure == "max_abs_over_max" else 1.0
    assert not compare("x", stored + 0.9e-3 * size, stored, {"x": {measure: 1e-3}}).missed
    assert compare("x", stored + 1.1e-3 * size, stored, {"x": {measure: 1e-3}}).missed
    assert compare("x", stored * float("nan"), stored, {"x": {measure: 1e-3}}).missed
