"""The benchmark of long takes: early against late nodes, what must hold, and a short run of every form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tools.bench import long
from tools.bench.harness import long_table


def row(all_chunks: int, cpu: float = 2.0, peak: int | None = 100, calls: int = 40, **more: Any) -> dict[str, Any]:
    return {
        "chunks": 2, "all_chunks": all_chunks, "finished": 0, "calls": calls, "steps": 20, "computed_fraction": 1.0,
        "seconds": 5.0, "cpu_seconds": cpu, "seconds_in_calls": 4.0, "peak_bytes": peak, "base_bytes": 1000,
        "kv_bytes": 50, "state_bytes": 10, "finished_bytes": all_chunks, "trace_bytes": all_chunks,
        "held_bytes": 100 * all_chunks,
    } | more  # fmt: skip


def run(rows: list[dict[str, Any]], run_in: int = 3) -> dict[str, Any]:
    flat = long_table.flatness(rows, run_in)
    return {"name": "take", "keep": "nothing", "run_in": run_in, "flat": flat, "rows": rows}


def test_seconds_are_those_of_as_many_calls_as_a_chunk_has_steps():
    assert long_table.a_chunk(row(2, cpu=3.0, calls=30)) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("ends", "early", "late"),
    [
        ((2, 4, 6, 8, 10, 12), [4, 6], [10, 12]),
        ((2, 4, 6), [4], [6]),
        ((2, 4), [2], [4]),
        ((2, 3, 4, 6, 8), [4], [8]),
    ],
)
def test_nodes_before_the_run_in_is_over_do_not_count(ends: tuple[int, ...], early: list[int], late: list[int]):
    rows = [row(end) for end in ends] + [row(ends[-1], chunks=0, calls=0)]
    found = long_table.early_and_late(rows, 3)
    assert tuple([r["all_chunks"] for r in part] for part in found) == (early, late)


def test_what_grows_is_missed_and_what_does_not_is_held():
    rows = [row(4), row(6), row(8, cpu=2.2), row(10, cpu=2.36, peak=128)]
    targets = {t["target"].split(": ")[1].split(" at ")[0]: t for t in long_table.targets([run(rows)])}
    assert targets["time a chunk"] == targets["time a chunk"] | {"value": 1.14, "held": True}
    assert targets["peak memory"]["held"] and targets["peak memory"]["value"] == 1.14
    assert targets["keys, values and state"]["value"] == 1.0
    rows[-1] = row(10, cpu=2.6, peak=131, kv_bytes=90)
    assert not any(t["held"] for t in long_table.targets([run(rows)]))


def test_memory_that_cannot_be_read_is_no_target():
    result = run([row(4, peak=None), row(6, peak=None)])
    assert [t["target"] for t in long_table.targets([result]) if "peak" in t["target"]] == []
    assert "not known" in long_table.comparison([result])


def test_a_chain_is_cut_into_nodes():
    assert long.nodes(50, 5) == [5] * 10
    assert long.nodes(5, 2) == [2, 2, 1]


def test_options_are_refused_with_the_nearest(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        long.parse(["--node", "0"])
    assert "nearest: 1" in capsys.readouterr().err


@pytest.fixture(scope="module")
def quick() -> dict[str, Any]:
    (*_, result) = long.measure(long.parse(["--quick"]), {"cores": 1, "processor": "", "threads": 1, "torch": ""})
    return json.loads(json.dumps(result))


def test_every_form_grows_node_by_node(quick: dict[str, Any]):
    by_name = {run["name"]: run["rows"] for run in quick["runs"]}
    assert len(by_name) == 5
    for rows in by_name.values():
        assert [r["all_chunks"] for r in rows] == [2, 4, 4]
        assert [r["chunks"] for r in rows] == [2, 2, 0]
        assert rows[-1]["finished"] == 4
        assert all(r["calls"] and r["seconds"] > 0 for r in rows[:2])
        assert rows[-1]["finished_bytes"] > rows[0]["finished_bytes"]
        assert rows[-1]["trace_bytes"] > rows[0]["trace_bytes"] > 0
        assert rows[-1]["held_bytes"] >= rows[0]["held_bytes"] >= rows[0]["kv_bytes"] + rows[0]["state_bytes"]
    exact, finished, small, nothing, magi1 = by_name.values()
    assert finished[1]["kv_bytes"] <= exact[1]["kv_bytes"]  # with so few steps one chunk follows the other
    assert exact[1]["kv_bytes"] == 4 * small[1]["kv_bytes"] > 0 and magi1[0]["kv_bytes"] > 0  # float32 against 8 bits
    assert nothing[1]["kv_bytes"] == 0
    assert sum(r["calls"] for r in exact) == sum(r["calls"] for r in nothing) == 4 * 5


def test_the_result_is_printed_as_tables(quick: dict[str, Any]):
    text = long.text(quick)
    assert long_table.comparison(quick["runs"]) in text
    for run in quick["runs"]:
        assert long_table.by_node(run["rows"]) in text
    assert text.count("held: ") + text.count("MISSED: ") == len(quick["targets"]) >= 8
