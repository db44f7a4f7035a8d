"""A procedural world of still textured backgrounds and large moving sprites.

Every clip follows from a scene and a seed, so the truth behind it is known: the background without its sprites, the
sprite's centre in every frame, its colour and its direction. A trained model is judged against that truth by `track`
and `measure`. Needs numpy only; pictures are float32 in 0..1, frames are [F, H, W, 3], places are (x, y) in pixels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

BACKGROUNDS = ("striped wall", "checkered floor", "misty field")
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.14, 0.12),
    "blue": (0.12, 0.28, 0.92),
    "yellow": (0.96, 0.82, 0.08),
}
SHAPES = ("ball", "box")
MOTIONS: dict[str, tuple[int, int]] = {
    "right": (1, 0),
    "left": (-1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "none": (0, 0),
}
_MOTION_TEXT = {"none": "stays still"} | {m: f"moves {m}" for m in ("right", "left", "up", "down")}


@dataclass(frozen=True)
class Sprite:
    """One thing in a scene: a colour, a shape and a motion by name."""

    colour: str
    shape: str = "ball"
    motion: str = "right"

    def __post_init__(self) -> None:
        for name, value, legal in (
            ("colour", self.colour, COLOURS),
            ("shape", self.shape, SHAPES),
            ("motion", self.motion, MOTIONS),
        ):
            if value not in legal:
                raise ValueError(f"{name} {value!r} is not in this world; it has {', '.join(legal)}")

    @property
    def text(self) -> str:
        return f"a {self.colour} {self.shape} {_MOTION_TEXT[self.motion]}"


@dataclass(frozen=True)
class Scene:
    """A background by name and the sprites before it; later sprites are drawn over earlier ones."""

    background: str
    sprites: tuple[Sprite, ...]

    def __post_init__(self) -> None:
        if self.background not in BACKGROUNDS:
            raise ValueError(f"background {self.background!r} is not in this world; it has {', '.join(BACKGROUNDS)}")

    @property
    def text(self) -> str:
        """The scene in words, such as 'a red ball moves right over a striped wall'."""
        return " and ".join(s.text for s in self.sprites) + f" over a {self.background}"

    @property
    def name(self) -> str:
        """A file name for the scene, such as 'red_ball_right_striped_wall'."""
        parts = [f"{s.colour}_{s.shape}_{s.motion}" for s in self.sprites]
        return "_".join([*parts, self.background]).replace(" ", "_")


@dataclass(frozen=True)
class World:
    """Sizes of the clips.

    Args:
        size: height and width in pixels, a multiple of 16.
        frames: pixel frames in a clip; 1 + 4·k, so that the video autoencoder keeps all of them.
        radius: half the extent of a sprite, as a share of `size`.
        travel: how far a moving sprite goes over the whole clip, as a share of `size`.
        jitter: largest offset of a sprite's path from the middle of the picture, as a share of `size`.
    """

    size: int = 96
    frames: int = 57
    radius: float = 0.19
    travel: float = 0.56
    jitter: float = 0.06

    def __post_init__(self) -> None:
        if self.size % 16:
            nearest = max(16, round(self.size / 16) * 16)
            raise ValueError(f"size {self.size} is not a multiple of 16; nearest is {nearest}")
        if self.frames % 4 != 1:
            nearest = 4 * max(0, round((self.frames - 1) / 4)) + 1
            raise ValueError(f"frames {self.frames} is not 1 + 4·k; nearest is {nearest}")


@dataclass
class Clip:
    """A rendered scene and its truth.

    Attributes:
        frames: [F, H, W, 3] pictures.
        background: [H, W, 3] the still picture behind the sprites.
        coverage: [F, H, W] share of each pixel that any sprite covers.
        centres: [S, F, 2] centre of each sprite, (x, y) in pixels.
    """

    scene: Scene
    frames: np.ndarray
    background: np.ndarray
    coverage: np.ndarray
    centres: np.ndarray


def scenes(
    backgrounds: Sequence[str] = BACKGROUNDS,
    colours: Sequence[str] = tuple(COLOURS),
    shapes: Sequence[str] = SHAPES,
    motions: Sequence[str] = tuple(MOTIONS),
) -> list[Scene]:
    """All scenes with one sprite, in a fixed order."""
    return [Scene(b, (Sprite(c, s, m),)) for b, c, s, m in itertools.product(backgrounds, colours, shapes, motions)]


@lru_cache(maxsize=16)
def background(name: str, size: int = 96) -> np.ndarray:
    """The still picture called `name`, [size, size, 3]; the same in every clip. Do not write into it."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float64) / size
    if name == "striped wall":
        stripe = _soft_square(x * 4)
        tone = stripe[..., None] * np.array([0.74, 0.67, 0.58]) + (1 - stripe[..., None]) * np.array([0.57, 0.49, 0.42])
        shade = 1.06 - 0.20 * y
    elif name == "checkered floor":
        check = 0.5 + 2.0 * (_soft_square(x * 2) - 0.5) * (_soft_square(y * 2) - 0.5)
        tone = check[..., None] * np.array([0.58, 0.62, 0.65]) + (1 - check[..., None]) * np.array([0.38, 0.41, 0.45])
        shade = 0.94 + 0.12 * y
    elif name == "misty field":
        rng = np.random.default_rng(20)
        waves = np.zeros_like(x)
        for _ in range(9):
            fx, fy = rng.uniform(-3.2, 3.2, 2)
            waves += np.sin(2 * math.pi * (fx * x + fy * y) + rng.uniform(0, 2 * math.pi))
        mist = 1 / (1 + np.exp(-0.9 * waves))
        tone = mist[..., None] * np.array([0.54, 0.66, 0.58]) + (1 - mist[..., None]) * np.array([0.32, 0.46, 0.40])
        shade = 0.92 + 0.14 * (1 - y)
    else:
        raise ValueError(f"background {name!r} is not in this world; it has {', '.join(BACKGROUNDS)}")
    return np.clip(tone * shade[..., None], 0, 1).astype(np.float32)


def render(scene: Scene, seed: int, world: World | None = None) -> Clip:
    """Draw `scene`; `seed` chooses where its sprites are. The same arguments give the same clip."""
    world = world or World()
    rng = np.random.default_rng([seed, 7919])
    n, size = world.frames, world.size
    back = background(scene.background, size)
    frames = np.repeat(back[None], n, 0)
    coverage = np.zeros((n, size, size), np.float32)
    along = np.linspace(-0.5, 0.5, n)[:, None] * world.travel
    centres = []
    for sprite in scene.sprites:
        offset = rng.uniform(-world.jitter, world.jitter, 2)
        direction = np.array(MOTIONS[sprite.motion], np.float64)
        offset *= np.where(direction != 0, 0.35, 1.0)  # less along the way, or the sprite would leave the picture
        path = (0.5 + offset + along * direction) * size
        centres.append(path)
        for f in range(n):
            paint, alpha = _draw(sprite, path[f], world.radius * size, size)
            frames[f] = frames[f] * (1 - alpha[..., None]) + paint * alpha[..., None]
            coverage[f] = np.maximum(coverage[f], alpha)
    return Clip(scene, frames, back, coverage, np.stack(centres).astype(np.float32))


def track(frames: np.ndarray, colour: str) -> np.ndarray:
    """Centre of everything of one colour in every frame: [F, H, W, 3] -> [F, 2], NaN where there is none of it.

    Only hue and saturation count, so that a bright or dim background is not taken for a sprite.
    """
    weight = colour_share(frames, colour)
    mass = weight.sum((1, 2))
    y, x = np.mgrid[0 : frames.shape[1], 0 : frames.shape[2]]
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = np.stack([(weight * x).sum((1, 2)), (weight * y).sum((1, 2))], 1) / mass[:, None]
    centre[mass < 1e-3 * frames.shape[1] * frames.shape[2]] = np.nan
    return centre


def colour_share(frames: np.ndarray, colour: str) -> np.ndarray:
    """How much each pixel is of that colour, 0..1: [F, H, W, 3] -> [F, H, W]."""
    names = list(COLOURS)
    if colour not in COLOURS:
        raise ValueError(f"colour {colour!r} is not in this world; it has {', '.join(names)}")
    palette = np.array([COLOURS[c] for c in names])
    palette = palette - palette.mean(1, keepdims=True)
    strength = np.linalg.norm(palette, axis=1)
    chroma = frames - frames.mean(-1, keepdims=True)
    score = chroma @ (palette / strength[:, None] ** 2).T  # 1 at the colour itself, about 0 for grey
    share = np.clip((score - 0.45) / 0.25, 0, 1)
    best = score.argmax(-1)
    return np.where(best == names.index(colour), share[..., names.index(colour)], 0.0)


@dataclass
class Measures:
    """What a clip shows, beside what was asked.

    Attributes:
        angle_error: degrees between the asked and the tracked direction; for a still sprite 0 or 180, by whether it
            drifted more than a quarter of a moving sprite's way.
        colour_right: the asked colour covers more than any other, and at least a third of a sprite's area.
        area: area of the asked colour, as a share of a sprite's true area, mean over frames.
        background_psnr: dB over the pixels that no sprite of any colour covers, against the true background.
        path_error: root mean square distance of the tracked centre to the straight line fitted to it, in pixels.
    """

    angle_error: float
    colour_right: bool
    area: float
    background_psnr: float
    path_error: float
    centres: np.ndarray = field(repr=False)

    @property
    def direction_right(self) -> bool:
        """The direction is right within 30 degrees."""
        return self.angle_error <= 30.0


def measure(frames: np.ndarray, scene: Scene, world: World | None = None) -> Measures:
    """Judge a generated clip [F, H, W, 3] of a scene with one sprite against the world's truth."""
    world = world or World()
    if len(scene.sprites) != 1:
        raise ValueError(f"{len(scene.sprites)} sprites in the scene; a clip can be measured for exactly 1")
    sprite = scene.sprites[0]
    frames = np.asarray(frames, np.float32)
    size = frames.shape[1]
    true_area = (math.pi if sprite.shape == "ball" else 4 * _BOX_SIDE**2) * (world.radius * size) ** 2
    areas = {c: float(colour_share(frames, c).sum((1, 2)).mean()) / true_area for c in COLOURS}
    colour_right = areas[sprite.colour] == max(areas.values()) and areas[sprite.colour] > 1 / 3

    centres = track(frames, sprite.colour)
    seen = np.isfinite(centres[:, 0])
    angle_error, path_error = 180.0, float("inf")
    if seen.sum() >= max(3, frames.shape[0] // 3):
        times = np.flatnonzero(seen)
        basis = np.stack([times, np.ones_like(times)], 1).astype(np.float64)
        fit = np.linalg.lstsq(basis, centres[seen], rcond=None)[0]
        path_error = float(np.sqrt(((basis @ fit - centres[seen]) ** 2).sum(1).mean()))
        way = fit[0] * (frames.shape[0] - 1)
        moves = float(np.linalg.norm(way)) > 0.25 * world.travel * size
        asked = np.array(MOTIONS[sprite.motion], np.float64)
        if sprite.motion == "none":
            angle_error = 180.0 if moves else 0.0
        elif moves:
            cosine = float(way @ asked / np.linalg.norm(way))
            angle_error = math.degrees(math.acos(max(-1.0, min(1.0, cosine))))

    covered = np.zeros(frames.shape[:3], bool)
    for f in range(frames.shape[0]):
        if seen[f]:  # the sprite's own disc, with a border for its soft edge
            y, x = np.mgrid[0:size, 0:size]
            reach = 1.35 * world.radius * size
            covered[f] = (x - centres[f, 0]) ** 2 + (y - centres[f, 1]) ** 2 < reach**2
    error = (frames - background(scene.background, size)[None]) ** 2
    free = error[~covered]
    psnr = -10 * math.log10(max(float(free.mean()), 1e-10)) if free.size else 0.0
    return Measures(angle_error, colour_right, areas[sprite.colour], psnr, path_error, centres)


_BOX_SIDE = 0.86  # half a box's side in radii: about the area of a ball


def _soft_square(phase: np.ndarray) -> np.ndarray:
    """A square wave of period 1 with soft flanks, 0..1."""
    return 0.5 + 0.5 * np.tanh(2.5 * np.sin(2 * math.pi * phase))


def _draw(sprite: Sprite, centre: np.ndarray, radius: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A sprite's paint [H, W, 3] and coverage [H, W]; lit from the upper left, edges one pixel soft."""
    y, x = np.mgrid[0:size, 0:size]
    u, v = (x - centre[0]) / radius, (y - centre[1]) / radius
    if sprite.shape == "ball":
        distance = (1 - np.hypot(u, v)) * radius
        light = 1.0 - 0.30 * np.clip(np.hypot(u + 0.35, v + 0.35), 0, 1.5) + 0.10
    else:
        distance = (_BOX_SIDE - np.maximum(np.abs(u), np.abs(v))) * radius
        light = 1.0 - 0.16 * (u + v)
    alpha = np.clip(distance + 0.5, 0, 1)
    paint = np.clip(np.array(COLOURS[sprite.colour]) * light[..., None], 0, 1)
    return paint.astype(np.float32), alpha.astype(np.float32)
