"""What the commands `dev.py bench FAMILY` share: options, the run from start to file, the targets, the heading."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tools.host.environment import REPO

from . import machine, pack, table

SPEED_UP_TARGET = 0.85
"""Least speed-up over chunk-wise sampling, as a share of the FLOPs ratio."""
DECIDING_TARGET = 0.03
"""Largest share of a MotionCache run that deciding may take."""

Measure = Callable[[argparse.Namespace, dict[str, Any]], Iterator[dict[str, Any]]]
"""(options, facts of the machine) -> everything that is printed and written, anew after each round."""


def parser_of(name: str, description: str) -> argparse.ArgumentParser:
    """A parser with the options of all that compare variants."""
    parser = plain_parser(name, description)
    parser.add_argument("--pairs", type=int, help="rounds in which every variant runs once")
    parser.add_argument("--layers", type=int, help="transformer blocks")
    parser.add_argument("--steps", type=int, help="denoising steps of every chunk")
    parser.add_argument("--chunks", type=int, help="chunks of the video")
    parser.add_argument("--latent", help="height x width of a latent frame, even numbers")
    parser.add_argument("--text-tokens", type=int, help="tokens of a prompt")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.7, 0.5, 0.3], help="computed fractions")
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32", help="precision of the weights")
    return parser


def plain_parser(name: str, description: str) -> argparse.ArgumentParser:
    """A parser with the options that all have."""
    parser = argparse.ArgumentParser(prog=f"dev.py bench {name}", description=description)
    parser.add_argument("--quick", action="store_true", help="tiny sizes and few runs: shows only that it runs")
    parser.add_argument("--threads", type=int, help="PyTorch's threads (all cores)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=REPO / f"build/bench/{name}.json", help="JSON with all numbers")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a target is missed")
    return parser


def parsed(
    parser: argparse.ArgumentParser,
    given: list[str] | None,
    defaults: Mapping[str, tuple[Any, Any]],
    whole: Sequence[str],
) -> argparse.Namespace:
    """The options, filled in and checked.

    Args:
        defaults: option -> (usual value, value of --quick); those called ``latent`` are sizes.
        whole: options that must be at least 1.
    """
    options = parser.parse_args(given)
    for name, (usual, quick) in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else usual)
    for name in whole:
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name)}; it must be at least 1 (nearest: 1)")
    for name in [name for name in defaults if name.endswith("latent")]:
        try:
            setattr(options, name, latent_size(getattr(options, name)))
        except ValueError as error:
            parser.error(f"--{name.replace('_', '-')}: {error}")
    return options


def latent_size(written: str) -> tuple[int, int]:
    """(height, width) of ``HEIGHTxWIDTH``. Raises ValueError unless both are even and at least 2."""
    height, _, width = written.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise ValueError(f"{written!r} is no size; write HEIGHTxWIDTH, e.g. 12x16")
    size = int(height), int(width)
    if any(side < 2 or side % 2 for side in size):
        nearest = "x".join(str(max(side // 2 * 2, 2)) for side in size)
        raise ValueError(f"{written} has odd or zero sides; write even ones (nearest: {nearest})")
    return size


def run(options: argparse.Namespace, measure: Measure, text: Callable[[dict[str, Any]], str]) -> int:
    """Measure, print the tables, write the JSON; the exit status."""
    if options.threads:
        torch.set_num_threads(options.threads)
    facts = machine.facts(torch.device(options.device))
    for sentence in machine.warnings(facts["load_average"], None, facts["cores"]):
        say(f"warning: {sentence}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for result in measure(options, facts):  # one more round each time, so that a run cut short leaves something
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(text(result))
    print(options.out.resolve())
    return 1 if options.check and not all(target["held"] for target in result["targets"]) else 0


def prepare(device: str) -> None:
    """ComfyUI for this device, and the pack; before anything else of either is imported."""
    import comfy.cli_args

    comfy.cli_args.args.cpu = device == "cpu"  # before anything of ComfyUI looks for a GPU
    comfy.cli_args.args.use_pytorch_cross_attention = True  # what it picks by itself on NVIDIA cards
    pack.load()


def results(
    rounds: Iterable[list[dict[str, Any]]],
    live: list[dict[str, Any]],
    facts: dict[str, Any],
    setup: dict[str, Any],
    meter: machine.OthersMeter,
    started: float,
) -> Iterator[dict[str, Any]]:
    """The JSON after each round.

    Args:
        rounds: rows of ``compare``.
        live: what deciding took, one entry a distance.
        started: time at which all began.
    """
    for rows in rounds:
        others = meter.cores
        yield {
            "format": "motioncache_bench",
            "version": 1,
            "machine": facts,
            "setup": setup,
            "rounds": len(rows[0]["seconds_by_round"]),
            "rows": rows,
            "deciding": live,
            "targets": targets(rows, live),
            "other_processes_cores": others if others is None else round(others, 2),
            "warnings": machine.warnings(facts["load_average"], others, facts["cores"]),
            "seconds_in_all": round(time.perf_counter() - started, 1),
        }


def targets(rows: list[dict[str, Any]], live: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What must hold, the number, and whether it does."""
    least = min(row["speed_up_of_flops_ratio"] for row in rows if row["reuses"])
    most = max(row["share"]["median"] for row in live)
    return [
        {
            "target": f"speed-up over chunk-wise at least {SPEED_UP_TARGET} of the FLOPs ratio",
            "value": round(least, 3),
            "held": least >= SPEED_UP_TARGET,
        },
        {
            "target": f"deciding takes under {DECIDING_TARGET:.0%} of the run",
            "value": round(most, 4),
            "held": most < DECIDING_TARGET,
        },
    ]


def page(result: dict[str, Any], scene: str, *tables: str) -> str:
    """The result for a person, as Markdown.

    Args:
        scene: what was sampled, in words.
        tables: to follow those of the variants and of deciding.
    """
    setup, facts = result["setup"], result["machine"]
    lines = [
        f"{setup['num_layers']} of {setup['layers_of_the_full_model']} layers, width {setup['dim']}, "
        f"{setup['weights']} weights; {scene}; {result['rounds']} alternating rounds, medians.",
        f"{facts['processor']}, {facts['cores']} cores, {facts['threads']} threads, device {facts['device']}, "
        f"PyTorch {facts['torch']}, load average {facts['load_average']} before, others used "
        f"{result['other_processes_cores']} cores meanwhile. Peak memory: {setup['peak_memory_is']}.",
    ]
    for part in (table.comparison(result["rows"]), table.deciding(result["deciding"]), *tables):
        lines += ["", part]
    lines.append("")
    for target in result["targets"]:
        lines.append(f"{'held' if target['held'] else 'MISSED'}: {target['target']} ({target['value']})")
    lines += [f"warning: {sentence}" for sentence in result["warnings"]]
    return "\n".join(lines)


def say(line: str) -> None:
    """Progress, beside the result on standard output."""
    print(line, file=sys.stderr, flush=True)
