"""Judging the trained models: sample prompts, measure them against the world's truth, lay out a contact sheet."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from . import parallel, vae
from .dataset import held_out, known_pairs, known_scenes, load_vae, to_frames
from .host import import_comfyui, wan_statistics
from .prompts import embed
from .sampling import sample
from .transformer import TinySkyReels
from .world import Scene, measure

log = logging.getLogger("tiny_world")

LEAST_RIGHT, LEAST_PSNR = 0.8, 25.0
"""What the models must reach: share of clips with direction and colour right, mean background PSNR in dB."""
SHEET_FRAMES = (0, 24, 48, 72, 96)


def load_transformer(path: Path) -> TinySkyReels:
    """The finished transformer, in float32."""
    model = TinySkyReels()
    model.load_official(load_file(path))
    return model.eval().requires_grad_(False)


def pick_scenes(which: str, count: int) -> list[Scene]:
    """Different scenes, spread evenly over the trained ones, the held-out ones, or both in turn; a quarter has two
    sprites.
    """
    if which == "both":
        return pick_scenes("trained", count - count // 2) + pick_scenes("held-out", count // 2)
    alone, two = (
        [s for s in group if held_out(s) == (which == "held-out")] for group in (known_scenes(), known_pairs())
    )
    wanted = min(len(alone), count - count // 4)
    return [alone[i * len(alone) // wanted] for i in range(wanted)] + two[: count - wanted]


@torch.no_grad()
def generate(network: TinySkyReels, decoder: torch.nn.Module, scene: Scene, seed: int, **settings: float) -> np.ndarray:
    """Sample a scene's prompt: frames [F, H, W, 3] in 0..1."""
    mean, std = (s.view(1, 16, 1, 1, 1) for s in wan_statistics())
    latents = sample(network, embed(scene)[0], embed(None)[0], seed, **settings)
    return to_frames(vae.decode(decoder, latents * std + mean))


def run(
    vae_path: Path, transformer_path: Path, sheet: Path, *, prompts: int, seeds: int, which: str, workers: int,
    work: Path, settings: dict[str, float],
) -> dict[str, float]:  # fmt: skip
    """Sample `prompts` scenes with `seeds` seeds each, log every clip and the totals, write sheet and `sheet`.json."""
    jobs = [(scene, seed) for scene in pick_scenes(which, prompts) for seed in range(seeds)]
    parallel.run(workers, _part, vae_path, transformer_path, work, jobs, settings)
    rows: list[dict] = []
    strips: dict[int, np.ndarray] = {}
    for rank in range(workers):
        part = work / f"evaluate_{rank}.npz"
        with np.load(part) as saved:
            rows += json.loads(str(saved["rows"]))
            strips |= dict(zip(saved["index"].tolist(), saved["strips"], strict=True))
        part.unlink()
    totals = {"clips": len(rows), **summary(rows)}
    for name in ("trained", "held-out"):
        part = [r for r in rows if r["held_out"] == (name == "held-out")]
        if part:
            totals |= {f"{name}: {k}": v for k, v in summary(part).items()}
    columns = 2
    ordered = [strips[i] for i in sorted(strips)]
    ordered += [np.zeros_like(ordered[0])] * (-len(ordered) % columns)
    lines = [np.concatenate(ordered[i : i + columns], 1) for i in range(0, len(ordered), columns)]
    sheet.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(lines)).save(sheet)
    sheet.with_suffix(".json").write_text(json.dumps({"settings": settings, "totals": totals, "clips": rows}, indent=1))
    for key, value in totals.items():
        log.info("%s: %.3g", key, value)
    log.info(
        "%s: at least %.0f %% of the clips right and %.0f dB",
        "held" if holds(totals) else "MISSED", 100 * LEAST_RIGHT, LEAST_PSNR,
    )  # fmt: skip
    log.info("contact sheet: %s", sheet)
    return totals


def holds(totals: dict[str, float]) -> bool:
    """Whether the totals of clips reach what the models must reach."""
    return totals["both right"] >= LEAST_RIGHT and totals["mean background PSNR, dB"] >= LEAST_PSNR


def summary(rows: list[dict]) -> dict[str, float]:
    """Shares and means over measured clips."""
    return {
        "direction right": float(np.mean([r["angle_error"] <= 30 for r in rows])),
        "colour right": float(np.mean([r["colour_right"] for r in rows])),
        "both right": float(np.mean([r["colour_right"] and r["angle_error"] <= 30 for r in rows])),
        "median direction error, degrees": float(np.median([r["angle_error"] for r in rows])),
        "median speed, of the asked one": float(np.median([r["speed"] for r in rows])),
        "mean sprite area": float(np.mean([r["area"] for r in rows])),
        "mean background PSNR, dB": float(np.mean([r["background_psnr"] for r in rows])),
        "worst background PSNR, dB": float(np.min([r["background_psnr"] for r in rows])),
    }


def _part(
    rank: int, vae_path: Path, transformer_path: Path, work: Path, jobs: list[tuple[Scene, int]], settings: dict
) -> None:
    import_comfyui()
    decoder, network = load_vae(vae_path), load_transformer(transformer_path)
    rows, strips, index = [], [], []
    for i in range(rank, len(jobs), parallel.workers()):
        scene, seed = jobs[i]
        frames = generate(network, decoder, scene, seed, **settings)
        found = measure(frames, scene)
        rows.append({
            "text": scene.text, "seed": seed, "held_out": held_out(scene), "angle_error": round(found.angle_error, 2),
            "speed": round(found.speed, 2), "colour_right": bool(found.colour_right), "area": round(found.area, 3),
            "background_psnr": round(found.background_psnr, 2), "path_error": round(min(found.path_error, 999.0), 2),
        })  # fmt: skip
        log.info("%s", rows[-1])
        strips.append(np.concatenate([(frames[f] * 255).round().astype(np.uint8) for f in SHEET_FRAMES], 1))
        index.append(i)
    found_all = {"rows": np.array(json.dumps(rows)), "strips": np.stack(strips), "index": np.array(index)}
    np.savez(work / f"evaluate_{rank}.npz", **found_all)
