"""The drawing of a plan before the run: the same as the run, and refused with the node's own words."""

from __future__ import annotations

from typing import Any

import pytest

SKYREELS, OBJECT, MAGI1 = (
    "MotionCacheAutoregressiveSampler",
    "MotionCacheAutoregressiveSamplerObject",
    "MotionCacheMagi1Sampler",
)
THRESHOLD = 0.4
TINY = "tiny_world_skyreels_v2_df.safetensors"


@pytest.fixture
def drawn(mc: Any) -> Any:
    planning = mc.module("nodes.planning")
    return lambda kind, **request: planning.drawn_plan({"node": kind, **request})


def test_defaults_draw_what_the_node_would_run(mc: Any, drawn: Any) -> None:
    found = drawn(SKYREELS, inputs={"frames": 57, "window": 57, "steps": 10})
    assert found["lanes"] == [[0, 5, 0, 0], [5, 10, 5, 0], [10, 15, 10, 0]]
    assert found["cache"] == "none" and found["first_reuse"] is None and found["exact"] is True
    assert drawn(SKYREELS, inputs={}, connected=["start_image"])["calls"]["context"] == 1


def test_the_chunk_phase_is_the_one_of_the_run(mc: Any, drawn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the checkpoint's time layers, every full and reused step of the chunk phase is foretold."""
    policy = mc.module("motioncache_core.models.skyreels_v2.policy")
    coefficients = policy.COEFFICIENTS_BY_WIDTH | {128: (1.0, 0.0)}
    for module in ("motioncache_core.models.skyreels_v2.policy", "nodes.cache", "nodes.planning"):
        monkeypatch.setattr(mc.module(module), "COEFFICIENTS_BY_WIDTH", coefficients)
    knobs = {"preset": "custom", "warmup_steps": 2, "chunk_phase_updates": 3, "chunk_threshold": THRESHOLD}
    knobs |= {"distance": "time embedding"}
    inputs = {"frames": 25, "window": 57, "steps": 14, "chunk_size": 3, "ar_step": 2, "width": 64, "height": 48}
    found = drawn(SKYREELS, inputs=inputs, cache=knobs, model="tiny.safetensors")
    assert found["exact"] is True, found["notes"]
    timeline, forecast = mc.module("motioncache_core.timeline"), mc.module("motioncache_core.forecast")
    foretold = {
        (lane, step): (timeline.PHASES[phase], forecast.EXPECTATIONS[what])
        for lane, step, phase, what, *_ in found["cells"]
    }
    config = {"warmup_steps": 2, "chunk_phase_updates": 3, "chunk_threshold": THRESHOLD, "distance": "time embedding"}
    run = mc.sample(mc.cached(**config), **{**inputs, "fps": 24.0})
    seen = set()
    for chunk, step, _, phase, outcome, _ in run.outcomes:
        expected_phase, what = foretold[(int(chunk), step)]
        assert phase == expected_phase, (chunk, step)
        if phase != "token":
            assert what == {"full": "computed", "reused": "reused"}[outcome], (chunk, step)
        seen.add((phase, outcome))
    assert {("warm-up", "full"), ("chunk", "full"), ("chunk", "reused")} <= seen
    assert any(phase == "token" for phase, _ in seen)


def test_a_narrow_model_or_none_gives_bounds(drawn: Any) -> None:
    preset = {"preset": "MotionCache (published SkyReels-V2 settings)"}
    with_model = drawn(SKYREELS, inputs={}, cache=preset, model=TINY)
    assert not with_model["exact"] and with_model["first_reuse"] == 5
    assert any("width 256" in note or "No published distance" in note for note in with_model["notes"])
    without = drawn(SKYREELS, inputs={}, cache=preset)
    assert not without["exact"] and any("checkpoint is not known" in note for note in without["notes"])


def test_only_files_of_the_list_are_opened(mc: Any, drawn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(mc.module("nodes.planning"), "read_layout", lambda path: opened.append(path))
    preset = {"preset": "MotionCache (published SkyReels-V2 settings)"}
    for name in ("../../etc/passwd", "/etc/passwd", "nothing.safetensors", 7, ["a"]):
        assert drawn(SKYREELS, inputs={}, cache=preset, model=name)["exact"] is False
    assert opened == []


def test_the_other_samplers_draw_too(drawn: Any) -> None:
    found = drawn(OBJECT, inputs={"window": 57}, cache={"preset": "off"})
    assert found["steps"] == 30 and any("SIGMAS" in note for note in found["notes"])
    inputs = {"frames": 96, "steps": 16, "window": 4}
    magi1 = drawn(MAGI1, inputs=inputs, cache={"preset": "MotionCache (scaled to the steps)"})
    assert [lane[2] for lane in magi1["lanes"]] == [0, 4, 8, 12] and magi1["cache"] == "token"
    off = drawn(MAGI1, inputs=inputs | {"attention": "vanilla (window together)"}, cache={"preset": "custom"})
    assert off["cache"] == "none" and any("not active" in note for note in off["notes"])


REFUSED = [
    ({"node": "KSampler"}, "node is 'KSampler'"),
    ({"node": SKYREELS, "inputs": []}, "inputs must be a table"),
    ({"node": SKYREELS, "inputs": {"frames": 98}}, "frames is 98"),
    ({"node": SKYREELS, "inputs": {"steps": "many"}}, "steps is 'many'; it must be a whole number"),
    ({"node": SKYREELS, "inputs": {"steps": 10**9}}, "steps is 1000000000; it must lie between 1 and 1000"),
    ({"node": SKYREELS, "inputs": {"shift": float("nan")}}, "shift is nan"),
    ({"node": SKYREELS, "inputs": {"clean_refresh": 1}}, "clean_refresh is '1'; it must be true or false"),
    ({"node": SKYREELS, "inputs": {"attention": "all"}}, "attention is 'all'; it must be one of chunk-wise"),
    ({"node": SKYREELS, "inputs": {"frames": 100001, "steps": 1000}}, "frames and steps make"),
    ({"node": SKYREELS, "inputs": {}, "cache": {"preset": "best"}}, "preset is 'best'"),
    ({"node": SKYREELS, "inputs": {}, "cache": {"preset": "custom", "distance": "table"}}, "distance_table"),
    ({"node": MAGI1, "inputs": {"steps": 18, "window": 4}}, "steps is 18"),
    ({"node": SKYREELS, "inputs": {}, "connected": "start_image"}, "connected must be a list"),
]


@pytest.mark.parametrize(("request_", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_cannot_be_drawn_says_why(mc: Any, request_: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        mc.module("nodes.planning").drawn_plan(request_)


def test_a_knob_out_of_range_names_the_nearest_value(mc: Any) -> None:
    with pytest.raises(ValueError, match=r"\(nearest: 1000\)"):
        mc.module("nodes.planning").drawn_plan({"node": SKYREELS, "inputs": {"steps": 2000}})


def test_aliases_are_given_where_the_core_knows_them(mc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a node's schema in this core, and in one whose schemas have the field."""
    import dataclasses

    versions = mc.module("nodes.host.versions")
    known = "search_aliases" in {f.name for f in dataclasses.fields(versions.io.Schema)}
    assert versions.search_aliases("a", "b") == ({"search_aliases": ["a", "b"]} if known else {})
    newer = dataclasses.make_dataclass("Schema", ["node_id", ("search_aliases", list, dataclasses.field(default=None))])
    monkeypatch.setattr(versions.io, "Schema", newer)
    assert versions.search_aliases("a", "b") == {"search_aliases": ["a", "b"]}
