"""Judging the tiny MAGI-1: through the pack's own loader and sampler node, against the world's truth."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tools.bench.harness import pack

from . import vae
from .dataset import held_out, load_vae, to_frames
from .evaluate import pick_scenes
from .host import import_comfyui
from .magi1 import SHIFT, text_of
from .world import Scene, World, measure

log = logging.getLogger("tiny_world")

SAMPLING = {"width": 96, "height": 96, "frames": 96, "shift": SHIFT}
"""Inputs of the sampler node that are not as it comes."""
SHEET_FRAMES = 5


class TinyMagi1:
    """The trained model and the world's autoencoder, loaded once.

    Args:
        transformer: file in a folder of its own, which ComfyUI is told about.
        vae_path: the world's autoencoder.
    """

    def __init__(self, transformer: Path, vae_path: Path):
        import_comfyui()
        pack.load()
        import folder_paths
        from motioncache.nodes import magi1_loaders, magi1_sampling

        folder_paths.add_model_folder_path("diffusion_models", str(transformer.parent))
        self.model = magi1_loaders.MotionCacheLoadMagi1.execute(transformer.name, "default").args[0]
        self.node = magi1_sampling.MotionCacheMagi1Sampler
        self.decoder = load_vae(vae_path)

    @torch.inference_mode()
    def sample(self, scene: Scene, seed: int, steps: int, model: Any = None, **inputs: Any) -> tuple[Any, dict]:
        """(latents ``[1, 16, F, h, w]`` as the node gives them, the node's report) of a scene's prompt."""
        positive = [[text_of(scene)[None], {}]]
        how = pack.defaults_of(self.node) | SAMPLING | {"seed": seed, "steps": steps} | inputs
        latent, report, *_ = self.node.execute(self.model if model is None else model, positive, **how).args
        return latent["samples"], json.loads(report)

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Frames ``[1 + 4 (F - 1), 8 h, 8 w, 3]`` in 0..1."""
        return to_frames(vae.decode(self.decoder, latents.float()))


def run(
    transformer: Path, vae_path: Path, sheet: Path, *, which: str, prompts: int, seeds: int, steps: int
) -> dict[str, float]:
    """Sample scenes, log every clip and the totals, write the contact sheet and ``sheet``.json."""
    torch.set_num_threads(1)  # the layers are small, and on a busy machine threads wait for each other in each of them
    tiny = TinyMagi1(transformer, vae_path)
    rows, strips = [], []
    for scene in pick_scenes(which, prompts):
        for seed in range(seeds):
            latents, _ = tiny.sample(scene, seed, steps)
            frames = tiny.decode(latents)
            found = measure(frames, scene, World(frames=len(frames)))
            rows.append({
                "text": scene.text, "seed": seed, "held_out": held_out(scene),
                "angle_error": round(found.angle_error, 2), "colour_right": bool(found.colour_right),
                "area": round(found.area, 3), "background_psnr": round(found.background_psnr, 2),
            })  # fmt: skip
            log.info("%s", rows[-1])
            shown = np.linspace(0, len(frames) - 1, SHEET_FRAMES).astype(int)
            strips.append(np.concatenate([(frames[f] * 255).round().astype(np.uint8) for f in shown], 1))
    totals = {
        "clips": len(rows),
        "direction right": float(np.mean([r["angle_error"] <= 30 for r in rows])),
        "colour right": float(np.mean([r["colour_right"] for r in rows])),
        "mean background PSNR, dB": float(np.mean([r["background_psnr"] for r in rows])),
    }
    sheet.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(strips)).save(sheet)
    settings = {**SAMPLING, "steps": steps}
    sheet.with_suffix(".json").write_text(json.dumps({"settings": settings, "totals": totals, "clips": rows}, indent=1))
    for key, value in totals.items():
        log.info("%s: %.3g", key, value)
    log.info("contact sheet: %s", sheet)
    return totals
