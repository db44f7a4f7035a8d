"""The benchmark: replayed patterns, fair rounds, what the machine tells, and a whole quick run through the node."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
import torch

from tools.bench import skyreels_v2
from tools.bench.harness import command, machine, table
from tools.bench.harness.pattern import chunk_pattern, make_pattern, moving_region
from tools.bench.harness.rounds import Spread, alternate, order, speed_up

OUTCOMES = {"full", "partial", "reused"}


@pytest.mark.parametrize("steps", [5, 6, 8, 12, 30, 50])
@pytest.mark.parametrize("fraction", [0.35, 0.5, 0.7])
def test_a_pattern_has_the_wanted_fraction_and_every_outcome(steps: int, fraction: float):
    pattern = make_pattern(fraction, steps)
    assert pattern.fraction == pytest.approx(fraction)
    assert len(pattern.outcomes) == steps
    assert pattern.outcomes[0] == "full"
    assert set(pattern.outcomes) == OUTCOMES
    assert 0.25 <= pattern.share <= 0.75


def test_reused_steps_are_spread_over_the_run():
    outcomes = make_pattern(0.5, 50).outcomes
    reused = [i for i, outcome in enumerate(outcomes) if outcome == "reused"]
    gaps = [b - a for a, b in zip(reused, reused[1:], strict=False)]
    assert max(gaps) <= 2 * min(gaps) + 1
    assert reused[0] < 10 and reused[-1] > 40


@pytest.mark.parametrize(
    ("fraction", "steps", "words"), [(0.05, 8, "nearest: 0.156"), (0.99, 8, "nearest: 0.844"), (0.5, 2, "nearest: 3")]
)
def test_a_pattern_that_cannot_be_names_the_nearest(fraction: float, steps: int, words: str):
    with pytest.raises(ValueError, match=words):
        make_pattern(fraction, steps)


@pytest.mark.parametrize(("fraction", "steps", "full"), [(0.5, 8, 4), (0.3, 8, 2), (0.01, 8, 1), (1.0, 8, 7)])
def test_a_chunk_pattern_is_full_or_reused(fraction: float, steps: int, full: int):
    pattern = chunk_pattern(fraction, steps)
    assert pattern.outcomes[0] == "full" and len(pattern.outcomes) == steps
    assert (pattern.outcomes.count("full"), pattern.outcomes.count("reused")) == (full, steps - full)
    assert pattern.fraction == full / steps
    with pytest.raises(ValueError, match="nearest: 2"):
        chunk_pattern(fraction, 1)


def test_the_region_has_its_size_in_every_frame_and_moves():
    def region(**place: int) -> torch.Tensor:
        return moving_region(5, 6, 8, 0.4, **{"step": 1, "chunk": 0, "branch": 0, **place}).view(5, 48)

    mask = region()
    assert mask.sum(dim=1).tolist() == [19] * 5  # 0.4 * 48
    assert not torch.equal(mask[0], mask[4])
    for place in ({"step": 5}, {"chunk": 1}, {"branch": 1}):
        assert not torch.equal(region(**place), mask), place
    assert torch.equal(region(), mask)
    assert moving_region(1, 2, 2, 0.01, 0, 0, 0).sum() == 1
    assert moving_region(1, 2, 2, 0.99, 0, 0, 0).sum() == 3


def test_rounds_alternate_and_speed_ups_are_taken_within_a_round():
    made = []

    def measure(name: str, round_index: int) -> float:
        made.append(name)
        return {"slow": 4.0, "fast": 1.0}[name] * (round_index + 1)  # the machine gets slower and slower

    lengths = []
    for seconds in alternate(["slow", "fast"], 3, measure):
        lengths.append([len(values) for values in seconds.values()])
    assert lengths == [[1, 1], [2, 2], [3, 3]]
    assert made == ["slow", "fast", "fast", "slow", "slow", "fast"]
    assert order(["a", "b", "c"], 1) == ["c", "b", "a"]
    assert seconds == {"slow": [4.0, 8.0, 12.0], "fast": [1.0, 2.0, 3.0]}
    assert speed_up(seconds["fast"], seconds["slow"]) == Spread(4.0, 4.0, 4.0)
    assert speed_up([1.0, 2.0, 4.0], [2.0, 2.0, 2.0]) == Spread(1.0, 0.5, 2.0)


def test_targets_are_judged_by_the_worst_variant():
    def row(share: float, reuses: bool) -> dict:
        return {"reuses": reuses, "speed_up_of_flops_ratio": share}

    def live(share: float) -> dict:
        return {"share": {"median": share}}

    rows = [row(0.2, False), row(0.9, True), row(0.86, True)]
    assert [t["held"] for t in command.targets(rows, [live(0.01), live(0.029)])] == [True, True]
    assert [t["held"] for t in command.targets([*rows, row(0.84, True)], [live(0.01)])] == [False, True]
    assert [t["held"] for t in command.targets(rows, [live(0.01), live(0.03)])] == [True, False]


@pytest.mark.parametrize(
    ("written", "words"), [("12", "HEIGHTxWIDTH"), ("12x15", "nearest: 12x14"), ("0x16", "nearest: 2x16")]
)
def test_a_latent_size_that_cannot_be_is_refused(written: str, words: str):
    assert command.latent_size("12x16") == (12, 16)
    with pytest.raises(ValueError, match=words):
        command.latent_size(written)


@pytest.mark.parametrize(("option", "value"), [("--pairs", "0"), ("--layers", "-1"), ("--latent", "3x3")])
def test_an_illegal_option_ends_with_status_2(option: str, value: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as ended:
        skyreels_v2.parse([option, value])
    assert ended.value.code == 2
    assert option in capsys.readouterr().err


def test_a_busy_machine_is_named():
    assert machine.warnings(0.2, 0.05, 2) == []
    assert "load average 1.50" in machine.warnings(1.5, 0.05, 2)[0]
    assert "0.40 of 2 cores" in machine.warnings(0.2, 0.4, 2)[0]
    assert machine.warnings(None, None, 2) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_other_processes_are_seen():
    burn = "import time\nwhile time.process_time() < 1.0: pass"
    started = time.perf_counter()
    with machine.OthersMeter() as meter:
        subprocess.run([sys.executable, "-c", burn], check=True)
    assert meter.cores * (time.perf_counter() - started) > 0.8


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_sees_what_came_and_went():
    with machine.PeakMemory(torch.device("cpu")) as peak:
        torch.ones(64 * 2**20, dtype=torch.uint8)
    with machine.PeakMemory(torch.device("cpu")) as small:
        torch.ones(2**10, dtype=torch.uint8)
    assert 60 * 2**20 < peak.bytes < 96 * 2**20
    assert small.bytes < 16 * 2**20


@pytest.fixture(scope="module")
def quick(pack, tmp_path_factory: pytest.TempPathFactory) -> dict:  # noqa: ANN001 - the pack as a module
    """What a quick run wrote."""
    out = tmp_path_factory.mktemp("bench") / "deeper" / "result.json"
    assert skyreels_v2.main(["--quick", "--steps", "6", "--out", str(out)]) == 0
    return json.loads(out.read_text(encoding="utf-8"))


def test_the_quick_run_measures_every_variant(quick: dict):
    rows = {row["variant"]: row for row in quick["rows"]}
    assert list(rows) == [
        "vanilla",
        "chunk-wise",
        "chunk-wise, clean refresh",
        *(f"MotionCache, {fraction} computed" for fraction in (0.7, 0.5, 0.3)),
    ]
    chunk_tokens, steps, chunks, branches = 5 * 2 * 4, 6, 3, 2
    plain = branches * chunks * steps * chunk_tokens
    assert rows["chunk-wise"]["token_forwards"] == plain
    assert rows["vanilla"]["token_forwards"] == branches * (steps + 2) * chunks * chunk_tokens
    assert rows["chunk-wise, clean refresh"]["token_forwards"] == plain + branches * (chunks - 1) * chunk_tokens
    assert rows["vanilla"]["kv_bytes"] == 0
    assert rows["chunk-wise"]["kv_bytes"] == 2 * branches * chunks * chunk_tokens * 128 * 4
    for row in rows.values():
        assert row["seconds"]["median"] > 0
        assert row["speed_up_over_vanilla"]["median"] > 0


def test_the_quick_run_replays_its_pattern(quick: dict):
    for row in quick["rows"]:
        if not row["reuses"]:
            assert row["computed_fraction"] == 1.0
            continue
        fraction = float(row["variant"].split()[1])
        assert row["computed_fraction"] == pytest.approx(fraction, abs=0.05)
        outcomes = make_pattern(fraction, 6).outcomes
        assert row["branch_steps"] == {name: 6 * outcomes.count(name) for name in OUTCOMES}  # 3 chunks, 2 branches
        assert row["flops_ratio_to_chunk_wise"] == pytest.approx(1 / fraction, rel=0.35)


def test_the_quick_run_decides_by_itself_in_every_phase(quick: dict):
    assert [live["distance"] for live in quick["deciding"]] == ["time embedding", "patch embedding"]
    for live in quick["deciding"]:
        assert all(count > 0 for count in live["phases"].values()), live
        assert 0.2 < live["computed_fraction"] < 1
        assert 0 < live["share"]["median"] < 1


def test_the_result_is_printed_as_tables(quick: dict):
    text = skyreels_v2.text(quick)
    for part in (table.comparison(quick["rows"]), table.deciding(quick["deciding"])):
        assert part in text
        assert len({line.count("|") for line in part.splitlines()}) == 1
    assert text.startswith("1 of 30 layers")
    assert text.count("held: ") + text.count("MISSED: ") == 2
