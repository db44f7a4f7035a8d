"""Train a tiny MAGI-1 on the tiny world, on the CPU. The world's autoencoder must be there (`train tiny_world`).

python dev.py train tiny_magi1              everything, goes on where it stopped
python dev.py train tiny_magi1 evaluate     samples the result through the pack's nodes and judges it
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path.append(str(REPO))  # last: ComfyUI has modules of the same names

from tools.tinyworld import parallel  # noqa: E402

FILE = "diffusion_models/tiny_world_magi1_distill.safetensors"
VAE_FILE = "vae/tiny_world_wan_vae.safetensors"


def main() -> None:
    """Parse the command line and run."""
    args = parser().parse_args()
    logging.basicConfig(level=logging.INFO, format=parallel.LOG_FORMAT, stream=sys.stdout)
    from tools.tinyworld import magi1, training

    args.work.mkdir(parents=True, exist_ok=True)
    if args.what in ("all", "transformer"):
        recipe = training.Recipe(steps=args.steps, batch=args.batch, rate=args.rate)
        paths = (args.work, args.seed, args.out / FILE, args.vae)
        parallel.run(args.workers, magi1.train, recipe, *paths, args.clips)
    if args.what in ("all", "prompts"):
        magi1.write_prompts(args.out / "prompts")
    if args.what == "evaluate":
        from tools.tinyworld import magi1_evaluate

        sheet = args.sheet or args.work / "magi1_sheet.png"
        counts = {"prompts": args.prompts, "seeds": args.seeds, "steps": args.sampling_steps}
        magi1_evaluate.run(args.out / FILE, args.vae, sheet, which=args.which, **counts)


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("what", nargs="?", default="all", choices=("all", "transformer", "prompts", "evaluate"))
    made.add_argument("--work", type=Path, default=REPO / "build" / "tiny_world", help="clips and checkpoints")
    made.add_argument("--out", type=Path, default=REPO / "build" / "tiny_magi1", help="where the finished files go")
    made.add_argument("--vae", type=Path, default=REPO / "tiny_world" / VAE_FILE, help="the world's autoencoder")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--workers", type=int, default=2, help="processes, one core each")
    made.add_argument("--steps", type=int, default=4000, help="optimiser steps")
    made.add_argument("--batch", type=int, default=3, help="clips a step, of every worker")
    made.add_argument("--rate", type=float, default=5e-3, help="learning rate of the matrices inside the blocks")
    made.add_argument("--clips", type=int, default=8, help="training clips of every scene")
    made.add_argument("--prompts", type=int, default=8, help="evaluate: how many prompts")
    made.add_argument("--seeds", type=int, default=1, help="evaluate: seeds for each prompt")
    made.add_argument("--sampling-steps", type=int, default=16, help="evaluate: a multiple of 4")
    made.add_argument(
        "--which", choices=("trained", "held-out", "both"), default="both", help="evaluate: which prompts"
    )
    made.add_argument("--sheet", type=Path, help="evaluate: the contact sheet, else WORK/magi1_sheet.png")
    return made


if __name__ == "__main__":
    main()
