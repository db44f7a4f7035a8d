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
from tools.tinyworld import demo
from tools.tinyworld.host import import_comfyui
from tools.tinyworld.prompts import SHIPPED
from tools.tinyworld.world import Scene

WINDOW, OVERLAP, AR_STEP = 57, 17, 5
"""Frames of a window, those of them that it goes on from, steps that a chunk stays behind."""
HISTORIES = ("latents", "re-encode with VAE")
AFTER = 4
"""Frames after the seam that are compared."""


def main() -> int:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="dev.py bench seam", description=__doc__)
    parser.add_argument("--prompts", type=int, default=3, help="prompts of the tiny world (%(default)s)")
    parser.add_argument("--steps", type=int, default=demo.STEPS, help="denoising steps (%(default)s)")
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
    windows = Windows()
    rows = []
    for history in HISTORIES:
        jumps: dict[str, list[tuple[float, float]]] = {"joined": [], "apart": []}
        distances = []
        for seed, scene in enumerate(SHIPPED[:prompts]):
            joined, apart = windows.sample(scene, seed, steps, history)
            after = slice(WINDOW, WINDOW + AFTER)
            distances.append(psnr(joined[after], apart[after]))
            for name, frames in (("joined", joined), ("apart", apart)):
                changes = (frames[1:] - frames[:-1]).abs().flatten(1).mean(dim=1)
                jumps[name].append((float(changes[WINDOW - 1]), float(changes.median())))
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


class Windows:
    """The tiny world, its videos made of two windows. ComfyUI must be on the path."""

    def __init__(self) -> None:
        import_comfyui()
        pack.load()
        import nodes
        from tools.bench.harness.tiny_world_runs import FOLDER, Sampling, TinyWorld

        torch.set_num_threads(1)
        self.world, self.how = TinyWorld(), Sampling(clean_refresh=True)
        (file,) = (FOLDER / "vae").glob("*.safetensors")
        self.vae = nodes.VAELoader().load_vae(file.name)[0]

    def sample(self, scene: Scene, seed: int, steps: int, history: str) -> tuple[torch.Tensor, torch.Tensor]:
        """(frames of one joined decode, frames of a decode a window), each ``[97, H, W, 3]``."""
        from motioncache.nodes.host import sampler as host

        windows: list[torch.Tensor] = []
        original = host.WindowSampler.sample

        def keep(self_: Any, *arguments: Any, **named: Any) -> torch.Tensor:
            result = original(self_, *arguments, **named)
            windows.append(self.world.model.model.process_latent_out(result.clone()).cpu())
            return result

        inputs = {"window": WINDOW, "overlap": OVERLAP, "history": history, "vae": self.vae}
        with mock.patch.object(host.WindowSampler, "sample", keep):
            made = self.world.sample(scene, seed, steps, AR_STEP, self.how, **inputs)
        first, second = (self.vae.decode(window)[0] for window in windows)
        return self.vae.decode(made.latents)[0], torch.cat([first, second[OVERLAP:]])


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * torch.log10(((a - b) ** 2).mean().clamp_min(1e-12)))


if __name__ == "__main__":
    sys.exit(main())
