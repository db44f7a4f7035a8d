"""What a MAGI-1 run starts from, and what follows from the checkpoint's variant."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ...motioncache_core.flops import TransformerSize
from ...motioncache_core.models.magi1.architecture import VARIANTS
from ...motioncache_core.models.magi1.guidance import Guidance, OnePass, ThreePass
from ...motioncache_core.models.magi1.plan import TEMPORAL, SamplingSettings
from ...motioncache_core.models.magi1.prefix import Aspect, fit_frames
from .latents import SPATIAL, InputError, check_latents, connected_start
from .magi1_model import Magi1Info
from .roles import UnsupportedError

AUTO, THREE_PASS, ONE_PASS = "auto (by model)", "three passes (base)", "one pass (distilled)"
GUIDANCES = [AUTO, THREE_PASS, ONE_PASS]
LAST, FIRST = "last frames", "first frames"
CONTINUED = [LAST, FIRST]
_WANTED_VAE = "connect the one from Load MAGI-1 VAE"
DEFAULT_STEPS = {False: 64, True: 16}
"""Base and distilled models of sizes that are not published."""
OWN_STEPS = sorted({*DEFAULT_STEPS.values(), *(variant.steps for variant in VARIANTS)})
"""What steps 0 may come to."""


def guidance_for(info: Magi1Info, choice: str, nearly_clean: bool) -> tuple[Guidance, str | None]:
    """(passes of a step, a notice if they are not what the model was made for).

    Raises:
        UnsupportedError: the choice is left to the model, and nothing tells whether it is distilled.
    """
    if choice == AUTO and info.distilled is None:
        raise UnsupportedError(
            f"nothing tells whether {info.name} is a base or a distilled model; set guidance to {THREE_PASS!r} or "
            f"{ONE_PASS!r}"
        )
    distilled = info.distilled if choice == AUTO else choice == ONE_PASS
    guidance = OnePass(nearly_clean=nearly_clean) if distilled else ThreePass()
    return guidance, unfit_guidance(info, guidance)


def unfit_guidance(info: Magi1Info, guidance: Guidance, where: str = "") -> str | None:
    """A sentence if a model was not made for these passes.

    Args:
        where: they are chosen, if not on the node that tells.
    """
    distilled = isinstance(guidance, OnePass)
    if info.distilled in (None, distilled):
        return None
    chosen = ONE_PASS if distilled else THREE_PASS
    kind, fit = ("distilled", ONE_PASS) if info.distilled else ("base", THREE_PASS)
    return f"guidance is {chosen!r}, but {info.name} is a {kind} model: expect a broken video. Choose {fit!r}{where}."


def steps_for(info: Magi1Info, guidance: Guidance, steps: int) -> int:
    """``steps``, or for 0 those of the published checkpoint of this kind."""
    distilled = isinstance(guidance, OnePass)
    variant = info.variant(distilled)
    return steps or (variant.steps if variant else DEFAULT_STEPS[distilled])


def checked_steps(steps: int, window: int) -> int:
    """The steps to plan with: for 0 some that a published model has.

    Raises:
        InputError: they do not divide into the window's stages and the parts of the history.
    """
    if window < 1:
        raise InputError(f"window is {window}; it must be at least 1 (nearest: 1)")
    common = math.lcm(window, len(SamplingSettings.history_chunks))
    fitting = [count for count in ([steps] if steps else OWN_STEPS) if count > 0 and count % common == 0]
    if fitting:
        return fitting[0]
    own = "" if steps else f" (the model's own, {', '.join(map(str, OWN_STEPS))})"
    nearest = max(1, round((steps or OWN_STEPS[0]) / common)) * common
    raise InputError(
        f"steps is {steps}{own}; with a window of {window} chunks it must be a multiple of {common} (nearest: "
        f"{nearest})"
    )


def given_frames(
    image: Tensor | None,
    video: Tensor | None,
    latents: dict[str, Tensor] | None,
    vae: Any,
    width: int,
    height: int,
    continue_from: str,
    continue_frames: int,
) -> int:
    """How many latent frames :func:`given_latents` will give, without loading or encoding anything.

    Raises:
        InputError: more than one is connected, the VAE is missing or another model's, or there are too few frames.
    """
    name = connected_start(image, video, latents, vae)
    if name is None:
        return 0
    if latents is not None:
        count = check_latents(latents["samples"], width, height).shape[2]
        if count == 1:
            return 1
        chosen = _chosen(name, count * TEMPORAL, continue_from, continue_frames, TEMPORAL)
        return chosen.stop - chosen.start
    _check_vae(vae)
    if image is not None:
        return 1
    chosen = _chosen(name, video.shape[0], continue_from, continue_frames, 1)
    return (chosen.stop - chosen.start) // TEMPORAL


def given_latents(
    image: Tensor | None,
    video: Tensor | None,
    latents: dict[str, Tensor] | None,
    vae: Any,
    width: int,
    height: int,
    aspect: Aspect,
    continue_from: str,
    continue_frames: int,
) -> Tensor | None:
    """What the video begins with, ``[B, 16, f, h, w]`` VAE latents (f = 1: an image), or ``None``.

    Raises:
        InputError: see :func:`given_frames`; the VAE makes latents of another shape.
    """
    count = given_frames(image, video, latents, vae, width, height, continue_from, continue_frames)
    if not count:
        return None
    if latents is not None:
        samples = latents["samples"]
        if count == 1:
            return samples
        there = samples.shape[2] * TEMPORAL
        return samples[:, :, _chosen("start_latents", there, continue_from, continue_frames, TEMPORAL)]
    if image is None:
        image = video[_chosen("start_video", video.shape[0], continue_from, continue_frames, 1)]
    encoded = vae.encode(fit_frames(image[..., :3], width, height, aspect))
    expected = (16, count, height // SPATIAL, width // SPATIAL)
    if encoded.ndim != 5 or tuple(encoded.shape[1:]) != expected:
        raise InputError(
            f"vae made latents of shape {tuple(encoded.shape)} where MAGI-1 needs {(1, *expected)}: {_WANTED_VAE}"
        )
    return encoded


def _check_vae(vae: Any) -> None:
    """Raise InputError for a VAE that ComfyUI made for another model. Wan's has latents of MAGI-1's shape."""
    network = getattr(vae, "first_stage_model", None)
    if network is not None and type(network).__module__.startswith("comfy."):
        raise InputError(f"vae is another model's ({type(network).__name__}): {_WANTED_VAE}")


def _chosen(name: str, there: int, continue_from: str, wanted: int, unit: int) -> slice:
    """Which frames of ``there`` pixel frames are taken, counted in units of so many."""
    most = there // TEMPORAL * TEMPORAL
    if most < 2 * TEMPORAL:
        raise InputError(f"{name} has {there} frames; at least {2 * TEMPORAL} are needed (one: connect start_image)")
    if wanted % TEMPORAL or not 2 * TEMPORAL <= wanted <= most:
        nearest = min(max(round(wanted / TEMPORAL) * TEMPORAL, 2 * TEMPORAL), most)
        raise InputError(
            f"continue_frames is {wanted}; for the {there} frames of {name} it must be a multiple of {TEMPORAL} from "
            f"{2 * TEMPORAL} to {most} (nearest: {nearest})"
        )
    count, total = wanted // unit, there // unit
    return slice(0, count) if continue_from == FIRST else slice(total - count, total)


def frames_to_make(frames: int, given: int) -> int:
    """Pixel frames behind the given ones. An image is the first of the video's frames; a video comes before them.

    Args:
        given: latent frames; 1: an image.

    Raises:
        InputError: nothing would be left to make.
    """
    if given != 1:
        return frames
    if frames < 2 * TEMPORAL:
        raise InputError(f"frames is {frames}; with a start image it must be at least 8 (nearest: 8)")
    return frames - TEMPORAL


def transformer_size(info: Magi1Info, text_tokens: int) -> TransformerSize:
    """Sizes for the report's FLOPs."""
    sizes = info.architecture
    return TransformerSize(
        width=sizes.dim,
        ffn_width=sizes.ffn_dim,
        layers=sizes.num_layers,
        patch_values=sizes.in_channels * 4,
        text_tokens=text_tokens,
        text_width=sizes.text_dim,
        kv_width=sizes.kv_dim,
        gated=sizes.gated,
        text_hidden=0,
    )
