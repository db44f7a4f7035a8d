"""Making videos chunk by chunk: the Autoregressive sampler, and the same as a SAMPLER object."""

from __future__ import annotations

import copy
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
from .host.checked_inputs import judged, wrong_value
from .host.latents import SPATIAL, InputError, check_latents, encode_images
from .host.live_run import HIDDEN, Node
from .host.memory import count_kv_in
from .host.model_info import for_own_forward
from .host.model_support import refuse_foreign_model
from .host.notify import notify
from .host.outcome import finished_run, run_outputs
from .host.roles import lists_in_use, refuse_unsupported
from .host.run_inputs import seed_input, size_inputs, store_inputs
from .host.run_settings import KV_PRECISIONS, term_beside_patch
from .host.runs import check_size, run_windows
from .host.sampler import AutoregressiveSampler, RunOfSampler
from .host.session import RunSettings, Session
from .host.skyreels_run import new_run
from .host.versions import advanced, search_aliases

ATTENTIONS = ["chunk-wise", "vanilla full", "vanilla block-causal"]
LATENTS, REENCODE, SLIDING = "latents", "re-encode with VAE", "sliding window"
HISTORIES = [LATENTS, REENCODE, SLIDING]


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
        *store_inputs("shifts the picture slightly"),
    ]


def _fps_input() -> io.Input:
    return io.Float.Input("fps", default=24.0, min=1.0, max=120.0, step=1.0, tooltip="Frame rate told to the model.")


def own_inputs() -> dict[str, io.Input]:
    """Inputs of a SkyReels-V2 run that are the same wherever one is set up, by id, with :func:`schedule_inputs`."""
    inputs = [
        *size_inputs(960, 544),
        _fps_input(),
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
    ]
    return {one.id: one for one in inputs}


class MotionCacheAutoregressiveSampler(io.ComfyNode):
    """MODEL + prompts -> a video's LATENT, chunk by chunk, with a report."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        own = own_inputs()
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
                own["width"],
                own["height"],
                io.Int.Input(
                    "frames",
                    default=97,
                    min=1,
                    max=100001,
                    step=4,
                    tooltip="Length, 1 + a multiple of 4 (24 a second).",
                ),
                own["fps"],
                seed_input(),
                *(own[name] for name in ("steps", "guidance", "shift")),
                *schedule_inputs(),
                advanced(
                    io.Combo.Input(
                        "history",
                        options=HISTORIES,
                        tooltip="What a later window starts from: the latents themselves, or (needs vae) decoded and "
                        "encoded again, as the original does. Sliding: one take, no overlap windows.",
                    )
                ),
                io.Image.Input("start_image", optional=True, tooltip="First frame (or 1 + 4k frames). Needs vae."),
                io.Latent.Input("start_latents", optional=True, tooltip="Latents that the video begins with."),
                io.Vae.Input("vae", optional=True, tooltip="For start_image and for re-encoding history."),
            ],
            outputs=run_outputs(),
            hidden=HIDDEN,
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
        solver: str | None = None,
        kv_precision: str | None = None,
        kv_place: str | None = None,
        history: str | None = LATENTS,
    ) -> bool | str:
        """Plan with what is typed on the node when the graph is queued, before anything loads."""
        needed = {
            "frames": frames,
            "steps": steps,
            "shift": shift,
            "chunk_size": chunk_size,
            "ar_step": ar_step,
            "window": window,
            "overlap": overlap,
            "history_noise": history_noise,
            "attention": attention,
            "history": history,
        }
        others = {"solver": solver, "kv_precision": kv_precision, "kv_place": kv_place}

        def plan() -> None:
            numbers = (frames, steps, shift, chunk_size, ar_step, window, overlap, history_noise)
            build_plan(SamplingSettings(*numbers, attention, sliding=history == SLIDING))

        return judged(cls, needed, others, plan)

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
        node = Node.of(cls.hidden, "MotionCacheAutoregressiveSampler")
        refuse_foreign_model(model, "skyreels_v2")
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
                sliding=history == SLIDING,
            )
        )
        patched, fps_term = for_own_forward(model, fps)
        settings = RunSettings(seed, solver, None, fps_term, KV_PRECISIONS[kv_precision], kv_place == "CPU")
        latent_size = (height // SPATIAL, width // SPATIAL)
        run = new_run(node, model, plan, latent_size, settings, positive)
        guider = comfy.samplers.CFGGuider(patched)
        guider.set_conds(positive, negative)
        guider.set_cfg(guidance)
        refuse_unsupported(guider.original_conds, patched.model_options, plan)
        lists = lists_in_use(guider, patched.model_options)
        count_kv_in(patched.model_options, plan, run.settings, lists)
        with run.live:
            state = _new_state(plan, given, latent_size, patched.load_device)
            session = Session(plan, run.settings, state, run.heard)
            encoder = vae if history == REENCODE else None
            run_windows(session, guider, given, encoder, latent_preview.prepare_callback)
        video = patched.model.process_latent_out(session.state.video).cpu()
        return finished_run(video, run.report, run.trace, run.live.payload())


def _given_frames(
    image: Tensor | None, latents: dict[str, Tensor] | None, vae: Any, history: str, width: int, height: int
) -> Tensor | None:
    """Start frames as ``[B, 16, f, h, w]`` VAE latents, or ``None``."""
    if vae is None and (image is not None or history == REENCODE):
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
                _fps_input(),
                *schedule_inputs(),
            ],
            outputs=[io.Sampler.Output(display_name="SAMPLER")],
            hidden=HIDDEN,
        )

    @classmethod
    def validate_inputs(
        cls, attention: str | None, solver: str | None, kv_precision: str | None, kv_place: str | None
    ) -> bool | str:
        """Refuse unknown names when the graph is queued."""
        choices = {"attention": attention, "solver": solver, "kv_precision": kv_precision, "kv_place": kv_place}
        return wrong_value(cls, **choices) or True

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
        node = Node.of(cls.hidden, "MotionCacheAutoregressiveSamplerObject")
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
            refuse_foreign_model(model, "skyreels_v2")
            term = term_beside_patch(model, fps)
            settings = RunSettings(seed, solver, None, term, KV_PRECISIONS[kv_precision], kv_place == "CPU")
            run = new_run(node, model, plan, latent_size, settings)

            def told(event: Event) -> None:
                run.heard(event)
                if isinstance(event, CallEvent) and event.call is plan.calls[-1]:
                    notify(node.id, run.report.text())

            return RunOfSampler(run.settings, told, run.live)

        return io.NodeOutput(AutoregressiveSampler(copy.copy(sampling), prepare))


NODES = [MotionCacheAutoregressiveSampler, MotionCacheAutoregressiveSamplerObject]
