"""The quality benchmark: regions, curves at equal FLOPs, the options, and a short run of every kind of cache."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tools.bench import calibrate, quality
from tools.bench.harness import pack, quality_runs
from tools.bench.harness import quality_table as tables
from tools.tinyworld.dataset import held_out
from tools.tinyworld.world import Scene, Sprite, render


def row(series: str, threshold: float, flops: float, psnr: float, seed: int = 0) -> dict[str, Any]:
    return {
        "variant": f"{series}, {threshold:g}", "series": series, "baseline": "chunk-wise", "threshold": threshold,
        "seed": seed, "flops_of_vanilla": flops, "computed_fraction": flops, "speed_up": 1 / flops, "right": True,
        "own": {tables.PSNR_MOVING: psnr},
    }  # fmt: skip


def test_the_moving_region_holds_what_moves_and_the_still_one_no_sprite():
    from tools.bench.harness.quality_measures import MOVING, STILL, regions

    scene = Scene("misty field", (Sprite("red", "ball", "left"), Sprite("blue", "ball", "none")))
    clip = render(scene, 2)
    where = regions(torch.from_numpy(clip.frames), scene)
    assert where[MOVING].numpy()[clip.coverage[0] > 0].all()
    assert where[MOVING].numpy()[clip.coverage[1] > 0.5].mean() < 0.1  # the border around the one touches the other
    assert not where[STILL].numpy()[clip.coverage.max(0) > 0].any()
    assert 0.1 < where[MOVING].float().mean() < 0.25 and where[STILL].float().mean() > 0.5


def test_a_better_curve_has_its_advantage_at_equal_flops():
    rows = [row(tables.CHUNK, t, f, p) for t, f, p in ((0.1, 0.8, 40), (0.2, 0.4, 32), (0.3, 0.2, 24))]
    rows += [row(tables.TOKEN, t, f, p + 3) for t, f, p in ((0.1, 0.4, 32), (0.2, 0.2, 24), (0.3, 0.1, 16))]
    found = tables.advantage(rows, tables.TOKEN, tables.CHUNK, "own", tables.PSNR_MOVING)
    assert (found["from"], found["to"]) == (0.2, 0.4)
    assert found["mean"] == pytest.approx(3) and found["by_seed"] == [pytest.approx(3)]
    assert found["least"] == pytest.approx(3) and found["most"] == pytest.approx(3)
    back = tables.advantage(rows, tables.CHUNK, tables.TOKEN, "own", tables.PSNR_MOVING)
    assert back["mean"] == pytest.approx(-3)
    assert "+3.00" in tables.advantages([found])


def test_curves_that_share_no_range_are_not_compared():
    rows = [row(tables.CHUNK, 0.1, 0.8, 40), row(tables.CHUNK, 0.2, 0.6, 38)]
    rows += [row(tables.TOKEN, 0.1, 0.4, 30), row(tables.TOKEN, 0.2, 0.2, 20)]
    assert tables.advantage(rows, tables.TOKEN, tables.CHUNK, "own", tables.PSNR_MOVING) is None
    assert quality.compared(rows) == []


def test_the_spread_is_over_seeds_and_missing_measures_are_left_out():
    rows = [row(tables.CHUNK, 0.1, 0.5, p, seed) for p, seed in ((30, 0), (32, 0), (34, 1), (math.nan, 1))]
    (point,) = tables.curve(rows, tables.CHUNK, "own", tables.PSNR_MOVING)
    assert (point.y, point.low, point.high, point.label) == (32, 31, 34, "0.1")
    assert tables.curve(rows, tables.CHUNK, "vanilla", tables.PSNR_MOVING) == []
    assert "32.0 (31.0–34.0)" in tables.comparison(rows)
    picture = tables.plot(rows + [row(tables.CHUNK, 0.2, 0.3, 28)], tables.SERIES, "own", tables.PSNR_MOVING, "t", "y")
    assert picture.ndim == 3 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 3


@pytest.mark.parametrize("count", [1, 4, 8])
def test_prompts_are_held_out_different_and_moving(count: int):
    scenes = quality_runs.prompts(count)
    assert len(set(scenes)) == count and all(map(held_out, scenes))
    assert all(any(sprite.motion != "none" for sprite in scene.sprites) for scene in scenes)
    assert sum(len(scene.sprites) == 2 for scene in scenes) == count // 4


def test_options_are_filled_in_by_the_form_and_refused_with_the_nearest(capsys: pytest.CaptureFixture):
    options = quality.parse(["--form", "full", "--seeds", "2", "--thresholds", f"{tables.TOKEN}=0.1,0.2"])
    assert (options.prompts, options.seeds, options.perceptual) == (4, 2, 2)
    assert options.thresholds == {tables.TOKEN: (0.1, 0.2)}
    for given, words in ((["--seeds", "0"], "nearest: 1"), (["--thresholds", "MotionCache=x"], "write e.g.")):
        with pytest.raises(SystemExit):
            quality.parse(given)
        assert words in capsys.readouterr().err


@pytest.fixture(scope="module")
def short() -> list[dict[str, Any]]:
    """All kinds of runs of one clip, 6 steps."""
    pack.load()
    from tools.bench.harness.quality_variants import variants
    from tools.bench.harness.tiny_world_runs import TinyWorld

    thresholds = {tables.STEP: (0.3,), tables.STOCK: (2.0,), tables.CHUNK: (0.3,), tables.TOKEN: (0.3, 0.0)}
    job = quality_runs.Job(quality_runs.prompts(1)[0], 0, steps=6, ar_step=1, perceptual=False)
    return json.loads(json.dumps(quality_runs.clip_rows(TinyWorld(), job, variants(thresholds))))


def test_every_kind_of_cache_saves_and_none_of_them_is_exact(short: list[dict[str, Any]]):
    cached = [row for row in short if row["threshold"]]
    assert {row["series"] for row in cached} == set(tables.SERIES)
    for found in cached:
        assert found["computed_fraction"] < 1, found
        assert 10 < found["own"]["psnr still"] < 100, found
    by_name = tables.by_variant(short)
    assert by_name["vanilla block-causal"][0]["flops_of_vanilla"] == 1
    assert by_name["chunk-wise"][0]["flops_of_vanilla"] < 0.8


def test_clean_refresh_is_vanilla_and_threshold_0_is_the_uncached_run(short: list[dict[str, Any]]):
    by_name = {name: rows[0] for name, rows in tables.by_variant(short).items()}
    assert by_name["chunk-wise, clean refresh"]["vanilla"]["psnr still"] > 60
    nothing_reused = by_name[f"{tables.TOKEN}, 0"]
    assert nothing_reused["computed_fraction"] == 1
    assert nothing_reused["own"]["psnr moving"] == nothing_reused["own"]["psnr still"] == 100
    assert nothing_reused["vanilla"] == by_name["chunk-wise"]["vanilla"]


def test_calibration_accumulates_what_steps_change():
    def measured(residual: float, embedding: float) -> dict[str, float]:
        return {"residual": residual, "time embedding": embedding, "patch embedding": 0.5}

    steps = {
        (999, 900): [measured(0.2, 0.1)] * 3,
        (900, 700): [measured(0.3, 0.2), measured(0.3, 0.25)],
        (700, 0): [measured(0.1, 0.05), measured(0.3, 0.3)],
    }
    found = calibrate.summary(steps)
    assert found["distance_table"] == "999:0, 900:0.200, 700:0.500, 0:0.700"
    assert [line["timesteps"] for line in found["steps"]] == ["999-900", "900-700", "700-0"]
    assert len(found["polynomial"]) == 5 and 0 <= found["explained"] <= 1


def test_thresholds_replace_those_of_their_cache_only():
    pack.load()
    from tools.bench.harness import quality_magi1, quality_variants

    for module in (quality_variants, quality_magi1):
        for given in ({}, {tables.TOKEN: (0.7,)}):
            expected = {**module.THRESHOLDS, **given}
            found: dict[str, tuple[float, ...]] = {}
            for variant in module.variants(given):
                if variant.threshold is not None:
                    found[variant.series] = (*found.get(variant.series, ()), variant.threshold)
            assert found == expected


def test_the_familys_model_must_be_there_and_its_steps_fit(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "tiny.safetensors").touch()
    given = ["--family", "magi1", "--model", str(tmp_path / "tiny.safetensors")]
    assert quality.parse(given).steps == 16 and quality.parse([]).steps == 20
    for more, words in ((["--steps", "10"], "nearest: 8"), (["--model", str(tmp_path / "no")], "train tiny_magi1")):
        with pytest.raises(SystemExit):
            quality.parse([*given, *more])
        assert words in capsys.readouterr().err


def test_the_tiny_magi1_is_measured_in_the_same_way(tmp_path: Path):
    """With random weights: what matters is which runs are the same."""
    pack.load()
    from tools.bench.harness import quality_magi1
    from tools.tinyworld import magi1

    model = magi1.build()
    magi1.initialise(model, 0)
    magi1.export(model.state_dict(), tmp_path / quality.MAGI1_FILE.name, 0, 0)
    world = quality_magi1.TinyMagi1World(tmp_path / quality.MAGI1_FILE.name)
    series = (tables.CHUNK, tables.TOKEN, tables.CHUNK_STRETCHED, tables.TOKEN_STRETCHED)
    variants = quality_magi1.variants({**dict.fromkeys(series, (0.2,)), tables.TOKEN: (0.2, 0.0)})
    job = quality_runs.Job(quality_runs.prompts(1)[0], 0, steps=8, ar_step=0, perceptual=False)
    rows = json.loads(json.dumps(quality_runs.clip_rows(world, job, variants)))
    by_name = {name: own[0] for name, own in tables.by_variant(rows).items()}
    assert by_name["chunk-wise, clean refresh"]["vanilla"]["psnr still"] > 60
    assert by_name[f"{tables.TOKEN}, 0"]["own"]["psnr still"] == 100
    for name in series:
        assert by_name[f"{name}, 0.2"]["computed_fraction"] < 1
        assert by_name[f"{name}, 0.2"]["flops_of_vanilla"] < 1
    for name, config in quality_magi1.PRESETS.items():
        for row in (by_name[name], by_name[f"{name}, clean refresh"]):
            assert row["computed_fraction"] < 1 and row["threshold"] is None
        assert by_name[f"{name}, clean refresh"]["flops"] > by_name[name]["flops"], config
    for stretched, as_it_was in ((series[2], series[0]), (series[3], series[1])):
        assert by_name[f"{stretched}, 0.2"]["own"] != by_name[f"{as_it_was}, 0.2"]["own"]
