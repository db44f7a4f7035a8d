"""Runs of a sweep: read from real reports, put into series, a table that says what is best, bad reports refused."""

from __future__ import annotations

import json

import pytest

from motioncache_core.config import CacheConfig
from motioncache_core.flops import TransformerSize
from motioncache_core.models.skyreels_v2.plan import SamplingSettings, build_plan
from motioncache_core.plots import Point
from motioncache_core.report import Report
from motioncache_core.sweep import COSTS, ReportError, plot_series, read_run, references, table

SIZE = TransformerSize(width=2, ffn_width=3, layers=5, patch_values=4, text_tokens=7, text_width=11)


def report(config: CacheConfig | None = None, frames: int = 25, **summary) -> str:
    """A report's text as the sampler gives it, its totals replaced."""
    content = Report(build_plan(SamplingSettings(frames=frames, steps=6)), config, SIZE).to_json()
    content["summary"].update(summary)
    return json.dumps(content)


def test_a_run_is_read_from_the_samplers_report():
    text = report(CacheConfig(), computed_fraction=0.4, flops=2.5e12, seconds=3.25)
    run = read_run(text, "name", 31.5)
    assert (run.label, run.series, run.quality) == ("name", "token-level", 31.5)
    assert [cost(run) for cost in COSTS.values()] == [0.4, 2.5, 3.25]
    assert run.video == ("skyreels_v2", 7)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (None, "no cache, chunk-wise"),
        (CacheConfig(granularity="off"), "no cache, chunk-wise"),
        (CacheConfig(granularity="chunk"), "chunk-level"),
        (CacheConfig(granularity="token"), "token-level"),
    ],
)
def test_runs_with_the_same_caching_are_one_series(config: CacheConfig | None, name: str):
    assert read_run(report(config), "", None).series == name


def test_vanilla_sampling_is_a_series_of_its_own():
    content = json.loads(report())
    content["sampling"] = "vanilla"
    assert read_run(json.dumps(content), "", None).series == "no cache, vanilla"


def runs() -> list:
    token, chunk = CacheConfig(granularity="token"), CacheConfig(granularity="chunk")
    return [
        read_run(report(computed_fraction=1.0, flops=4e12, seconds=9), "all", None),
        read_run(report(token, computed_fraction=0.5, flops=2e12, seconds=5), "t1", 33.0),
        read_run(report(chunk, computed_fraction=0.6, flops=2.4e12, seconds=4), "c|1", 30.0),
        read_run(report(token, computed_fraction=0.3, flops=1.2e12, seconds=6), "t2", 29.0),
    ]


def test_points_go_by_series_and_runs_without_quality_are_references():
    assert plot_series(runs(), "TFLOPs") == {
        "token-level": [Point(2.0, 33.0, "t1"), Point(1.2, 29.0, "t2")],
        "chunk-level": [Point(2.4, 30.0, "c|1")],
    }
    assert references(runs(), "seconds") == {"all": 9.0}
    assert references([*runs(), *runs()], "seconds") == {"all": 9.0, "all (2)": 9.0}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.replace("\\|", "/").strip("|").split("|")]


def test_the_table_has_all_runs_and_tells_the_best_by_the_chosen_cost():
    lines = table(runs(), "computed fraction", "PSNR").split("\n")
    assert cells(lines[0]) == ["run", "caching", "computed fraction", "TFLOPs", "seconds", "PSNR", "Pareto-optimal"]
    assert cells(lines[2]) == ["all", "no cache, chunk-wise", "1.000", "4", "9.0", "reference", ""]
    assert cells(lines[3]) == ["t1", "token-level", "0.500", "2", "5.0", "33", "yes"]
    assert cells(lines[4])[0] == "c/1", "a bar does not make a new cell"
    assert {len(cells(line)) for line in lines[:6]} == {7}
    assert [cells(line)[-1] for line in lines[2:6]] == ["", "yes", "", "yes"]
    by_seconds = table(runs(), "seconds", "PSNR").split("\n")
    assert [cells(line)[-1] for line in by_seconds[2:6]] == ["", "yes", "yes", ""]


def test_the_table_calls_the_computed_fraction_no_speed_up():
    assert "it is not a speed-up" in table(runs(), "seconds", "PSNR")


def test_different_videos_are_named():
    assert "should not be compared" not in table(runs(), "seconds", "PSNR")
    mixed = [*runs(), read_run(report(frames=45), "long", 30.0)]
    assert "7 latent frames, skyreels_v2 with 12 latent frames" in table(mixed, "seconds", "PSNR")


def changed(**changes) -> str:
    content = json.loads(report())
    for name, value in changes.items():
        place = content["summary"] if name in content["summary"] else content
        if value is None:
            del place[name]
        else:
            place[name] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "12 model calls in 3.0 s,\n0.1 TFLOPs and more words",
            r"begins '12 model calls in 3.0 s, 0.1 TFLOPs and.*called",
        ),
        ("", "is not a sampler's report"),
        ("[1, 2]", "is JSON, but not"),
        ('{"format": "other"}', "is JSON, but not"),
        (changed(version=2), "version 2; this pack reads version 1"),
        (changed(flops=None), "damaged: flops is missing"),
        (changed(seconds="3"), "damaged: seconds"),
        (changed(computed_fraction=True), "damaged: computed_fraction"),
        (changed(family=None), "damaged: family"),
        (changed(summary=[]), "damaged: cache"),
        (changed(seconds=float("nan")), "damaged: seconds is nan"),
        (changed(flops=-1.0), "damaged: flops is -1; it must be 0 or more"),
    ],
)
def test_what_is_no_report_is_refused_in_a_sentence(text: str, words: str):
    with pytest.raises(ReportError, match=words):
        read_run(text, "", 1.0)


def test_a_quality_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="quality is nan"):
        read_run(report(), "", float("nan"))
