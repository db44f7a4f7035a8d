"""A procedural world of still textured backgrounds and one or two large sprites that move or stay.

Every clip follows from a scene and a seed, so the truth behind it is known: the background without its sprites, each
sprite's centre in every frame, its colour, direction and speed. A trained model is judged against that truth by `track`
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
SPEEDS: dict[str, float] = {"normal": 1.0, "slow": 0.5}
"""Share of the world's `travel` that a moving sprite covers in a clip."""


@dataclass(frozen=True)
class Sprite:
    """One thing in a scene: a colour, a shape, a motion and its speed by name; what stays still has the normal one."""

    colour: str
    shape: str = "ball"
    motion: str = "right"
    speed: str = "normal"

    def __post_init__(self) -> None:
        for name, value, legal in (
            ("colour", self.colour, COLOURS),
            ("shape", self.shape, SHAPES),
            ("motion", self.motion, MOTIONS),
            ("speed", self.speed, SPEEDS),
        ):
            if value not in legal:
                raise ValueError(f"{name} {value!r} is not in this world; it has {', '.join(legal)}")
        if self.motion == "none" and self.speed != "normal":
            raise ValueError(f"speed {self.speed!r} of a sprite that stays still; it has only 'normal'")

    @property
    def text(self) -> str:
        slowly = "slowly " if self.speed == "slow" else ""
        doing = "stays still" if self.motion == "none" else f"moves {slowly}{self.motion}"
        return f"a {self.colour} {self.shape} {doing}"

    @property
    def velocity(self) -> np.ndarray:
        """Way over a clip in shares of the world's `travel`, (x, y)."""
        return np.array(MOTIONS[self.motion], np.float64) * SPEEDS[self.speed]


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
        slow = {"slow": "slow_"}
        parts = [f"{s.colour}_{s.shape}_{slow.get(s.speed, '')}{s.motion}" for s in self.sprites]
        return "_".join([*parts, self.background]).replace(" ", "_")


@dataclass(frozen=True)
class World:
    """Sizes of the clips.

    Args:
        size: height and width in pixels, a multiple of 16.
        frames: pixel frames in a clip; 1 + 4·k, so that the video autoencoder keeps all of them.
        radius: half the extent of a sprite, as a share of `size`.
        travel: how far a sprite of normal speed goes over the whole clip, as a share of `size`.
        jitter: largest offset of a sprite's path from the middle of its lane, as a share of `size`. One sprite has the
            whole picture; two have lanes side by side along their way, the first one the upper or the left lane.
    """

    size: int = 96
    frames: int = 97
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
        coverage: [S, F, H, W] share of each pixel that each sprite covers.
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
    speeds: Sequence[str] = tuple(SPEEDS),
) -> list[Scene]:
    """All scenes with one sprite, in a fixed order."""
    every = itertools.product(backgrounds, colours, shapes, motions, speeds)
    return [Scene(b, (Sprite(c, s, m, v),)) for b, c, s, m, v in every if m != "none" or v == "normal"]


def pairs(
    backgrounds: Sequence[str] = BACKGROUNDS, colours: Sequence[str] = tuple(COLOURS), shape: str = "ball"
) -> list[Scene]:
    """All scenes with two sprites of different colours that move along one axis, or one of which stays still."""
    alone = [s.sprites[0] for s in scenes(("striped wall",), colours, (shape,))]
    return [
        Scene(b, (first, second))
        for b, first, second in itertools.product(backgrounds, alone, alone)
        if first.colour != second.colour and _along(first, second) is not None
    ]


def _along(*sprites: Sprite) -> int | None:
    """The one axis (0 = x, 1 = y) along which these sprites move; None if they stay or differ."""
    axes = {int(np.flatnonzero(s.velocity)[0]) for s in sprites if s.velocity.any()}
    return axes.pop() if len(axes) == 1 else None


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
    coverage = np.zeros((len(scene.sprites), n, size, size), np.float32)
    along = np.linspace(-0.5, 0.5, n)[:, None] * world.travel
    middles = _lanes(scene.sprites)
    centres = []
    for i, sprite in enumerate(scene.sprites):
        offset = rng.uniform(-world.jitter, world.jitter, 2)
        offset *= np.where(sprite.velocity != 0, 0.35, 1.0)  # less along the way, or the sprite would leave the picture
        path = (middles[i] + offset + along * sprite.velocity) * size
        centres.append(path)
        for f in range(n):
            paint, alpha = _draw(sprite, path[f], world.radius * size, size)
            frames[f] = frames[f] * (1 - alpha[..., None]) + paint * alpha[..., None]
            coverage[:i, f] *= 1 - alpha  # hidden by the later sprite
            coverage[i, f] = alpha
    return Clip(scene, frames, back, coverage, np.stack(centres).astype(np.float32))


def _lanes(sprites: Sequence[Sprite]) -> np.ndarray:
    """Middle of every sprite's path, [S, 2] in shares of the picture."""
    middles = np.full((len(sprites), 2), 0.5)
    axis = _along(*sprites)
    if len(sprites) == 2 and axis is not None:
        middles[:, 1 - axis] += (-LANE, LANE)
    return middles


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
    """What a clip shows, beside what was asked; of two sprites the worse.

    Attributes:
        angle_error: degrees between the asked and the tracked direction; for a still sprite 0 or 180, by whether it
            drifted more than a quarter of a moving sprite's way.
        speed: tracked way over the asked one; 1 for a still sprite. Of two sprites the one that is farther off.
        colour_right: the asked colours, and no other, cover at least a third of a sprite's area each.
        area: area of the asked colour, as a share of a sprite's true area, mean over frames.
        background_psnr: dB over the pixels that no sprite covers, against the true background.
        path_error: root mean square distance of the tracked centre to the straight line fitted to it, in pixels.
        centres: [S, F, 2] tracked centre of each sprite, NaN where it was not seen.
    """

    angle_error: float
    speed: float
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
    """Judge a generated clip [F, H, W, 3] of a scene whose sprites differ in colour against the world's truth."""
    world = world or World()
    colours = [s.colour for s in scene.sprites]
    if not colours or len(set(colours)) < len(colours):
        raise ValueError(f"sprites of colours {', '.join(colours) or 'none'}; a clip needs 1 or more, all different")
    frames = np.asarray(frames, np.float32)
    size = frames.shape[1]
    areas = {c: float(colour_share(frames, c).sum((1, 2)).mean()) / (world.radius * size) ** 2 for c in COLOURS}
    shares = [areas[s.colour] / (math.pi if s.shape == "ball" else 4 * _BOX_SIDE**2) for s in scene.sprites]
    others = [areas[c] / math.pi for c in COLOURS if c not in colours]
    centres = np.stack([track(frames, colour) for colour in colours])
    ways = [_straight_way(track) for track in centres]
    angles, speeds = zip(
        *(_beside_asked(way, s, world.travel * size) for (way, _), s in zip(ways, scene.sprites, strict=True)),
        strict=True,
    )
    covered = sprite_regions(centres, size, 1.35 * world.radius).any(0)
    free = ((frames - background(scene.background, size)[None]) ** 2)[~covered]
    psnr = -10 * math.log10(max(float(free.mean()), 1e-10)) if free.size else 0.0
    return Measures(
        angle_error=max(angles),
        speed=max(speeds, key=lambda v: abs(v - 1)),
        colour_right=min(shares) > max([1 / 3, *others]),
        area=min(shares),
        background_psnr=psnr,
        path_error=max(error for _, error in ways),
        centres=centres,
    )


def sprite_regions(centres: np.ndarray, size: int, reach: float) -> np.ndarray:
    """Discs around sprites: [S, F, 2] centres -> bool [S, F, size, size], empty where a centre is NaN.

    Args:
        reach: radius of a disc, as a share of `size`; more than the sprite's takes in its soft edge.
    """
    y, x = np.mgrid[0:size, 0:size]
    with np.errstate(invalid="ignore"):
        away = (x - centres[..., 0, None, None]) ** 2 + (y - centres[..., 1, None, None]) ** 2
        return away < (reach * size) ** 2


def _straight_way(centres: np.ndarray) -> tuple[np.ndarray | None, float]:
    """(way over the clip in pixels along the straight line fitted to a track [F, 2], distance to it in pixels)."""
    times = np.flatnonzero(np.isfinite(centres[:, 0]))
    if len(times) < max(3, len(centres) // 3):
        return None, math.inf
    basis = np.stack([times, np.ones_like(times)], 1).astype(np.float64)
    fit = np.linalg.lstsq(basis, centres[times], rcond=None)[0]
    return fit[0] * (len(centres) - 1), float(np.sqrt(((basis @ fit - centres[times]) ** 2).sum(1).mean()))


def _beside_asked(way: np.ndarray | None, sprite: Sprite, travel: float) -> tuple[float, float]:
    """(angle error in degrees, speed ratio) of a tracked way; what cannot be told counts as wrong."""
    if way is None:
        return 180.0, 0.0
    length = float(np.linalg.norm(way))
    moves = length > 0.25 * SPEEDS["slow"] * travel if sprite.motion != "none" else length > 0.25 * travel
    asked = sprite.velocity * travel
    if not asked.any():
        return (180.0, 0.0) if moves else (0.0, 1.0)
    if not moves:
        return 180.0, 0.0
    cosine = float(way @ asked) / (length * float(np.linalg.norm(asked)))
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine)))), length / float(np.linalg.norm(asked))


LANE = 0.22
"""Distance of a lane's middle from the picture's, as a share of its size: two balls pass without touching."""

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
