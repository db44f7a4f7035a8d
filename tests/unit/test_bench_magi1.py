"""The benchmark of MAGI-1: a whole quick run through the node, its replayed patterns, and the savings."""

from __future__ import annotations

import json

import pytest

from tools.bench import magi1
from tools.bench.harness import table
from tools.bench.harness.pattern import chunk_pattern, make_pattern

OUTCOMES = {"full", "partial", "reused"}
STEPS, CHUNKS, TOKENS = 8, 2, 6 * 2 * 4


@pytest.fixture(scope="module")
def quick(pack, tmp_path_factory: pytest.TempPathFactory) -> dict:  # noqa: ANN001 - the pack as a module
    """What a quick run wrote."""
    out = tmp_path_factory.mktemp("bench") / "result.json"
    assert magi1.main(["--quick", "--out", str(out)]) == 0
    return json.loads(out.read_text(encoding="utf-8"))


@pytest.fixture
def rows(quick: dict) -> dict[str, dict]:
    return {row["variant"]: row for row in quick["rows"]}


def test_every_variant_is_measured(rows: dict[str, dict]):
    assert list(rows) == [
        "vanilla",
        "chunk-wise",
        "chunk-wise, clean refresh",
        "FlowCache, 0.5 computed",
        *(f"MotionCache, {fraction} computed" for fraction in (0.7, 0.5, 0.3)),
    ]
    # a step of each chunk, and the second pass of the cleanest chunk in its last quarter
    plain = CHUNKS * (STEPS + STEPS // 4) * TOKENS
    assert rows["chunk-wise"]["token_forwards"] == plain
    assert rows["vanilla"]["token_forwards"] == plain + (CHUNKS - 1) * TOKENS
    assert rows["chunk-wise, clean refresh"]["token_forwards"] == plain + (CHUNKS - 1) * TOKENS
    kept = 2 * TOKENS * 64 * 4  # keys and values of a chunk
    assert rows["chunk-wise"]["kv_bytes"] == CHUNKS * kept
    assert rows["vanilla"]["kv_bytes"] == kept, "only the finished chunk"
    for row in rows.values():
        assert row["seconds"]["median"] > 0 and row["speed_up_over_vanilla"]["median"] > 0
        assert row["cpu_speed_up_of_flops_ratio"] > 0
    assert rows["chunk-wise"]["cpu_speed_up_of_flops_ratio"] == 1


def test_patterns_are_replayed(rows: dict[str, dict]):
    for name, row in rows.items():
        if not row["reuses"]:
            assert row["computed_fraction"] == 1.0
            continue
        fraction = float(name.split()[1])
        make = chunk_pattern if name.startswith("FlowCache") else make_pattern
        outcomes = make(fraction, STEPS).outcomes
        assert row["branch_steps"] == {outcome: CHUNKS * outcomes.count(outcome) for outcome in OUTCOMES}
        # the second pass of the cleanest chunk weighs the last steps more
        assert row["computed_fraction"] == pytest.approx(fraction, abs=0.08)
        assert 1 < row["flops_ratio_to_chunk_wise"] == pytest.approx(1 / row["computed_fraction"], rel=0.35)


def test_the_live_policy_decides_by_itself(quick: dict):
    (live,) = quick["deciding"]
    assert live["distance"] == "patch embedding"
    assert live["phases"]["token"] > 0 and live["phases"]["chunk"] > 0
    assert 0.2 < live["computed_fraction"] < 1
    assert 0 < live["share"]["median"] < 1


@pytest.mark.parametrize("attention", magi1.ATTENTIONS)
def test_each_saving_is_told_apart(quick: dict, attention: str):
    saved = {row["saving"]: row for row in quick["savings"] if row["attention"] == attention}
    plain, alone, text, ring, all_three = saved.values()
    assert plain["flops_ratio"] == ring["flops_ratio"] == 1.0
    assert 1 < text["flops_ratio"] < alone["flops_ratio"] < all_three["flops_ratio"]
    assert plain["kv_bytes"] == alone["kv_bytes"] == text["kv_bytes"]
    assert ring["kv_bytes"] < plain["kv_bytes"] and all_three["kv_bytes"] <= ring["kv_bytes"]
    assert all(row["seconds"]["median"] > 0 for row in saved.values())


def test_ranges_move_less_than_everything(quick: dict):
    moved = quick["moved"]
    # 6 chunks of 6 * 1 * 2 tokens, two steps a stage, two passes with history. In a stage's first step the clean chunk
    # comes from the same call; in the second one of the stored chunks is read
    a_chunk = 2 * 12 * 64 * 4
    assert moved["ranges"] == 2 * 5 * a_chunk
    assert moved["everything"] == 2 * (sum(range(5)) + sum(range(6))) * a_chunk


def test_the_result_is_printed_as_tables(quick: dict):
    text = magi1.text(quick)
    parts = table.comparison(quick["rows"]), table.deciding(quick["deciding"]), table.savings(quick["savings"])
    for part in parts:
        assert part in text
        assert len({line.count("|") for line in part.splitlines()}) == 1
    assert text.startswith("1 of 34 layers, width 128")
    assert text.count("held: ") + text.count("MISSED: ") == 2


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--steps", "6", "multiple of 4 (nearest: 8)"),
        ("--saving-steps", "2", "nearest: 4"),
        ("--chunks", "0", "least 1"),
    ],
)
def test_an_illegal_option_ends_with_status_2(option: str, value: str, words: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as ended:
        magi1.parse([option, value])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
