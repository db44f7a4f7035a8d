"""Pictures for the page of the MotionCache node.

``tools.bench.harness.pack.load`` comes before this module.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .panels import FRAME, compared, frame, measured, motion, planned, recomputed, timeline
from .runs import BALANCED, Made, Runs, knobs
from .sheet import Sheet

QUALITY = BALANCED.replace("balanced", "quality")
FAST = BALANCED.replace("balanced", "fast")
VANILLA = "vanilla block-causal"
MOTION_STEPS = (13, 16, 19)


def phases(runs: Runs) -> np.ndarray:
    """The three phases in a real run."""
    made = runs(knobs())
    sheet = Sheet()
    sheet.line("One run: 3 chunks, time from left to right")
    sheet.timeline(timeline(made), lane=44)
    sheet.legend()
    return sheet.finish()


def presets(runs: Runs) -> np.ndarray:
    """From off to fast."""
    reference = runs()
    rows = [("off", reference)]
    rows += [(name.partition(" ")[0], runs(knobs(name))) for name in (QUALITY, BALANCED, FAST)]
    sheet = Sheet()
    compared(sheet, reference, rows)
    sheet.legend()
    return sheet.finish()


def knob(name: str, values: tuple[object, ...], second: str = "difference") -> Callable[[Runs], np.ndarray]:
    """Pictures of a knob at a few values, all others as in the balanced preset."""

    def picture(runs: Runs) -> np.ndarray:
        sheet = Sheet()
        compared(sheet, runs(), [(f"{name} {value}", _turned(runs, name, value)) for value in values], second)
        sheet.legend()
        return sheet.finish()

    return picture


def _turned(runs: Runs, name: str, value: object) -> Made:
    """The run with one knob turned; the preset itself where it has that value."""
    usual = knobs()
    return runs(usual if usual[name] == value else knobs(**{name: value}))


def granularity(runs: Runs) -> np.ndarray:
    """Steps, chunks, tokens, at the same threshold."""
    sheet = Sheet()
    vanilla, plain = runs(attention=VANILLA), runs()
    by_step = runs(knobs(granularity="step"), attention=VANILLA)
    compared(sheet, vanilla, [("step (vanilla sampling)", by_step)])
    compared(sheet, plain, [("chunk", runs(knobs(granularity="chunk"))), ("token", runs(knobs()))], named=False)
    sheet.legend()
    return sheet.finish()


def motion_source(runs: Runs) -> np.ndarray:
    """Motion weights at some steps, and what was recomputed with them."""
    sheet, reference = Sheet(), runs()
    names = (f"frame {FRAME}", *(f"step {step}" for step in MOTION_STEPS), "computed")
    for number, value in enumerate(("published", "clean prediction")):
        made = _turned(runs, "motion_source", value)
        sheet.line(f"motion_source {value}", measured(made, reference))
        maps = [motion(made, before=step) for step in MOTION_STEPS]
        pictures = (frame(made), *maps, recomputed(made))
        sheet.strip(pictures, 134, names if number == 0 else (), smooth=(True, *[False] * 4))
    return sheet.finish()


def together(runs: Runs) -> np.ndarray:
    """The vote and the limit of reuse."""
    sheet, reference = Sheet(), runs()
    rows = [
        ("vote 1 (off), max_reuse_ratio 1", runs(knobs())),
        ("vote 0.5", runs(knobs(vote=0.5))),
        ("max_reuse_ratio 0.5", runs(knobs(max_reuse_ratio=0.5))),
    ]
    compared(sheet, reference, rows, "recomputed")
    sheet.legend()
    return sheet.finish()


def distance(runs: Runs) -> np.ndarray:
    """The same threshold with two distances."""
    sheet, reference = Sheet(), runs()
    rows = [
        ("distance table", runs(knobs())),
        ("distance patch embedding", _turned(runs, "distance", "patch embedding")),
    ]
    compared(sheet, reference, rows)
    sheet.legend()
    return sheet.finish()


def magi1_presets(runs: Runs) -> np.ndarray:
    """What the scaled and the published settings leave to reuse, known before a run."""
    sheet = Sheet()
    sampler = {"frames": 72, "steps": 16, "guidance": "one pass (distilled)"}
    for name in ("MotionCache (scaled to the steps)", "MotionCache (published MAGI-1 settings, 64 steps)"):
        plan = planned("MotionCacheMagi1Sampler", {"preset": name}, **sampler)
        sheet.line(name)
        sheet.timeline(plan, lane=40)
    sheet.legend()
    return sheet.finish()


PICTURES: dict[str, Callable[[Runs], np.ndarray]] = {
    "phases": phases,
    "presets": presets,
    "warmup_steps": knob("warmup_steps", (0, 2, 8)),
    "chunk_threshold": knob("chunk_threshold", (0.05, 0.15, 0.4)),
    "token_threshold": knob("token_threshold", (0.05, 0.15, 0.4)),
    "motion_floor": knob("motion_floor", (1.0, 0.5, 0.0), "recomputed"),
    "min_update_ratio": knob("min_update_ratio", (0.0, 0.4, 0.8), "recomputed"),
    "chunk_phase_updates": knob("chunk_phase_updates", (0, 4, 10)),
    "granularity": granularity,
    "motion_source": motion_source,
    "motion_power": knob("motion_power", (0.5, 1.0, 3.0), "recomputed"),
    "vote_and_limit": together,
    "distance": distance,
    "magi1_presets": magi1_presets,
}
"""Name -> drawing."""
