"""The motion mask preview and the report node, on a run of the tiny checkpoint."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch


@pytest.fixture(scope="module")
def run(_nodes: Any) -> Any:
    with torch.inference_mode():
        return _nodes.sample(_nodes.cached(), steps=8)


@pytest.fixture
def shown(mc: Any, run: Any) -> Any:
    node = mc.module("nodes.preview").MotionCacheMotionMaskPreview

    def make(**inputs: Any) -> Any:
        values = {"show": "share of steps recomputed", "step": 0, "opacity": 1.0} | inputs
        return node.execute(run.decisions, **values)

    return make


def test_the_view_gets_the_state_of_the_sampler(mc: Any, run: Any, shown: Any) -> None:
    """Cells made again from report and decisions equal those that the live run showed."""
    live = mc.module("nodes.host.live_run")
    plan = mc.plan(steps=8)
    cells = {}
    with live.live_run(live.Node(None, "kind"), plan, mc.config(), run.decisions, None) as watched:
        assert watched.payload()["thresholds"] == {"chunk": 0.05, "token": 0.1}
    (state,) = shown(report=json.dumps(run.report)).ui["motioncache"]
    cells = {tuple(cell[:2]): cell for cell in state["cells"]}
    assert state["thresholds"] == {"chunk": 0.05, "token": 0.1} and state["cache"] == "token"
    phases, outcomes = ["none", "warm-up", "chunk", "token"], ["full", "partial", "reused"]
    seen = set()
    for call in run.report["calls"]:
        cell = cells[(int(call["chunks"][0]), call["step"])]
        assert phases[cell[2]] in {branch["phase"] for branch in call["branches"]}
        assert cell[4] == sum(b["computed"] for b in call["branches"])
        assert cell[5] == sum(b["total"] for b in call["branches"])
        assert cell[8] == call["seconds"]
        seen.add(outcomes[cell[3]])
    assert seen == {"full", "partial", "reused"}
    totals = state["totals"]
    assert totals["computed"] / totals["total"] == run.summary["computed_fraction"]
    assert totals["outcomes"] == [run.summary["branch_steps"][name] for name in outcomes]
    assert state["pictures"]["0"]


def test_stripes_lie_where_the_mask_is_white(run: Any, shown: Any) -> None:
    images = torch.full((25, 48, 64, 3), 0.5)
    shares = [float(run.decisions.computed_at(step).mean()) for step in range(8)]
    mixed = next(step for step, share in enumerate(shares) if 0 < share < 1)
    drawn, masks, heat = shown(images=images, show="one step", step=mixed).args
    assert drawn.shape == heat.shape == (25, 48, 64, 3) and masks.shape == (25, 48, 64)
    changed = (drawn != images).any(dim=-1)
    assert torch.equal(changed, masks > 0) and 0 < changed.float().mean() < 1
    assert torch.equal(shown(images=images, opacity=0.0).args[0], images)
    assert float(heat.min()) >= 0 and float(heat.max()) <= 1 and heat.std() > 0.05


def test_without_a_report_neither_phases_nor_times_are_known(run: Any, shown: Any) -> None:
    (state,) = shown().ui["motioncache"]
    assert {cell[2] for cell in state["cells"]} == {0} and {cell[3] for cell in state["cells"]} == {0, 1, 2}
    totals = state["totals"]
    assert totals["seconds"] == 0 and totals["outcomes"] == [0, 0, 0], "of how many branches is not known"
    assert totals["computed"] / totals["total"] == pytest.approx(run.summary["computed_fraction"], abs=1 / 255)


def test_without_images_the_heat_map_is_the_background(shown: Any) -> None:
    drawn, masks, _ = shown().args
    assert drawn.shape == (25, 48, 64, 3) and masks.shape == (25, 48, 64)


def test_odd_and_enlarged_pictures_fit(shown: Any) -> None:
    assert shown(images=torch.zeros(25, 40, 56, 3)).args[1].shape == (25, 40, 56), "cut out of padded tokens"
    large = shown(images=torch.zeros(25, 96, 128, 3)).args[1]
    assert torch.equal(large[:, ::2, ::2], shown().args[1])


def test_a_report_of_another_run_of_the_same_plan_is_refused(_nodes: Any, shown: Any) -> None:
    with torch.inference_mode():
        other = _nodes.sample(_nodes.load(), steps=8)
    with pytest.raises(ValueError, match="report and decisions are of different runs"):
        shown(report=json.dumps(other.report))


def test_several_settings_show_no_threshold(mc: Any, run: Any, shown: Any) -> None:
    note = mc.module("motioncache_core.report").SEVERAL_SETTINGS
    (state,) = shown(report=json.dumps(run.report | {"notes": [note]})).ui["motioncache"]
    assert state["cache"] == "token" and state["thresholds"] is None


def test_what_does_not_belong_together_is_refused(mc: Any, run: Any, shown: Any) -> None:
    with pytest.raises(ValueError, match=r"images has 29 frames; .* has 25 \(nearest: 25\)"):
        shown(images=torch.zeros(29, 48, 64, 3))
    with pytest.raises(ValueError, match=r"step is 9; the run has steps 0 to 7"):
        shown(show="one step", step=9)
    with pytest.raises(ValueError, match="of different runs"):
        shown(report=json.dumps(mc.sample(steps=4).report))
    with pytest.raises(ValueError, match="not a sampler's report"):
        shown(report="hello")


def test_without_a_report_what_was_computed_is_still_shown(run: Any, shown: Any) -> None:
    (state,) = shown().ui["motioncache"]
    assert {cell[3] for cell in state["cells"]} == {0, 1, 2}


def test_the_report_is_told_and_drawn(mc: Any, run: Any) -> None:
    made = mc.module("nodes.report").MotionCacheReport.execute(json.dumps(run.report))
    text, plot = made.args
    assert text.startswith(f"{100 * run.summary['computed_fraction']:.0f} % of the work was computed, ")
    assert "not a speed-up" in text and all(line.endswith(".") for line in text.split("\n"))
    assert plot.shape[0] == 1 and plot.shape[2:] == (960, 3) and plot.shape[1] > 600
    pixels = (plot[0] * 255).round().to(torch.uint8).flatten(0, 1)
    colours = {tuple(c) for c in pixels.unique(dim=0).tolist()}
    assert {(230, 159, 0), (0, 114, 178)} <= colours, "computed and reused"
    assert made.ui["text"] == [text] and made.ui["images"]
