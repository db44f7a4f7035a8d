"""How fast MAGI-1 samples: the original's scheme, chunk by chunk, with FlowCache's rule, and with MotionCache.

Random weights at the layer shapes of the 4.5B model (fewer layers), through ComfyUI's guider in this process, as a
distilled model (one pass a step, and the second one for the cleanest chunk). Every variant runs once a round, the order
turned round each time; times are medians, speed-ups medians of the ratios within a round. FlowCache and MotionCache
replay a fixed pattern of full, partial and reused steps while the live policy does all its arithmetic, so that random
weights do not decide; what deciding costs is measured with the live policy. Then, as a base model (three passes), what
each saving brings that leaves the video as it is.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from typing import Any

from tools.bench.harness import command, machine, table
from tools.bench.harness.command import say

FULL_LAYERS = 34
SIZES_4_5B = {"dim": 3072, "ffn_dim": 12288, "num_heads": 24, "num_groups": 8}
QUICK_SIZES = {"dim": 128, "ffn_dim": 256, "num_heads": 2, "num_groups": 1, "head_dim": 64, "text_dim": 64}
DEFAULTS = {
    "pairs": (3, 1),
    "layers": (2, 1),
    "steps": (8, 8),
    "chunks": (3, 2),
    "latent": ("8x12", "4x8"),
    "text_tokens": (32, 8),
    "saving_pairs": (2, 1),
    "saving_steps": (8, 8),
    "saving_chunks": (5, 6),
    "saving_latent": ("4x4", "2x4"),
}
"""Option -> (usual value, value of --quick)."""
LIVE_REPEATS = 2
GUIDANCES = {"one": "as a distilled model", "three": "as a base model (three passes)"}
ATTENTIONS = ("chunk-wise", "vanilla (window together)")


def main(given: list[str] | None = None) -> int:
    """Measure, print the tables, write the JSON; the exit status."""
    return command.run(parse(given), measure, text)


def parse(given: list[str] | None) -> argparse.Namespace:
    """The options, those of --quick filled in."""
    parser = command.parser_of("magi1", __doc__)
    parser.add_argument("--guidance", choices=list(GUIDANCES), default="one", help="passes a step (%(default)s)")
    parser.add_argument(
        "--chunk-fraction", type=float, default=0.5, help="computed fraction of FlowCache (%(default)s)"
    )
    parser.add_argument("--saving-pairs", type=int, help="rounds of the savings")
    parser.add_argument("--saving-steps", type=int, help="denoising steps of every chunk there")
    parser.add_argument("--saving-chunks", type=int, help="chunks there")
    parser.add_argument("--saving-latent", help="height x width of a latent frame there")
    whole = ("pairs", "layers", "steps", "chunks", "text_tokens", "saving_pairs", "saving_steps", "saving_chunks")
    options = command.parsed(parser, given, DEFAULTS, whole)
    for name in ("steps", "saving_steps"):
        steps = getattr(options, name)
        if steps % 4:
            nearest = max(1, round(steps / 4)) * 4
            parser.error(f"--{name.replace('_', '-')} is {steps}; it must be a multiple of 4 (nearest: {nearest})")
    return options


def measure(options: argparse.Namespace, facts: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Everything that is printed and written, anew after each round."""
    command.prepare(options.device)
    # Only now: these modules import the pack, and with it ComfyUI.
    from tools.bench.harness import magi1_bench, magi1_runs

    started = time.perf_counter()
    sizes = QUICK_SIZES if options.quick else SIZES_4_5B
    architecture = magi1_runs.ArchitectureConfig(**sizes, num_layers=options.layers)
    scene = magi1_runs.Scene(options.chunks, *options.latent, options.steps, text_tokens=options.text_tokens)
    model = magi1_runs.random_model(architecture, options.dtype)
    prompt = magi1_runs.random_prompt(scene, architecture.text_dim)
    meter = machine.OthersMeter()
    distilled = options.guidance == "one"
    say("warming up: deciding first, then the savings, then every variant in alternating order")
    repeats = min(options.pairs, LIVE_REPEATS)
    live = [magi1_bench.deciding(model, prompt, scene, distilled, repeats, meter, say)]
    long = magi1_runs.Scene(
        options.saving_chunks, *options.saving_latent, options.saving_steps, text_tokens=options.text_tokens
    )
    saved = [
        row
        for attention in ATTENTIONS
        for row in magi1_bench.savings(model, prompt, long, attention, options.saving_pairs, meter, say)
    ]
    setup = {
        **vars(architecture),
        "layers_of_the_full_model": FULL_LAYERS,
        "weights": f"random, {options.dtype}",
        "scene": vars(scene) | {"tokens": scene.tokens},
        "scene_of_savings": vars(long),
        "guidance": options.guidance,
        "peak_memory_is": machine.PeakMemory.what(model.load_device),
    }
    more = {"savings": saved, "moved": magi1_bench.moved(model, long)}
    rounds = magi1_bench.rounds(model, prompt, scene, options, meter, say)
    for result in command.results(rounds, live, facts, setup, meter, started):
        yield result | more


def text(result: dict[str, Any]) -> str:
    """The result for a person, as Markdown."""
    setup = result["setup"]
    scene, long = setup["scene"], setup["scene_of_savings"]
    described = (
        f"{scene['chunks']} chunks of 6 latent frames of {scene['height']}x{scene['width']} ({scene['tokens']} tokens "
        f"a chunk), {scene['steps']} steps, window {scene['window']}, {GUIDANCES[setup['guidance']]}, "
        f"{scene['text_tokens']} prompt tokens"
    )
    moved = result["moved"]
    savings = (
        f"Savings that leave the video as it is ({long['chunks']} chunks, {long['steps']} steps, as a base model, "
        f"{long['height']}x{long['width']} latents, clean refresh):\n\n{table.savings(result['savings'])}\n\n"
        f"Keys and values of earlier chunks that a run moves where they lie in main memory, window together: "
        f"{moved['everything'] / table.MIB:.2f} MiB if all are moved in every pass, {moved['ranges'] / table.MIB:.2f} "
        "MiB if only the ranges are that are read (counted)."
    )
    return command.page(result, described, savings)


if __name__ == "__main__":
    sys.exit(main())
