"""Beginning a video that grows chunk by chunk: a take of SkyReels-V2 or of MAGI-1."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..motioncache_core.models.magi1.growth import Magi1Growth
from ..motioncache_core.models.magi1.plan import SamplingSettings as Magi1Settings
from ..motioncache_core.models.skyreels_v2.growth import SkyReelsV2Growth
from ..motioncache_core.models.skyreels_v2.plan import SamplingSettings, latent_length, pixel_length
from .host.checked_inputs import checked_inputs, judged
from .host.latents import SPATIAL, InputError, check_latents, connected_start, encode_images
from .host.magi1_inputs import checked_steps, given_frames, given_latents, guidance_for, steps_for
from .host.model_support import refuse_foreign_model
from .host.notify import notify
from .host.runs import check_size
from .host.take_magi1 import Magi1Take
from .host.take_skyreels import SkyReelsV2Take
from .host.takes import KEPT, Take
from .host.versions import advanced, search_aliases
from .magi1_sampling import MEMORY, PLAN, SOCKETS, START
from .magi1_sampling import own_inputs as magi1_inputs
from .sampling import own_inputs as skyreels_inputs
from .takes import VideoTake

DESCRIPTION = "Begins a video that grows chunk by chunk: add chunks with Generate chunks, end with Finish video."

TAKE_TOOLTIPS = {
    "ar_step": "Steps each chunk stays behind the one before it, at least 1. More = it sees that one cleaner, and "
    "fewer chunks are in flight.",
    "window": "Frames that a chunk sees, its own among them (1 + a multiple of 4). Longer = steadier, more memory.",
}
"""By input: what it does in a take, where that is not what it does in a sampler."""


def _kept_input() -> io.Input:
    return advanced(
        io.Combo.Input(
            "keep",
            options=list(KEPT),
            tooltip="How the memory of earlier chunks rests between nodes: 'as computed' is exact, fp8 halves it, "
            "'finished chunks' is small (chunks in work compute one step in full per node), 'nothing' is smallest and "
            "least exact.",
        )
    )


def _in_a_take(inputs: dict[str, io.Input], *names: str) -> list[io.Input]:
    """Some of a sampler's inputs, with what they mean in a take."""
    for name in names:
        inputs[name].tooltip = TAKE_TOOLTIPS.get(name, inputs[name].tooltip)
    return [inputs[name] for name in names]


def _seed_input() -> io.Input:
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=0xFFFFFFFFFFFFFFFF,
        control_after_generate=True,
        tooltip="The noise of all chunks that do not bring a seed of their own.",
    )


class MotionCacheBeginVideo(io.ComfyNode):
    """A take of SkyReels-V2, nothing made yet."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        own = skyreels_inputs()
        return io.Schema(
            node_id="MotionCacheBeginVideo",
            display_name="Begin video (SkyReels-V2)",
            category="MotionCache/storyboard",
            **search_aliases("storyboard", "long video", "take", "image to video", "extend video"),
            description=DESCRIPTION,
            inputs=[
                io.Model.Input("model", tooltip="SkyReels-V2 diffusion forcing, with or without MotionCache."),
                *_in_a_take(own, "width", "height", "fps"),
                _seed_input(),
                *_in_a_take(own, "steps", "shift", "chunk_size", "ar_step", "window", "history_noise"),
                *_in_a_take(own, "clean_refresh", "solver", "kv_precision", "kv_place"),
                _kept_input(),
                io.Int.Input(
                    "continue_frames",
                    default=17,
                    min=1,
                    max=4093,
                    step=4,
                    tooltip="How many of the last frames of start_video the new ones go on from (1 + a multiple of 4).",
                ),
                io.Image.Input("start_image", optional=True, tooltip="First frame. Needs vae."),
                io.Image.Input("start_video", optional=True, tooltip="A video to go on from. Needs vae."),
                io.Latent.Input("start_latents", optional=True, tooltip="Latents that the video begins with."),
                io.Vae.Input("vae", optional=True, tooltip="For start_image and start_video."),
            ],
            outputs=[VideoTake.Output(display_name="take")],
        )

    @classmethod
    def validate_inputs(
        cls,
        width: int | None,
        height: int | None,
        steps: int | None,
        shift: float | None,
        chunk_size: int | None,
        ar_step: int | None,
        window: int | None,
        history_noise: int | None,
        solver: str | None = None,
        kv_precision: str | None = None,
        kv_place: str | None = None,
        keep: str | None = None,
    ) -> bool | str:
        """Plan with what is typed on the node when the graph is queued, before anything loads."""
        needed = {
            "width": width,
            "height": height,
            "steps": steps,
            "shift": shift,
            "chunk_size": chunk_size,
            "ar_step": ar_step,
            "window": window,
            "history_noise": history_noise,
        }
        others = {"solver": solver, "kv_precision": kv_precision, "kv_place": kv_place, "keep": keep}

        def plan() -> None:
            check_size(width, height)
            _growth(steps, shift, chunk_size, ar_step, window, history_noise, False).plan(1)

        return judged(cls, needed, others, plan)

    @classmethod
    def execute(
        cls,
        model: io.Model.Type,
        width: int,
        height: int,
        fps: float,
        seed: int,
        steps: int,
        shift: float,
        chunk_size: int,
        ar_step: int,
        window: int,
        history_noise: int,
        clean_refresh: bool,
        solver: str,
        kv_precision: str,
        kv_place: str,
        keep: str,
        continue_frames: int = 17,
        start_image: Tensor | None = None,
        start_video: Tensor | None = None,
        start_latents: dict[str, Tensor] | None = None,
        vae: Any = None,
    ) -> io.NodeOutput:
        refuse_foreign_model(model, "skyreels_v2")
        checked_inputs(cls, {"solver": solver, "kv_precision": kv_precision, "kv_place": kv_place, "keep": keep})
        check_size(width, height)
        given = _start(start_image, start_video, start_latents, vae, width, height, continue_frames)
        start = 0 if given is None else given.shape[2]
        growth = _growth(steps, shift, chunk_size, ar_step, window, history_noise, clean_refresh, start)
        growth.plan(1)
        settings = SkyReelsV2Take(
            growth=growth,
            width=width,
            height=height,
            batch=1 if given is None else given.shape[0],
            seed=seed,
            kv_precision=kv_precision,
            kv_on_cpu=kv_place == "CPU",
            keep=keep,
            fps=fps,
            solver=solver,
        )
        return io.NodeOutput(Take(settings, model, None if given is None else given.cpu()))


def _growth(
    steps: int,
    shift: float,
    chunk_size: int,
    ar_step: int,
    window: int,
    history_noise: int,
    clean_refresh: bool,
    start_latents: int = 0,
) -> SkyReelsV2Growth:
    return SkyReelsV2Growth(
        SamplingSettings(
            steps=steps,
            shift=shift,
            chunk_frames=chunk_size,
            ar_step=ar_step,
            window_frames=window,
            history_noise=history_noise,
            clean_refresh=clean_refresh,
            start_latents=start_latents,
        )
    )


def _start(
    image: Tensor | None,
    video: Tensor | None,
    latents: dict[str, Tensor] | None,
    vae: Any,
    width: int,
    height: int,
    wanted: int,
) -> Tensor | None:
    """What a SkyReels-V2 take begins with, ``[B, 16, f, h, w]`` VAE latents, or ``None``."""
    if connected_start(image, video, latents, vae) is None:
        return None
    if latents is not None:
        return check_latents(latents["samples"], width, height)
    if image is not None:
        return encode_images(vae, image, width, height)
    most = pixel_length(latent_length(video.shape[0]))
    if wanted > most or (wanted - 1) % 4:
        nearest = min(pixel_length(latent_length(wanted)), most)
        raise InputError(
            f"continue_frames is {wanted}; for the {video.shape[0]} frames of start_video it must be 1 + a multiple "
            f"of 4, at most {most} (nearest: {nearest})"
        )
    return encode_images(vae, video[-wanted:], width, height)


class MotionCacheBeginMagi1Video(io.ComfyNode):
    """A take of MAGI-1, nothing made yet."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        own = magi1_inputs()
        return io.Schema(
            node_id="MotionCacheBeginMagi1Video",
            display_name="Begin video (MAGI-1)",
            category="MotionCache/storyboard",
            **search_aliases("storyboard", "long video", "take", "MAGI", "extend video"),
            description=DESCRIPTION,
            inputs=[
                io.Model.Input("model", tooltip="MAGI-1, with or without MotionCache."),
                own["width"],
                own["height"],
                _seed_input(),
                *(own[name] for name in PLAN if name not in ("attention", "steady_oldest")),
                io.Int.Input(
                    "declared_chunks",
                    default=0,
                    min=0,
                    max=10000,
                    tooltip="How many chunks the video is to have in the end, for MAGI-1's duration token. 0: open, "
                    "the token is off.",
                ),
                own["steady_oldest"],
                *(own[name] for name in MEMORY),
                _kept_input(),
                *(own[name] for name in (*START, *SOCKETS)),
            ],
            outputs=[VideoTake.Output(display_name="take")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls,
        width: int | None,
        height: int | None,
        steps: int | None,
        shift: float | None,
        window: int | None,
        guidance: str | None = None,
        kv_precision: str | None = None,
        kv_place: str | None = None,
        keep: str | None = None,
        continue_from: str | None = None,
        aspect: str | None = None,
    ) -> bool | str:
        """Plan with what is typed on the node when the graph is queued, before anything loads."""
        needed = {"width": width, "height": height, "steps": steps, "shift": shift, "window": window}
        others = {"guidance": guidance, "keep": keep, "continue_from": continue_from, "aspect": aspect}

        def plan() -> None:
            check_size(width, height, 2 * SPATIAL)
            _magi1_growth(steps, shift, window).plan(1)

        return judged(cls, needed, {**others, "kv_precision": kv_precision, "kv_place": kv_place}, plan)

    @classmethod
    def execute(
        cls,
        model: io.Model.Type,
        width: int,
        height: int,
        seed: int,
        steps: int,
        shift: float,
        window: int,
        guidance: str,
        clean_refresh: bool,
        declared_chunks: int,
        steady_oldest: bool,
        kv_precision: str,
        kv_place: str,
        keep: str,
        continue_from: str,
        continue_frames: int,
        aspect: str,
        start_image: Tensor | None = None,
        start_video: Tensor | None = None,
        start_latents: dict[str, Tensor] | None = None,
        vae: Any = None,
    ) -> io.NodeOutput:
        refuse_foreign_model(model, "magi1")
        checked_inputs(cls, {"kv_precision": kv_precision, "kv_place": kv_place, "keep": keep})
        check_size(width, height, 2 * SPATIAL)
        info = model.model.info
        passes, notice = guidance_for(info, guidance, steady_oldest)
        if notice:
            notify(cls.hidden.unique_id if cls.hidden is not None else None, notice)
        growth = _magi1_growth(
            steps_for(info, passes, steps),
            shift,
            window,
            clean_refresh=clean_refresh,
            guidance=passes,
            start_latents=given_frames(
                start_image, start_video, start_latents, vae, width, height, continue_from, continue_frames
            ),
        )
        growth.plan(1)
        given = given_latents(
            start_image, start_video, start_latents, vae, width, height, aspect, continue_from, continue_frames
        )
        settings = Magi1Take(
            growth=growth,
            width=width,
            height=height,
            batch=1 if given is None else given.shape[0],
            seed=seed,
            kv_precision=kv_precision,
            kv_on_cpu=kv_place == "CPU",
            keep=keep,
            declared=declared_chunks,
            vae=vae,
        )
        return io.NodeOutput(Take(settings, model, None if given is None else given.cpu()))


def _magi1_growth(steps: int, shift: float, window: int, **more: Any) -> Magi1Growth:
    steps = checked_steps(steps, window)
    return Magi1Growth(Magi1Settings(steps=steps, shift=shift, window_chunks=window, **more))


NODES = [MotionCacheBeginVideo, MotionCacheBeginMagi1Video]
