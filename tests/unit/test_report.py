"""What a report adds up, from events made by hand on a real plan."""

from __future__ import annotations

import json

import pytest
import torch

from motioncache_core.config import CacheConfig
from motioncache_core.events import CallEvent, Decision, Pass
from motioncache_core.flops import TransformerSize, pass_flops, prompt_flops
from motioncache_core.kv_cache import KVCache
from motioncache_core.models.skyreels_v2.adapter import BranchRow, NetworkRun, SkyReelsV2Adapter
from motioncache_core.models.skyreels_v2.plan import SamplingSettings, build_plan
from motioncache_core.plan import Call, Plan
from motioncache_core.report import Report, work_sentence

SIZE = TransformerSize(width=2, ffn_width=3, layers=5, patch_values=4, text_tokens=7, text_width=11)
ROLES = [("positive", 0, 0), ("negative", 0, 0)]
PER_FRAME = 6


def two_chunks(**changes: object) -> Plan:
    """5 and 2 latent frames, 2 steps, one after the other."""
    return build_plan(SamplingSettings(**({"frames": 25, "steps": 2, "ar_step": 2} | changes)))


def event(call: Call, computed: dict | None = None, distance: float | None = None, phase: str = "chunk") -> CallEvent:
    """Both branches decide, half a second; ``computed``: role -> tokens, all unless named."""
    total = call.frames * PER_FRAME
    passes, decisions = [], []
    for role in ROLES:
        done = (computed or {}).get(role, total)
        passes.append(Pass(role, done, total, call.stop * PER_FRAME if done else 0.0))
        decisions.append(Decision(role, call.parts[0].chunk, call.parts[0].step, phase, total, done, distance=distance))
    return CallEvent(call, tuple(passes), tuple(decisions), 0.5, torch.empty(0))


def full(report: Report) -> Report:
    for call in report.plan.calls:
        report.add(event(call))
    return report


def test_totals_of_a_run_that_reuses():
    plan = two_chunks()
    report = Report(plan, CacheConfig(), SIZE)
    positive, negative = ROLES
    report.add(event(plan.calls[0], phase="warm-up"))
    report.add(event(plan.calls[1], {positive: 10, negative: 0}, distance=0.2, phase="token"))
    report.add(event(plan.calls[2], phase="warm-up"))
    report.add(event(plan.calls[3], {negative: 0}, distance=0.05))
    found = report.summary()
    assert found["token_forwards_without_reuse"] == 2 * (30 + 30 + 12 + 12)
    assert found["token_forwards"] == 60 + 10 + 24 + 12
    assert found["computed_fraction"] == 106 / 168
    assert found["branch_steps"] == {"full": 5, "partial": 1, "reused": 2}
    assert (found["smallest_distance"], found["largest_distance"]) == (0.05, 0.2)
    assert found["distance_of_a_chunk"] == pytest.approx((0.2 + 0.05) / 2)  # the median of two chunks' sums
    assert "For about n computed steps set the threshold to 0.125 divided by n." in report.text()
    assert found["model_calls"] == 4 and found["seconds"] == 2.0
    assert found["nothing_reused_because"] is None
    done = [(30, 30, 30)] * 2 + [(10, 30, 30), (0, 30, 0)] + [(12, 12, 42)] * 2 + [(12, 12, 42), (0, 12, 0)]
    assert found["flops"] == sum(pass_flops(SIZE, *counts) for counts in done) + 2 * prompt_flops(SIZE)
    whole = [(30, 30, 30)] * 4 + [(12, 12, 42)] * 4
    assert found["flops_without_reuse"] == sum(pass_flops(SIZE, *c) for c in whole) + 2 * prompt_flops(SIZE)
    lines = report.text().split("\n")
    first = "63 % of the work was computed, 37 % was reused (a share of the token passes, not a speed-up)."
    assert lines[0] == first, "what an artist wants to know"
    assert lines[1].startswith("4 model calls in 2.0 s, ")
    assert "Branch steps: 5 full, 1 partial, 2 reused." in lines
    assert all(line.endswith(".") and line[0] == line[0].upper() for line in lines), (
        "where breaks are lost it can be read"
    )


def test_context_and_refresh_are_counted_apart():
    plan = two_chunks(start_latents=1, clean_refresh=True)
    kinds = [call.kind for call in plan.calls]
    assert kinds == ["context", "denoise", "denoise", "refresh", "denoise", "denoise"]
    report = Report(plan, None, SIZE)
    for call in plan.calls:
        passes = tuple(Pass(role, call.frames * PER_FRAME, call.frames * PER_FRAME, 1.0) for role in ROLES)
        report.add(CallEvent(call, passes, (), 0.25, torch.empty(0)))
    found = report.summary()
    assert found["token_forwards_context_and_refresh"] == 2 * (6 + 30)
    assert found["token_forwards"] == found["token_forwards_without_reuse"] == 2 * 2 * (30 + 6)
    assert report.to_json()["seconds_by_chunk"] == {"context 0.0": 0.25, "0": 0.75, "1": 0.5}


@pytest.mark.parametrize("attention", ["chunk-wise", "vanilla full", "vanilla block-causal"])
def test_without_reuse_both_counts_of_operations_agree(wan, attend, attention: str):
    plan = two_chunks(attention=attention, start_latents=1)
    run = NetworkRun(KVCache(2, plan.stored_frames * 4, 32, torch.float32, torch.device("cpu")))
    report, adapter = Report(plan, None, SIZE), SkyReelsV2Adapter(wan, attend)
    for call in plan.calls:
        timesteps = [part.timestep for part in call.parts for _ in range(part.start, part.stop)]
        x, text = torch.zeros(1, 16, call.frames, 4, 4), torch.zeros(1, 3, 8)
        adapter.forward(x, text, call, [BranchRow(ROLES[0])], run, [timesteps], [[1] * call.frames])
        report.add(CallEvent(call, *run.take_notes(), 0.0, torch.empty(0)))
    found = report.summary()
    assert found["flops"] == found["flops_without_reuse"] > 0
    chunk_wise = attention == "chunk-wise"
    assert found["token_forwards"] == (2 * (5 + 1) * 4 if chunk_wise else 4 * 7 * 4), "4 tokens a frame"
    assert found["token_forwards_context_and_refresh"] == (4 if chunk_wise else 0)


REASONS = [
    ({"config": None}, None, "no MotionCache node is connected"),
    ({"config": CacheConfig(granularity="off")}, None, "the cache is off"),
    ({"config": CacheConfig(), "inactive": "set attention to 'chunk-wise'"}, None, "set attention to 'chunk-wise'"),
    ({"config": CacheConfig(warmup_steps=4)}, (None, "warm-up"), "warm-up covers every step (warmup_steps is 4"),
    ({"config": CacheConfig(chunk_threshold=0)}, (0.2, "chunk"), "chunk_threshold is 0; 0 or less computes everything"),
    ({"config": CacheConfig(token_threshold=-1)}, (0.2, "token"), "token_threshold is -1; 0 or less computes "),
    (
        {"config": CacheConfig(granularity="chunk", chunk_threshold=0, token_threshold=0.5)},
        (0.2, "chunk"),
        "chunk_threshold is 0; 0 or less computes everything",
    ),
    ({"config": CacheConfig()}, (0.2, "chunk"), "every step reached chunk_threshold 0.1 (smallest distance 0.2)"),
    ({"config": CacheConfig()}, (0.25, "token"), "every step reached token_threshold 0.1 (smallest distance 0.25)"),
    ({"config": CacheConfig(max_reuse_ratio=0)}, (0.01, "token"), "max_reuse_ratio is 0"),
]


@pytest.mark.parametrize(("given", "decided", "reason"), REASONS, ids=lambda value: str(value)[:40])
def test_a_run_without_reuse_says_why(given: dict, decided: tuple | None, reason: str):
    plan = two_chunks()
    report = Report(plan, size=SIZE, **given)
    for call in plan.calls:
        made = event(call, distance=decided[0], phase=decided[1]) if decided else event(call)
        report.add(made if decided else CallEvent(call, made.passes, (), 0.1, torch.empty(0)))
    assert report.summary()["computed_fraction"] == 1.0
    assert report.summary()["nothing_reused_because"].startswith(reason)
    assert f"Nothing was reused: {reason}" in report.text()
    assert report.text().startswith("100 % of the work was computed, 0 % was reused")


@pytest.mark.parametrize(
    ("config", "phases", "inactive", "told"),
    [
        (CacheConfig(), ("warm-up", "chunk"), None, True),
        (CacheConfig(), ("warm-up", "token"), None, False),
        (CacheConfig(granularity="chunk"), ("warm-up", "chunk"), None, False),
        (CacheConfig(), ("warm-up", "chunk"), "set attention to 'chunk-wise'", False),
        (CacheConfig(), ("warm-up",), None, False),
    ],
    ids=["reuse by chunks to the end", "tokens parted", "asked for", "not active", "stopped early"],
)
def test_a_run_that_never_went_token_by_token_says_so(config, phases: tuple[str, ...], inactive, told: bool):
    plan = two_chunks()
    report = Report(plan, config, SIZE, inactive)
    for call in plan.calls:
        step = call.parts[0].step
        if step < len(phases):
            phase = phases[step]
            report.add(event(call, {ROLES[0]: 0}, None if phase == "warm-up" else 0.01, phase))
    assert ("No chunk came to the token phase: warmup_steps is 4" in report.text()) is told


def test_the_approximation_is_said_where_there_is_one():
    sentence = "finished chunks keep the keys and values of their last noisy step (clean refresh is off)"
    said = {
        (attention, refresh): sentence
        in Report(two_chunks(attention=attention, clean_refresh=refresh), None, SIZE, notes=["a"]).to_json()["notes"]
        for attention in ("chunk-wise", "vanilla full")
        for refresh in (False, True)
    }
    assert said == {
        ("chunk-wise", False): True,
        ("chunk-wise", True): False,
        ("vanilla full", False): False,
        ("vanilla full", True): False,
    }


def test_the_whole_report_is_plain_json_and_lists_every_call():
    plan = two_chunks(start_latents=1)
    report = full(Report(plan, CacheConfig(distance_coefficients=(1.0, 2.0)), SIZE, notes=["note"]))
    data = json.loads(json.dumps(report.to_json()))
    assert data["format"] == "motioncache_report" and data["version"] == 1
    assert data["sampling"] == "chunk-wise" and data["steps"] == 2 and data["latent_frames"] == 7
    assert data["config"]["token_threshold"] == 0.1
    assert [call["chunks"] for call in data["calls"]] == [["context 0.0"], ["0"], ["0"], ["1"], ["1"]]
    assert [call["step"] for call in data["calls"]] == [-1, 0, 1, 0, 1]
    assert data["calls"][1]["branches"][0] == {
        "role": "positive/0/0",
        "phase": "chunk",
        "outcome": "full",
        "computed": 30,
        "total": 30,
        "distance": None,
        "waited": False,
    }
    assert "note" in data["notes"] and "\nNote." in report.text()


@pytest.mark.parametrize(
    ("computed", "said"),
    [(1.0, "100 % of the work was computed, 0 %"), (0.9996, "100.0 % of the work was computed, 0.0 %")]
    + [(0.996, "99.6 % of the work was computed, 0.4 %"), (0.004, "0.4 % of the work was computed, 99.6 %")]
    + [(0.474, "47 % of the work was computed, 53 %"), (0.0, "0 % of the work was computed, 100 %")],
)
def test_shares_add_up_to_the_whole(computed: float, said: str):
    assert work_sentence(computed).startswith(f"{said} was reused")


def test_an_empty_report_divides_by_nothing():
    found = Report(two_chunks(), CacheConfig(), SIZE).summary()
    assert found["computed_fraction"] == 1.0 and found["flops"] == 0
