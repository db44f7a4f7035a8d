"""The drawing of a plan before the run: the same as the run, and refused with the node's own words."""

from __future__ import annotations

import time
from typing import Any

import pytest

SKYREELS, OBJECT, MAGI1 = (
    "MotionCacheAutoregressiveSampler",
    "MotionCacheAutoregressiveSamplerObject",
    "MotionCacheMagi1Sampler",
)
KINDS = [SKYREELS, OBJECT, MAGI1, "MotionCacheBeginVideo", "MotionCacheBeginMagi1Video"]
THRESHOLD = 0.4
TINY = "tiny_world_skyreels_v2_df.safetensors"


def node_classes(mc: Any) -> list[Any]:
    """Of all samplers that have a plan."""
    return [node for name in ("sampling", "magi1_sampling", "begin") for node in mc.module(f"nodes.{name}").NODES]


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
    assert found["steps"] == 30 and found["example"]
    assert found["notes"] == ["latent_image and sigmas could not be read from the graph"]
    inputs = {"frames": 96, "steps": 16, "window": 4}
    magi1 = drawn(MAGI1, inputs=inputs, cache={"preset": "MotionCache (scaled to the steps)"})
    assert [lane[2] for lane in magi1["lanes"]] == [0, 4, 8, 12] and magi1["cache"] == "token"
    off = drawn(MAGI1, inputs=inputs | {"attention": "vanilla (window together)"}, cache={"preset": "custom"})
    assert off["cache"] == "none" and any("not active" in note for note in off["notes"])


def test_the_sampler_object_draws_length_and_steps_of_the_graph(drawn: Any) -> None:
    preset = {"preset": "MotionCache (published SkyReels-V2 settings)"}
    found = drawn(OBJECT, inputs={"window": 57, "overlap": 17}, cache=preset, length=97, steps=12, model=TINY)
    whole = drawn(SKYREELS, inputs={"window": 57, "overlap": 17, "frames": 97, "steps": 12}, cache=preset, model=TINY)
    assert found["lanes"] == whole["lanes"] and {lane[3] for lane in found["lanes"]} == {0, 1}
    assert found["steps"] == 12 and not found["example"]
    assert not found["exact"], "noise levels of a stock scheduler are not known"
    half = drawn(OBJECT, inputs={"window": 57}, length=58)
    assert half["latent_frames"] == 15 and half["example"]
    assert half["notes"] == ["sigmas could not be read from the graph"]


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
    ({"node": OBJECT, "inputs": {}, "length": -1}, "length is '-1'; it must be a whole number from 1"),
    ({"node": OBJECT, "inputs": {}, "steps": 10**12}, "steps is '1000000000000'"),
    ({"node": OBJECT, "inputs": {}, "length": 100000, "steps": 1000}, "frames and steps make"),
    ({"node": ["KSampler"]}, "node is .*KSampler.*it must be one of"),
    ({"node": {}}, "node is '{}'"),
    ({"node": SKYREELS, "inputs": {"frames": 10**4000}}, "frames is 1000"),
    ({"node": SKYREELS, "inputs": {"shift": 10**4000}}, "shift is 1000"),
    ({"node": SKYREELS, "inputs": {"steps": "x" * 900}}, "xxx…; it must be a whole number"),
    (
        {
            "node": SKYREELS,
            "inputs": {"frames": 11997, "chunk_size": 1, "steps": 2, "window": 1001, "overlap": 997},
        },
        "frames, window and overlap make 2750 windows",
    ),
]


@pytest.mark.parametrize(("request_", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_cannot_be_drawn_says_why(mc: Any, request_: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        mc.module("nodes.planning").drawn_plan(request_)


@pytest.mark.parametrize(("frames", "window", "overlap"), [(1137, 1001, 997), (1601, 41, 17), (2397, 2397, 17)])
def test_the_longest_plans_that_are_drawn_take_seconds(
    drawn: Any, frames: int, window: int, overlap: int, record_property: Any
) -> None:
    inputs = {"frames": frames, "chunk_size": 1, "steps": 10, "ar_step": 10, "window": window, "overlap": overlap}
    begun = time.process_time()
    assert len(drawn(SKYREELS, inputs=inputs)["lanes"]) == (frames - 1) // 4 + 1
    seconds = time.process_time() - begun
    record_property("ms of a large plan", round(1000 * seconds))
    assert seconds < 8


ODD = [None, True, -1, 3, 10**4000, 1e308, float("nan"), "x" * 9000, [[1]], {}]
"""What JSON may hold in place of a knob's value."""
OTHERS = ("model", "connected", "length", "chunks", "unknown", "several")


@pytest.mark.parametrize("kind", KINDS)
def test_odd_values_are_refused_with_a_sentence_or_drawn(mc: Any, drawn: Any, kind: str) -> None:
    cache = mc.module("nodes.cache").MotionCacheApply
    sampler = next(node for node in node_classes(mc) if node.define_schema().node_id == kind)
    small = {"frames": 25, "steps": 8, "window": 29 if kind in (SKYREELS, OBJECT) else 4}
    requests = [{"inputs": small | {widget.id: odd}} for widget in sampler.define_schema().inputs for odd in ODD]
    requests += [
        {"inputs": small, "cache": {"preset": "custom", widget.id: odd}}
        for widget in cache.define_schema().inputs
        for odd in ODD
    ]
    requests += [{"inputs": small, name: odd} for name in OTHERS for odd in ODD]
    requests += [{"inputs": small, "cache": {"preset": "custom", "threshold": odd}} for odd in ODD]
    told = set()
    for request in requests:
        try:
            drawn(kind, **request)
        except ValueError as error:
            told.add(str(error))
    assert len(told) > 20 and max(map(len, told)) < 700


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_cache_settings_are_not_taken_for_none(drawn: Any, kind: str) -> None:
    found = drawn(kind, inputs={}, cache="unknown")
    assert found["cache"] == "unknown" and not found["exact"] and found["first_reuse"] is None
    assert found["notes"][0] == "the cache settings could not be read from the graph"
    assert found["lanes"] == drawn(kind, inputs={})["lanes"] and drawn(kind, inputs={})["cache"] == "none"
    with pytest.raises(ValueError, match="cache must be a table"):
        drawn(kind, inputs={}, cache="none")


@pytest.mark.parametrize("kind", [SKYREELS, MAGI1])
def test_values_that_the_page_cannot_read_are_not_taken_for_known(drawn: Any, kind: str) -> None:
    known = drawn(kind, inputs={}, unknown=["seed", "width"])
    assert known == drawn(kind, inputs={}) and known["exact"]
    found = drawn(kind, inputs={}, unknown=["steps", "frames", "seed"])
    assert found["notes"][0] == "not known before the run, drawn with defaults: frames, steps"
    assert not found["exact"] and found["cells"] == known["cells"]


@pytest.mark.parametrize("kind", ["MotionCacheBeginVideo", "MotionCacheBeginMagi1Video"])
def test_a_takes_plan_has_the_last_parts_settings(drawn: Any, kind: str) -> None:
    cache = {"preset": "custom", "chunk_threshold": 0.1, "token_threshold": 0.2}
    own = drawn(kind, inputs={}, cache=cache | {"threshold": 0.7}, chunks=3, several=True)
    assert own["thresholds"] == {"chunk": 0.7, "token": 0.7} and not own["exact"]
    assert own["notes"][0].startswith("the parts of this video have cache settings of their own")
    same = drawn(kind, inputs={}, cache=cache, chunks=3)
    assert same["thresholds"] == {"chunk": 0.1, "token": 0.2} and same["cells"] == own["cells"]
    assert "how many chunks there are" in drawn(kind, inputs={}, cache=cache)["notes"][0]


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


def test_a_take_is_drawn_up_to_its_node(mc: Any, drawn: Any) -> None:
    inputs = {"steps": 12, "ar_step": 4, "chunk_size": 2, "window": 29}
    found = drawn("MotionCacheBeginVideo", inputs=inputs, chunks=3, connected=["start_image"])
    assert found["lanes"] == [[1, 3, 0, 0], [3, 5, 4, 0], [5, 7, 8, 0]]
    assert found["calls"]["context"] == 1
    longer = drawn("MotionCacheBeginVideo", inputs=inputs, chunks=20, connected=["start_video"])
    assert (
        len(longer["lanes"]) == 20 and longer["lanes"][0][:2] == [5, 7] and {lane[3] for lane in longer["lanes"]} == {0}
    )
    magi1 = drawn("MotionCacheBeginMagi1Video", inputs={"steps": 8}, chunks=3)
    assert [lane[:2] for lane in magi1["lanes"]] == [[0, 6], [6, 12], [12, 18]]
    assert len(drawn(SKYREELS, inputs={"frames": 257, "history": "sliding window"})["lanes"]) == 13
    with pytest.raises(ValueError, match="the graph does not tell how the video was begun"):
        drawn("MotionCacheLoadTake", inputs={}, chunks=2)
    with pytest.raises(ValueError, match="chunks is '0'; it must be a whole number from 1"):
        drawn("MotionCacheBeginVideo", inputs=inputs, chunks=0)
