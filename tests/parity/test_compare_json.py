"""Records under a tolerance: fields of their own kind are measured, all others are equal or equal often enough."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tools.verify.compare import Restricted, Rounded, compare
from tools.verify.folder import CaseError

STORED = [{"kind": "full", "count": 3, "level": 0.5}, {"kind": "reused", "count": 0, "level": None}]
TOLERANCE = {"steps": {"exact": True, "except": {"level": {"abs": 0.01}}}}


def changed(place: int, **fields: Any) -> list[dict[str, Any]]:
    return [{**record, **(fields if i == place else {})} for i, record in enumerate(STORED)]


def missed(ours: Any, stored: Any = STORED, tolerance: dict | None = None) -> bool:
    return compare("steps", ours, stored, tolerance or TOLERANCE).missed


def test_measured_fields_may_differ_a_little_and_others_not_at_all():
    assert not missed(STORED)
    assert not missed(changed(0, level=0.509))
    assert missed(changed(0, level=0.511))
    assert missed(changed(0, kind="partial"))
    assert missed(changed(0, count=3.0)), "types count"


def test_nothing_is_not_a_number():
    assert missed(changed(1, level=0.0))
    assert missed(changed(0, level=None))


def test_records_must_have_the_same_form():
    assert missed(STORED[:1])
    assert missed([{**STORED[0], "more": 1}, STORED[1]])
    assert missed(None)


def test_some_entries_may_differ_where_agreement_is_asked_for():
    tolerance = {"steps": {"min_agreement": 0.75, "except": {"level": {"abs": 0.01}}}}
    assert not missed(changed(0, count=2), tolerance=tolerance), "1 of 5"
    assert missed([{**record, "count": 9} for record in STORED], tolerance=tolerance), "2 of 5"


def test_values_may_count_in_the_first_records_only():
    late = [*STORED, {"kind": "full", "count": 1, "level": 7.0}]
    stored = [*STORED, {"kind": "full", "count": 1, "level": 0.0}]
    assert missed(late, stored)
    assert not missed(Restricted(late, records=2), stored)
    assert missed(Restricted(changed(0, level=9.0), records=2))


def test_only_named_fields_may_count():
    tolerance = {"steps": {"exact": True, "only": ["full"]}}
    assert not missed({"full": 1, "more": 2}, {"full": 1, "other": 3}, tolerance)
    assert missed({"full": 2}, {"full": 1}, tolerance)
    assert missed({}, {"full": 1}, tolerance)


def test_lists_of_numbers_are_measured():
    tolerance = {"steps": {"abs": 1e-3}}
    assert not missed([0.0, 0.5], [0.0, 0.5005], tolerance)
    assert missed([0.0, 0.5], [0.0, 0.502], tolerance)
    assert missed([0.0], [0.0, 0.5], tolerance)


def test_a_series_agrees_as_a_whole():
    stored = {"0": torch.zeros(10, dtype=torch.uint8), "1": torch.zeros(90, dtype=torch.uint8)}
    ours = {"0": torch.tensor([1] + [0] * 9, dtype=torch.uint8), "1": stored["1"]}
    assert not missed(ours, stored, {"steps": {"min_agreement": 0.99}})
    assert missed(ours, stored, {"steps": {"min_agreement": 0.995}})
    assert missed({**ours, "1": stored["1"][:5]}, stored, {"steps": {"min_agreement": 0.9}})


def test_a_difference_of_large_numbers_is_known_to_their_last_place():
    value, unit = torch.tensor([1e-3, 2e-3]), torch.tensor([1e-6, 1e-6])
    tolerance = {"steps": {"abs": 1e-8}}
    assert not missed(Rounded(value, unit), value + 1e-6, tolerance)
    assert missed(Rounded(value, unit), value + 1.1e-6, tolerance)
    assert missed(value, value + 1e-6, tolerance)


@pytest.mark.parametrize("entry", [{"except": {"level": {"near": 1}}}, {"only": []}, {"min_agreement": True}])
def test_a_tolerance_that_is_not_understood_is_refused(entry: dict):
    with pytest.raises(CaseError, match="is not understood"):
        compare("steps", STORED, STORED, {"steps": entry})
