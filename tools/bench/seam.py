"""How well two windows join: the tiny world's clips, going on from latents or from re-encoded history.

A video of two windows is decoded once, joined, as the sampler's LATENT is; and window by window, as the original does,
each decode cut behind its history. Told for each: the jump over the seam (mean absolute change between the last frame
before and the first after it) against the usual jump between neighbouring frames, and how far the first frames after
the seam are from the other way of decoding.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from tools.bench.harness import pack, table
from tools.host.environment import REPO

SAMPLING: dict[str, Any] = {
    "width": 96,
    "height": 96,
    "frames": 97,
    "fps": 24.0,
    "steps": 20,
    "guidance": 2.0,
    "shift": 5.0,
    "chunk_size": 5,
    "ar_step": 5,
    "window": 57,
    "overlap": 17,
    "attention": "chunk-wise",
    "history_noise": 20,
    "clean_refresh": True,
    "solver": "unipc",
    "kv_precision": "model",
    "kv_place": "GPU",
}
HISTORIES = ("latents", "re-encode with VAE")
AFTER = 4
"""Frames after the seam that are compared."""


def main() -> int:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="dev.py bench seam", description=__doc__)
    parser.add_argument("--prompts", type=int, default=3, help="prompts of the tiny world (%(default)s)")
    parser.add_argument("--steps", type=int, default=SAMPLING["steps"], help="denoising steps (%(default)s)")
    parser.add_argument("--out", type=Path, default=REPO / "build" / "bench" / "seam.json")
    options = parser.parse_args()
    rows = measure(options.prompts, options.steps)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    head = (
        "history",
        "decode",
        "jump over the seam",
        "usual jump",
        "PSNR of the 4 frames after it, joined against apart",
    )
    print(table.lines(head, [list(map(str, row.values())) for row in rows]))
    print(options.out.resolve())
    return 0


@torch.inference_mode()
def measure(prompts: int, steps: int) -> list[dict[str, Any]]:
    """One row for each way of going on and of decoding, medians over the prompts."""
    model, vae, conditionings, negative = load(prompts)
    rows = []
    for history in HISTORIES:
        jumps: dict[str, list[tuple[float, float]]] = {"joined": [], "apart": []}
        distances = []
        for seed, positive in enumerate(conditionings):
            joined, apart = sample(model, vae, positive, negative, history, seed, steps)
            distances.append(psnr(joined[57 : 57 + AFTER], apart[57 : 57 + AFTER]))
            for name, frames in (("joined", joined), ("apart", apart)):
                changes = (frames[1:] - frames[:-1]).abs().flatten(1).mean(dim=1)
                jumps[name].append((float(changes[56]), float(changes.median())))
        for name, pairs in jumps.items():
            rows.append(
                {
                    "history": history,
                    "decode": name,
                    "jump": round(statistics.median(jump for jump, _ in pairs), 4),
                    "usual": round(statistics.median(usual for _, usual in pairs), 4),
                    "psnr": round(statistics.median(distances), 1),
                }
            )
    return rows


def load(prompts: int) -> tuple[Any, Any, list[Any], Any]:
    """The tiny world through the pack's own loaders and the stock VAE loader."""
    import comfy.cli_args

    comfy.cli_args.args.cpu = not torch.cuda.is_available()  # before anything of ComfyUI looks for a GPU
    pack.load()
    from motioncache.nodes import loaders
    from motioncache.nodes import prompts as prompt_nodes

    import nodes

    folder = REPO / "tiny_world"
    model = loaders.MotionCacheLoadSkyReelsV2.execute(name_in(folder / "diffusion_models"), "default").args[0]
    vae = nodes.VAELoader().load_vae(name_in(folder / "vae"))[0]
    names = sorted(path.name for path in (folder / "prompts").glob("*.safetensors"))
    negative = next(name for name in names if name.startswith("empty"))
    positive = [name for name in names if name != negative][:prompts]
    read = prompt_nodes.MotionCacheLoadPrompt.execute
    return model, vae, [read(name).args[0] for name in positive], read(negative).args[0]


def name_in(folder: Path) -> str:
    return next(folder.glob("*.safetensors")).name


def sample(
    model: Any, vae: Any, positive: Any, negative: Any, history: str, seed: int, steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(frames of one joined decode, frames of a decode a window), each ``[97, H, W, 3]``."""
    from motioncache.nodes import sampling
    from motioncache.nodes.host import sampler as host

    windows: list[torch.Tensor] = []
    original = host.WindowSampler.sample

    def keep(self: Any, *arguments: Any, **named: Any) -> torch.Tensor:
        result = original(self, *arguments, **named)
        windows.append(model.model.process_latent_out(result.clone()).cpu())
        return result

    settings = {**SAMPLING, "seed": seed, "steps": steps, "history": history, "vae": vae}
    with mock.patch.object(host.WindowSampler, "sample", keep):
        result = sampling.MotionCacheAutoregressiveSampler.execute(model, positive, negative, **settings)
    first, second = (vae.decode(window)[0] for window in windows)
    return vae.decode(result.args[0]["samples"])[0], torch.cat([first, second[SAMPLING["overlap"] :]])


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * torch.log10(((a - b) ** 2).mean().clamp_min(1e-12)))


if __name__ == "__main__":
    sys.exit(main())
