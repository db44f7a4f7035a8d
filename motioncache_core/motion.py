"""Motion weights: how much each token moves, relative to the others of its latent frame.

Differs from the paper's formula (Eq. for M and w of arXiv 2605.01725) only where named in an argument; the released
code has two further normalisations and divides the difference by the size of the frame before.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .config import WeightNorm

EPSILON = 1e-8


def frame_difference(frames: Tensor, previous: Tensor | None, relative: bool = True) -> Tensor:
    """Change of every token against the latent frame before it.

    Args:
        frames: ``[B, F, P, C]`` features of a chunk's tokens, P tokens a latent frame.
        previous: ``[B, P, C]`` last latent frame of the chunk before, or ``None`` if it is not known.
        relative: divide by the size of the frame before, as the released code does; the paper does not.

    Returns:
        ``[F, P]``: mean change over mean size before (or alone), both over samples and channels. Without ``previous``
        the first row is a copy of the second where there is one (nothing is known of its motion), else zero.
    """
    before = frames[:, :-1]
    if previous is not None:
        before = torch.cat([previous.unsqueeze(1), before], dim=1)
        frames_with_predecessor = frames
    else:
        frames_with_predecessor = frames[:, 1:]
    change = (frames_with_predecessor - before).abs().mean(dim=(0, 3))
    if relative:
        change = change / (before.abs().mean(dim=(0, 3)) + EPSILON)
    if previous is None:
        first = change[:1] if change.shape[0] else frames.new_zeros(1, frames.shape[2])
        change = torch.cat([first, change])
    return change


def normalise(change: Tensor, norm: WeightNorm, floor: float, power: float = 1.0) -> Tensor:
    """Motion weights of one chunk from its inter-frame change, every latent frame by itself.

    Args:
        change: ``[F, P]``, not negative.
        norm: ``min-max`` maps a frame to ``[floor, 1]``; ``mean`` and ``max`` divide by that value of the frame.
        floor: weight of the stillest token (paper's alpha; ``min-max`` only).
        power: exponent of the normalised change (``min-max`` only).

    Returns:
        ``[F, P]``.
    """
    if norm == "mean":
        return change / (change.mean(dim=1, keepdim=True) + EPSILON)
    if norm == "max":
        return change / (change.amax(dim=1, keepdim=True) + EPSILON)
    low = change.amin(dim=1, keepdim=True)
    span = change.amax(dim=1, keepdim=True) - low
    scaled = (change - low) / (span + EPSILON)
    if power != 1.0:
        scaled = scaled**power
    return floor + (1.0 - floor) * scaled


def motion_weights(
    frames: Tensor,
    previous: Tensor | None,
    *,
    first_of_video: bool,
    norm: WeightNorm,
    floor: float,
    power: float = 1.0,
    relative: bool = True,
    quirks: frozenset[str] = frozenset(),
) -> Tensor:
    """One weight per token of a chunk, ``[F * P]``, frame-major.

    ``frames`` ``[B, F, P, C]``, ``previous`` ``[B, P, C]`` and ``relative`` as in :func:`frame_difference`. A frame
    whose predecessor is unknown copies the change of the frame after it if it is the first of the video, else it counts
    as moving: weight 1 for all its tokens. Quirk ``no_previous_frame_is_floor``: its change is 1 everywhere before
    normalising, which ``min-max`` turns into the floor.
    """
    change = frame_difference(frames, previous, relative)
    unknown = previous is None and (not first_of_video or frames.shape[1] == 1)
    if unknown:
        change[0] = 1.0
    weights = normalise(change, norm, floor, power)
    if unknown and "no_previous_frame_is_floor" not in quirks:
        weights[0] = 1.0
    return weights.flatten()


def latent_difference(latents: Tensor, previous: Tensor, patch: tuple[int, int] = (2, 2)) -> Tensor:
    """Absolute change of every token's latents against the latent frame before it.

    Args:
        latents: ``[C, F, H, W]``.
        previous: ``[C, H, W]`` the frame before.
        patch: rows and columns of latents in a token.

    Returns:
        ``[F, P]``: mean over channels and patch.
    """
    before = torch.cat([previous.unsqueeze(1), latents[:, :-1]], dim=1)
    change = (latents - before).abs().mean(dim=0)
    rows, columns = patch
    return change.unflatten(2, (-1, columns)).unflatten(1, (-1, rows)).mean(dim=(2, 4)).flatten(1)


def latent_motion_weights(
    latents: Tensor, previous: Tensor | None, *, floor: float, power: float = 1.0, patch: tuple[int, int] = (2, 2)
) -> Tensor:
    """One weight per token of a chunk's latents, ``[F * P]``, frame-major, every frame from ``floor`` to 1.

    ``latents`` ``[C, F, H, W]`` and ``previous`` ``[C, H, W]`` as in :func:`latent_difference`; without ``previous``
    the first frame counts as moving, and so does a frame that changes everywhere alike: weight 1.
    """
    change = latent_difference(latents, latents[:, 0] if previous is None else previous, patch)
    weights = normalise(change, "min-max", floor, power)
    alike = change.amax(dim=1) == change.amin(dim=1)
    return torch.where(alike.unsqueeze(1), 1.0, weights).flatten()
