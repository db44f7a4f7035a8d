"""Prompt embeddings of the world: fixed random vectors for its words, in the saved-prompt format.

No text encoder is involved. A prompt is eight tokens of width 4096, each the sum of the vectors of what it says; the
same words give the same vectors on every machine, since they come from a hash of the word and numpy's generator.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from .world import Scene, Sprite

TOKENS = 8
WIDTH = 4096
NEGATIVE_TEXT = ""
SHIPPED = tuple(
    Scene(background, tuple(Sprite(colour, "ball", *motion) for colour, *motion in sprites))
    for background, sprites in (
        ("striped wall", [("red", "right")]),
        ("striped wall", [("blue", "up")]),
        ("checkered floor", [("yellow", "left")]),
        ("checkered floor", [("red", "down")]),
        ("misty field", [("blue", "right")]),
        ("misty field", [("yellow", "none")]),
        ("checkered floor", [("blue", "right", "slow")]),
        ("striped wall", [("red", "right"), ("yellow", "left")]),
        ("misty field", [("yellow", "none"), ("blue", "left")]),
    )
)
"""Prompts that come with the models, by background and sprites (colour, motion, speed)."""


def words(scene: Scene | None) -> list[tuple[str, ...]]:
    """The words of each of the eight tokens of a scene with one or two sprites; None is the empty prompt."""
    if scene is None:
        return [("start",)] + [(f"empty {slot}",) for slot in range(1, TOKENS)]
    if not 1 <= len(scene.sprites) <= 2:
        raise ValueError(f"{len(scene.sprites)} sprites in the scene; a prompt can name 1 or 2")
    out: list[tuple[str, ...]] = [("start",), (f"background {scene.background}",)]
    for i in range(2):
        if i < len(scene.sprites):
            sprite = scene.sprites[i]
            slowly = (f"{i} slowly",) if sprite.speed == "slow" else ()
            motion = (f"{i} motion {sprite.motion}", *slowly)
            out += [(f"{i} colour {sprite.colour}",), (f"{i} shape {sprite.shape}",), motion]
        else:
            out += [(f"{i} absent {slot}",) for slot in range(3)]
    return out


def embed(scene: Scene | None) -> torch.Tensor:
    """The embedding of a scene, or of the empty prompt: float32 [1, 8, 4096], every vector about unit variance."""
    rows = [np.sum([_vector(word) for word in token], 0) / math.sqrt(len(token)) for token in words(scene)]
    return torch.from_numpy(np.stack(rows)[None]).half().float()


def _vector(word: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(WIDTH)


def save(scene: Scene | None, path: Path) -> None:
    """Write a prompt file; see `embed`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = NEGATIVE_TEXT if scene is None else scene.text
    save_file(
        {"entries.0.cond": embed(scene).half()}, path,
        metadata={"format": "motioncache_prompt", "version": "1", "text": text},
    )  # fmt: skip
    path.chmod(0o644)


def file_name(scene: Scene) -> str:
    """How the prompt of a shipped scene is called, such as 'red ball moves right'; no two of them share a name."""
    return " and ".join(sprite.text.removeprefix("a ") for sprite in scene.sprites)


def write_all(folder: Path) -> None:
    """Write the prompts that ship with the models."""
    for scene in SHIPPED:
        save(scene, folder / f"{file_name(scene)}.safetensors")
    save(None, folder / "empty.safetensors")
