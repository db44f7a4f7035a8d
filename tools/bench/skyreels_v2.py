"""How fast SkyReels-V2 samples: vanilla, chunk by chunk, and with MotionCache at fixed computed fractions.

Random weights at the layer shapes of the 1.3B model (fewer layers), through ComfyUI's guider in this process, guidance
on. Every variant runs once a round, the order turned round each time; times are medians, speed-ups medians of the
ratios within a round. MotionCache replays a fixed pattern of full, partial and reused steps while the live policy
does all its arithmetic, so that random weights do not decide; what deciding costs is measured with the live policy.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tools.bench.harness import machine, pack, table
from tools.host.environment import REPO

FULL_LAYERS = 30
SIZES_1_3B = {"dim": 1536, "ffn_dim": 8960, "num_heads": 12}
QUICK_SIZES = {"dim": 128, "ffn_dim": 256, "num_heads": 1}
DEFAULTS = {"pairs": (5, 1), "layers": (2, 1), "steps": (6, 5), "latent": ("8x12", "4x8"), "text_tokens": (512, 16)}
"""Option -> (usual value, value of --quick)."""
LIVE_REPEATS = 2
DISTANCES = ("time embedding", "patch embedding")

SPEED_UP_TARGET = 0.85
"""Least speed-up over chunk-wise sampling, as a share of the FLOPs ratio."""
DECIDING_TARGET = 0.03
"""Largest share of a MotionCache run that deciding may take."""


def main(given: list[str] | None = None) -> int:
    """Measure, print the tables, write the JSON; the exit status."""
    options = parse(given)
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


def parse(given: list[str] | None) -> argparse.Namespace:
    """The options, those of --quick filled in."""
    parser = argparse.ArgumentParser(prog="dev.py bench skyreels_v2", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes and one pair: shows only that it runs")
    parser.add_argument("--pairs", type=int, help="rounds in which every variant runs once (5)")
    parser.add_argument("--layers", type=int, help=f"transformer blocks, of {FULL_LAYERS} (2)")
    parser.add_argument("--steps", type=int, help="denoising steps of every chunk (6)")
    parser.add_argument("--chunks", type=int, default=3, help="chunks of 5 latent frames (%(default)s)")
    parser.add_argument(
        "--ar-step", type=int, default=1, help="steps a chunk stays behind the one before (%(default)s)"
    )
    parser.add_argument("--latent", help="height x width of a latent frame, even numbers (8x12)")
    parser.add_argument("--text-tokens", type=int, help="tokens of a prompt (512)")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.7, 0.5, 0.3], help="computed fractions")
    parser.add_argument("--threads", type=int, help="PyTorch's threads (all cores)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32", help="precision of the weights")
    parser.add_argument("--out", type=Path, default=REPO / "build/bench/skyreels_v2.json", help="JSON with all numbers")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a target is missed")
    options = parser.parse_args(given)
    for name, (usual, quick) in DEFAULTS.items():
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else usual)
    for name in ("pairs", "layers", "steps", "chunks", "text_tokens"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name)}; it must be at least 1 (nearest: 1)")
    try:
        options.latent = latent_size(options.latent)
    except ValueError as error:
        parser.error(str(error))
    return options


def latent_size(written: str) -> tuple[int, int]:
    """(height, width) of ``HEIGHTxWIDTH``. Raises ValueError unless both are even and at least 2."""
    height, _, width = written.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise ValueError(f"--latent is {written!r}; write HEIGHTxWIDTH, e.g. 12x16")
    size = int(height), int(width)
    if any(side < 2 or side % 2 for side in size):
        nearest = "x".join(str(max(side // 2 * 2, 2)) for side in size)
        raise ValueError(f"--latent is {written}; both must be even numbers of at least 2 (nearest: {nearest})")
    return size


def measure(options: argparse.Namespace, facts: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Everything that is printed and written, anew after each round."""
    import comfy.cli_args

    comfy.cli_args.args.cpu = options.device == "cpu"  # before anything of ComfyUI looks for a GPU
    comfy.cli_args.args.use_pytorch_cross_attention = True  # what it picks by itself on NVIDIA cards
    pack.load()
    # Only now: these modules import the pack, and with it ComfyUI.
    from tools.bench.harness import skyreels_bench, skyreels_runs

    started = time.perf_counter()
    sizes = QUICK_SIZES if options.quick else SIZES_1_3B
    architecture = skyreels_runs.ArchitectureConfig(**sizes, num_layers=options.layers, has_fps=True)
    scene = skyreels_runs.Scene(options.chunks, 5, *options.latent, options.steps, options.ar_step, options.text_tokens)
    model = skyreels_runs.random_model(architecture, options.dtype)
    prompts = skyreels_runs.random_prompts(scene, architecture.text_dim)
    meter = machine.OthersMeter()
    say("warming up: every distance once, then every variant in alternating order")
    repeats = min(options.pairs, LIVE_REPEATS)
    live = [skyreels_bench.deciding(model, prompts, scene, name, repeats, meter, say) for name in DISTANCES]
    setup = {
        **vars(architecture),
        "layers_of_the_full_model": FULL_LAYERS,
        "weights": f"random, {options.dtype}",
        "scene": vars(scene),
        "guidance": skyreels_runs.GUIDANCE,
        "peak_memory_is": machine.PeakMemory.what(model.load_device),
    }
    for rows in skyreels_bench.compare(model, prompts, scene, options.fractions, options.pairs, meter, say):
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


def text(result: dict[str, Any]) -> str:
    """The result for a person, as Markdown."""
    setup, facts, scene = result["setup"], result["machine"], result["setup"]["scene"]
    height, width = scene["height"], scene["width"]
    tokens = height * width // 4 * scene["chunk_frames"]
    lines = [
        f"{setup['num_layers']} of {FULL_LAYERS} layers, width {setup['dim']}, {setup['weights']} weights; "
        f"{scene['chunks']} chunks of {scene['chunk_frames']} latent frames of {height}x{width} ({tokens} tokens a "
        f"chunk), {scene['steps']} steps, ar_step {scene['ar_step']}, guidance {setup['guidance']:g}, "
        f"{scene['text_tokens']} prompt tokens; {result['rounds']} alternating rounds, medians.",
        f"{facts['processor']}, {facts['cores']} cores, {facts['threads']} threads, device {facts['device']}, "
        f"PyTorch {facts['torch']}, load average {facts['load_average']} before, others used "
        f"{result['other_processes_cores']} cores meanwhile. Peak memory: {setup['peak_memory_is']}.",
        "",
        table.comparison(result["rows"]),
        "",
        table.deciding(result["deciding"]),
        "",
    ]
    for target in result["targets"]:
        lines.append(f"{'held' if target['held'] else 'MISSED'}: {target['target']} ({target['value']})")
    lines += [f"warning: {sentence}" for sentence in result["warnings"]]
    return "\n".join(lines)


def say(line: str) -> None:
    """Progress, beside the result on standard output."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
