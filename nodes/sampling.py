"""Making videos chunk by chunk: the Autoregressive sampler, and the same as a SAMPLER object."""

from __future__ import annotations

import copy
import json
import logging
from typing import Any

import comfy.samplers
import latent_preview
import torch
from comfy_api.latest import io
from torch import Tensor

from ..motioncache_core.events import CallEvent, Event
from ..motioncache_core.loop import RunState
from ..motioncache_core.models.skyreels_v2.plan import SamplingSettings, build_plan
from ..motioncache_core.plan import Plan
from ..motioncache_core.solvers import SOLVERS
from ..motioncache_core.trace import Trace
from .host.latents import SPATIAL, InputError, check_latents, encode_images
from .host.live_run import live_run
from .host.memory import count_kv_in
from .host.model_info import for_own_forward
from .host.model_support import attached_config, why_not_served
from .host.notify import notify
from .host.roles import UnsupportedError, lists_in_use, refuse_unsupported
from .host.run_settings import KV_PRECISIONS, active_cache, new_report, term_beside_patch
from .host.runs import PLACES, check_size, listen, run_windows
from .host.sampler import AutoregressiveSampler, RunOfSampler
from .host.session import RunSettings, Session, token_grid
from .host.thumbnails import latent_colours
from .host.versions import advanced, search_aliases

ATTENTIONS = ["chunk-wise", "vanilla full", "vanilla block-causal"]
HISTORIES = ["latents", "re-encode with VAE"]
Decisions = io.Custom("MOTIONCACHE_DECISIONS")

logger = logging.getLogger(__name__)


def schedule_inputs() -> list[io.Input]:
    """Inputs that decide the plan beside length, steps and shift; the same in both nodes."""
    return [
        io.Int.Input(
            "chunk_size",
            default=5,
            min=1,
            max=512,
            tooltip="Latent frames (4 video frames each) that are made together. SkyReels-V2 was trained with 5.",
        ),
        io.Int.Input(
            "ar_step",
            default=5,
            min=0,
            max=1000,
            tooltip="Steps each chunk stays behind the one before it. 0 makes all chunks at once.",
        ),
        io.Int.Input(
            "window",
            default=97,
            min=5,
            max=4097,
            step=4,
            tooltip="Frames that are made together and see each other (1 + a multiple of 4). Longer = more memory.",
        ),
        io.Int.Input(
            "overlap",
            default=17,
            min=1,
            max=4093,
            step=4,
            tooltip="Frames of the previous window that the next one starts from (1 + a multiple of 4).",
        ),
        io.Combo.Input(
            "attention",
            options=ATTENTIONS,
            tooltip="chunk-wise: fast, one chunk a pass. vanilla: the whole window each pass, as the original does.",
        ),
        advanced(
            io.Int.Input(
                "history_noise",
                default=20,
                min=0,
                max=999,
                tooltip="Noise on given frames and history, 0 to 999. Some hides errors, too much forgets the picture.",
            )
        ),
        advanced(
            io.Boolean.Input(
                "clean_refresh",
                default=False,
                tooltip="One more pass for every finished chunk: exact instead of approximate memory, a little slower.",
            )
        ),
        advanced(io.Combo.Input("solver", options=list(SOLVERS), tooltip="unipc is what the model was made for.")),
        advanced(
            io.Combo.Input(
                "kv_precision",
                options=list(KV_PRECISIONS),
                tooltip="Precision of the memory of earlier chunks. fp8 halves it and shifts the picture slightly.",
            )
        ),
        advanced(
            io.Combo.Input(
                "kv_place",
                options=PLACES,
                tooltip="Where the memory of earlier chunks lives. CPU saves graphics memory and is slower.",
            )
        ),
    ]


class MotionCacheAutoregressiveSampler(io.ComfyNode):
    """MODEL + prompts -> a video's LATENT, chunk by chunk, with a report."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheAutoregressiveSampler",
            display_name="Autoregressive sampler",
            category="MotionCache",
            **search_aliases("SkyReels", "KSampler", "diffusion forcing", "long video"),
            description="Makes a video with SkyReels-V2 (diffusion forcing) chunk by chunk, any length.",
            inputs=[
                io.Model.Input("model", tooltip="SkyReels-V2 diffusion forcing, with or without MotionCache."),
                io.Conditioning.Input("positive", tooltip="What the video shows."),
                io.Conditioning.Input("negative", tooltip="What it must not show."),
                io.Int.Input("width", default=960, min=16, max=8192, step=16, tooltip="In pixels."),
                io.Int.Input("height", default=544, min=16, max=8192, step=16, tooltip="In pixels."),
                io.Int.Input(
                    "frames",
                    default=97,
                    min=1,
                    max=100001,
                    step=4,
                    tooltip="Length, 1 + a multiple of 4 (24 a second).",
                ),
                io.Float.Input(
                    "fps", default=24.0, min=1.0, max=120.0, step=1.0, tooltip="Frame rate told to the model."
                ),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True),
                io.Int.Input("steps", default=30, min=1, max=1000, tooltip="Denoising steps of every chunk."),
                io.Float.Input(
                    "guidance",
                    default=6.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How strictly the prompt is followed. 1 = no guidance, half the work.",
                ),
                io.Float.Input(
                    "shift", default=8.0, min=0.01, max=100.0, step=0.1, tooltip="Higher = more steps at strong noise."
                ),
                *schedule_inputs(),
                advanced(
                    io.Combo.Input(
                        "history",
                        options=HISTORIES,
                        tooltip="What a later window starts from: the latents themselves, or (needs vae) decoded and "
                        "encoded again, as the original does.",
                    )
                ),
                io.Image.Input("start_image", optional=True, tooltip="First frame (or 1 + 4k frames). Needs vae."),
                io.Latent.Input("start_latents", optional=True, tooltip="Latents that the video begins with."),
                io.Vae.Input("vae", optional=True, tooltip="For start_image and for re-encoding history."),
            ],
            outputs=[
                io.Latent.Output(display_name="LATENT"),
                io.String.Output(display_name="report", tooltip="Everything that was computed and left out, as JSON."),
                io.String.Output(display_name="summary", tooltip="The report's totals in a few lines."),
                Decisions.Output(display_name="decisions"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls,
        frames: int | None,
        steps: int | None,
        shift: float | None,
        chunk_size: int | None,
        ar_step: int | None,
        window: int | None,
        overlap: int | None,
        history_noise: int | None,
        attention: str | None,
    ) -> bool | str:
        """Plan with what is typed on the node when the graph is queued, before anything loads."""
        values = (frames, steps, shift, chunk_size, ar_step, window, overlap, history_noise, attention)
        if any(value is None for value in values):  # comes from another node
            return True
        try:
            build_plan(
                SamplingSettings(frames, steps, shift, chunk_size, ar_step, window, overlap, history_noise, attention)
            )
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        model: io.Model.Type,
        positive: Any,
        negative: Any,
        width: int,
        height: int,
        frames: int,
        fps: float,
        seed: int,
        steps: int,
        guidance: float,
        shift: float,
        chunk_size: int,
        ar_step: int,
        window: int,
        overlap: int,
        history_noise: int,
        attention: str,
        clean_refresh: bool,
        solver: str,
        kv_precision: str,
        kv_place: str,
        history: str,
        start_image: Tensor | None = None,
        start_latents: dict[str, Tensor] | None = None,
        vae: Any = None,
    ) -> io.NodeOutput:
        node_id = cls.hidden.unique_id if cls.hidden is not None else None
        refusal = why_not_served(model, "skyreels_v2")
        if refusal is not None:
            raise UnsupportedError(refusal)
        check_size(width, height)
        given = _given_frames(start_image, start_latents, vae, history, width, height)
        plan = build_plan(
            SamplingSettings(
                frames=frames,
                steps=steps,
                shift=shift,
                chunk_frames=chunk_size,
                ar_step=ar_step,
                window_frames=window,
                overlap_frames=overlap,
                history_noise=history_noise,
                attention=attention,
                clean_refresh=clean_refresh,
                start_latents=0 if given is None else given.shape[2],
            )
        )
        config = attached_config(model.model_options)
        cache, inactive = active_cache(config, plan, model)
        if inactive is not None:
            notify(node_id, f"MotionCache is not active: {inactive}")
        patched, fps_term = for_own_forward(model, fps)
        settings = RunSettings(seed, solver, cache, fps_term, KV_PRECISIONS[kv_precision], kv_place == "CPU")
        guider = comfy.samplers.CFGGuider(patched)
        guider.set_conds(positive, negative)
        guider.set_cfg(guidance)
        refuse_unsupported(guider.original_conds, patched.model_options, plan)
        lists = lists_in_use(guider, patched.model_options)
        count_kv_in(patched.model_options, plan, settings, lists)
        report = new_report(plan, config, model, positive, inactive)
        latent_size = (height // SPATIAL, width // SPATIAL)
        trace = Trace(plan, *token_grid(*latent_size, patched.model.diffusion_model.patch_size))
        colours = latent_colours(patched.model.latent_format)
        with live_run(node_id, "MotionCacheAutoregressiveSampler", plan, cache, trace, colours) as live:
            state = _new_state(plan, given, latent_size, patched.load_device)
            session = Session(plan, settings, state, listen(report, trace, live))
            encoder = vae if history != HISTORIES[0] else None
            run_windows(session, guider, given, encoder, latent_preview.prepare_callback)
        video = patched.model.process_latent_out(session.state.video).cpu()
        summary = report.text()
        logger.info("MotionCache: %s", summary.replace("\n", "; "))
        ui = {"text": [summary], "motioncache": [live.payload()]}
        return io.NodeOutput({"samples": video}, json.dumps(report.to_json()), summary, trace, ui=ui)


def _given_frames(
    image: Tensor | None, latents: dict[str, Tensor] | None, vae: Any, history: str, width: int, height: int
) -> Tensor | None:
    """Start frames as ``[B, 16, f, h, w]`` VAE latents, or ``None``."""
    if vae is None and (image is not None or history != HISTORIES[0]):
        wanted = "start_image" if image is not None else f"history '{history}'"
        raise InputError(f"{wanted} needs a VAE, but vae is not connected")
    if image is not None and latents is not None:
        raise InputError("start_image and start_latents are both connected; connect one of them")
    if image is not None:
        return encode_images(vae, image, width, height)
    return None if latents is None else check_latents(latents["samples"], width, height)


def _new_state(plan: Plan, given: Tensor | None, size: tuple[int, int], device: torch.device) -> RunState:
    batch = 1 if given is None else given.shape[0]
    return RunState.new(plan, batch, 16, *size, device)


class MotionCacheAutoregressiveSamplerObject(io.ComfyNode):
    """The same as a SAMPLER for SamplerCustomAdvanced and any guider."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheAutoregressiveSamplerObject",
            display_name="Autoregressive sampler (SAMPLER)",
            category="MotionCache",
            **search_aliases("SkyReels", "SamplerCustomAdvanced", "diffusion forcing"),
            description=(
                "For SamplerCustomAdvanced with any guider. Length and size come from the latent, noise levels (and "
                "shift) from SIGMAS, the seed from RandomNoise, cache settings from the guider's MODEL. Leading frames "
                "with noise mask 0 are kept."
            ),
            inputs=[
                io.Float.Input(
                    "fps", default=24.0, min=1.0, max=120.0, step=1.0, tooltip="Frame rate told to the model."
                ),
                *schedule_inputs(),
            ],
            outputs=[io.Sampler.Output(display_name="SAMPLER")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        fps: float,
        chunk_size: int,
        ar_step: int,
        window: int,
        overlap: int,
        history_noise: int,
        attention: str,
        clean_refresh: bool,
        solver: str,
        kv_precision: str,
        kv_place: str,
    ) -> io.NodeOutput:
        node_id = cls.hidden.unique_id if cls.hidden is not None else None
        sampling = SamplingSettings(
            chunk_frames=chunk_size,
            ar_step=ar_step,
            window_frames=window,
            overlap_frames=overlap,
            history_noise=history_noise,
            attention=attention,
            clean_refresh=clean_refresh,
        )

        def prepare(guider: Any, plan: Plan, seed: int, latent_size: tuple[int, int]) -> RunOfSampler:
            model = guider.model_patcher
            refusal = why_not_served(model, "skyreels_v2")
            if refusal is not None:
                raise UnsupportedError(refusal)
            config = attached_config(model.model_options)
            cache, inactive = active_cache(config, plan, model)
            if inactive is not None:
                notify(node_id, f"MotionCache is not active: {inactive}")
            report = new_report(plan, config, model, None, inactive)
            trace = Trace(plan, *token_grid(*latent_size, model.model.diffusion_model.patch_size))
            colours = latent_colours(model.model.latent_format)
            kind = "MotionCacheAutoregressiveSamplerObject"
            live = live_run(node_id, kind, plan, cache, trace, colours)
            heard = listen(report, trace, live)

            def told(event: Event) -> None:
                heard(event)
                if isinstance(event, CallEvent) and event.call is plan.calls[-1]:
                    notify(node_id, report.text())

            term = term_beside_patch(model, fps)
            settings = RunSettings(seed, solver, cache, term, KV_PRECISIONS[kv_precision], kv_place == "CPU")
            return RunOfSampler(settings, told, live)

        return io.NodeOutput(AutoregressiveSampler(copy.copy(sampling), prepare))


NODES = [MotionCacheAutoregressiveSampler, MotionCacheAutoregressiveSamplerObject]
