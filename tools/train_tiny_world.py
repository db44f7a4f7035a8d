"""Train the tiny world's models again: the narrow video autoencoder, the transformer, the prompt files.

MOTIONCACHE_COMFYUI=... python tools/train_tiny_world.py                 everything, goes on where it stopped
MOTIONCACHE_COMFYUI=... python tools/train_tiny_world.py evaluate        samples the result and judges it
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path.append(str(REPO))  # last: ComfyUI has modules of the same names

from tools.tinyworld import parallel  # noqa: E402

log = logging.getLogger("tiny_world")
VAE_FILE = "vae/tiny_world_wan_vae.safetensors"
VAE_WHOLE = "vae_whole.safetensors"  # with Wan's statistics, its decoder not yet trained on whole clips
TRANSFORMER_FILE = "diffusion_models/tiny_world_skyreels_v2_df.safetensors"


def main() -> int:
    """Parse the command line and run; 1 if the models were evaluated and are not good enough."""
    args = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format=parallel.LOG_FORMAT, stream=sys.stdout)
    args.work.mkdir(parents=True, exist_ok=True)
    if args.what in ("all", "vae"):
        _train_vae(args)
    if args.what in ("all", "polish"):
        _polish(args)
    if args.what in ("all", "transformer"):
        _train_transformer(args)
    if args.what in ("all", "prompts"):
        _write_prompts(args)
    return 0 if args.what != "evaluate" or _evaluate(args) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", nargs="?", default="all", choices=("all", "vae", "polish", "transformer", "prompts", "evaluate")
    )
    parser.add_argument("--work", type=Path, default=REPO / "build" / "tiny_world", help="folder of checkpoints")
    parser.add_argument("--out", type=Path, default=REPO / "tiny_world", help="where the finished files go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes, one core each")
    parser.add_argument("--vae-steps", type=int, default=700)
    parser.add_argument("--polish-steps", type=int, default=500, help="steps of the decoder alone")
    parser.add_argument("--steps", type=int, default=2600, help="steps of the transformer")
    parser.add_argument("--short", type=float, default=0.4, help="share of its steps with three chunks instead of five")
    parser.add_argument("--begin-with", type=Path, help="a finished transformer whose training goes on")
    parser.add_argument("--batch", type=int, default=3, help="clips a step of the transformer, of every worker")
    parser.add_argument("--clips", type=int, default=4, help="training clips of a scene with one sprite")
    parser.add_argument("--prompts", type=int, default=20, help="evaluate: how many prompts")
    parser.add_argument("--seeds", type=int, default=2, help="evaluate: seeds for each prompt")
    parser.add_argument("--sampling-steps", type=int, default=20)
    parser.add_argument("--shift", type=float, default=5.0)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--ar-step", type=int, default=5, help="as the demo has it")
    parser.add_argument(
        "--which", choices=("trained", "held-out", "both"), default="held-out", help="evaluate: which prompts"
    )
    parser.add_argument("--sheet", type=Path, help="evaluate: the contact sheet, else WORK/contact_sheet.png")
    return parser


def _train_vae(args: argparse.Namespace) -> None:
    from tools.tinyworld import vae
    from tools.tinyworld.host import import_comfyui

    raw, whole = args.work / "vae_raw.safetensors", args.work / VAE_WHOLE
    if not raw.exists():
        parallel.run(args.workers, vae.train, args.work, args.vae_steps, args.seed)
    import_comfyui()
    if not whole.exists():
        vae.finish(raw, whole, args.seed)


def _polish(args: argparse.Namespace) -> None:
    from tools.tinyworld import vae

    whole, out = args.work / VAE_WHOLE, args.out / VAE_FILE
    parallel.run(args.workers, vae.polish, args.work, whole, out, args.polish_steps, args.seed)


def _train_transformer(args: argparse.Namespace) -> None:
    from tools.tinyworld import forcing, training

    recipe = training.Recipe(steps=args.steps, batch=args.batch, short=args.short)
    parallel.run(
        args.workers,
        forcing.train,
        recipe,
        args.work,
        args.seed,
        args.out / TRANSFORMER_FILE,
        args.out / VAE_FILE,
        args.clips,
        args.begin_with,
    )


def _write_prompts(args: argparse.Namespace) -> None:
    from tools.tinyworld import prompts

    prompts.write_all(args.out / "prompts")


def _evaluate(args: argparse.Namespace) -> bool:
    from tools.tinyworld import evaluate

    totals = evaluate.run(
        args.out / VAE_FILE, args.out / TRANSFORMER_FILE, args.sheet or args.work / "contact_sheet.png",
        prompts=args.prompts, seeds=args.seeds, which=args.which, workers=args.workers, work=args.work,
        settings=dict(steps=args.sampling_steps, shift=args.shift, guidance=args.guidance, ar_step=args.ar_step),
    )  # fmt: skip
    return evaluate.holds(totals)


if __name__ == "__main__":
    sys.exit(main())
