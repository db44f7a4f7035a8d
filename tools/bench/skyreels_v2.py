"""How fast SkyReels-V2 samples: vanilla, chunk by chunk, and with MotionCache at fixed computed fractions.

Random weights at the layer shapes of the 1.3B model (fewer layers), through ComfyUI's guider in this process, guidance
on. Every variant runs once a round, the order turned round each time; times are medians, speed-ups medians of the
ratios within a round. MotionCache replays a fixed pattern of full, partial and reused steps while the live policy
does all its arithmetic, so that random weights do not decide; what deciding costs is measured with the live policy.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from typing import Any

from tools.bench.harness import command, machine
from tools.bench.harness.command import say

FULL_LAYERS = 30
SIZES_1_3B = {"dim": 1536, "ffn_dim": 8960, "num_heads": 12}
QUICK_SIZES = {"dim": 128, "ffn_dim": 256, "num_heads": 1}
DEFAULTS = {
    "pairs": (5, 1),
    "layers": (2, 1),
    "steps": (6, 5),
    "chunks": (3, 3),
    "latent": ("8x12", "4x8"),
    "text_tokens": (512, 16),
}
"""Option -> (usual value, value of --quick)."""
LIVE_REPEATS = 2
DISTANCES = ("time embedding", "patch embedding")


def main(given: list[str] | None = None) -> int:
    """Measure, print the tables, write the JSON; the exit status."""
    return command.run(parse(given), measure, text)


def parse(given: list[str] | None) -> argparse.Namespace:
    """The options, those of --quick filled in."""
    parser = command.parser_of("skyreels_v2", __doc__)
    parser.add_argument(
        "--ar-step", type=int, default=1, help="steps a chunk stays behind the one before (%(default)s)"
    )
    return command.parsed(parser, given, DEFAULTS, ("pairs", "layers", "steps", "chunks", "text_tokens"))


def measure(options: argparse.Namespace, facts: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Everything that is printed and written, anew after each round."""
    command.prepare(options.device)
    # Only now: these modules import the pack, and with it ComfyUI.
    from tools.bench.harness import compare, skyreels_bench, skyreels_runs

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
    named = skyreels_bench.variants(model, prompts, scene, options.fractions)
    rounds = compare.compare(named, options.pairs, meter, say)
    yield from command.results(rounds, live, facts, setup, meter, started)


def text(result: dict[str, Any]) -> str:
    """The result for a person, as Markdown."""
    scene = result["setup"]["scene"]
    height, width = scene["height"], scene["width"]
    tokens = height * width // 4 * scene["chunk_frames"]
    return command.page(
        result,
        f"{scene['chunks']} chunks of {scene['chunk_frames']} latent frames of {height}x{width} ({tokens} tokens a "
        f"chunk), {scene['steps']} steps, ar_step {scene['ar_step']}, guidance {result['setup']['guidance']:g}, "
        f"{scene['text_tokens']} prompt tokens",
    )


if __name__ == "__main__":
    sys.exit(main())
