"""Cases of whole runs: our plan, loop, solver, policy and adapter, from stored noise, with the stand-in VAE."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from motioncache_core.config import CacheConfig
from motioncache_core.events import CallEvent, Decision
from motioncache_core.kv_cache import KVCache
from motioncache_core.loop import RunState, begin_window, clean_prediction, history_latents, run_window
from motioncache_core.models.skyreels_v2.adapter import BranchRow, NetworkRun, SkyReelsV2Adapter
from motioncache_core.models.skyreels_v2.plan import SamplingSettings, build_plan, latent_length
from motioncache_core.models.skyreels_v2.policy import SkyReelsV2Policy
from motioncache_core.plan import Call, Plan, Window

from ..compare import Restricted
from ..folder import Case
from .network import FRAME_RATES, Tap, build, dtype_of
from .records import GroupEvent, arrays_of, records_of, statistics
from .units import WEIGHT_NORMS, coefficients_of

LAST_WINDOW_ONLY = "final_latents_* of the last iteration only"
_VAE = (
    "linear stand-in: decode = vae_decode on channels, each latent pixel 8x8, first latent 1 frame, others 4, clamp to "
    "[-1,1]; encode = means over the same, then vae_encode"
)
_ROLES = (("positive", 0, 0), ("negative", 0, 0))


@dataclass
class _Recording:
    """What a run left behind.

    Args:
        events: one per branch and group that was forwarded.
        finals, prefixes: latents ``[C, F, H, W]`` at the end of every window, and those it was given.
        after_row: latents of the window after every row, by (window, row).
    """

    events: list[GroupEvent] = field(default_factory=list)
    finals: dict[str, Tensor] = field(default_factory=dict)
    prefixes: dict[str, Tensor] = field(default_factory=dict)
    after_row: dict[tuple[int, int], Tensor] = field(default_factory=dict)


def run(case: Case) -> dict[str, object]:
    """Everything that the run's files store."""
    case.expect(
        solver="unipc order 2 bh2, one per latent frame",
        teacache_coefficients_order="highest power first",
        weights_from="hidden state after the last block",
        weights_apply="from the group's next update on; 1 before",
        distance_mode=frozenset({"global", "token"}),
        distance_clamp=None,
        vae=_VAE,
        condition_frames="init_latents_1 already holds the encoded overlap; the noised condition frames of iteration 1 "
        "are frames [0,overlap) of x at its first row",
    )
    recording = _Run(case).record()
    events = sorted(recording.events, key=lambda event: event.place)
    results: dict[str, object] = {"final_latents": recording.finals, "prefix": recording.prefixes}
    if LAST_WINDOW_ONLY in case.compare:
        last = max(recording.finals, key=int)
        results["final_latents"] = Restricted({last: recording.finals[last]})
    if case.settings["token_cache"]:
        results["events"] = records_of(events, case.settings.get("event_columns", []))
        results |= arrays_of(events, per_token=case.settings["distance_mode"] == "token")
    results["out_stats"] = torch.stack([statistics(event.output) for event in events])
    results["latents_stats"] = torch.stack([statistics(x) for _, x in sorted(recording.after_row.items())])
    for name, kept in (("out_sel", "output"), ("hidden_sel", "hidden")):
        if name in case.indices:
            results[name] = torch.stack([getattr(events[i], kept) for i in case.index(name).tolist()])
    if "latents_after_row" in case.indices:
        places = map(tuple, case.index("latents_after_row").tolist())
        results["latents_after_row"] = torch.stack([recording.after_row[place] for place in places])
    return results


class _Run:
    """One run of a case, recorded from outside."""

    def __init__(self, case: Case):
        self.case, self.settings = case, case.settings
        self.dtype = dtype_of(case)
        self.adapter: SkyReelsV2Adapter = build(case)
        self.plan: Plan = build_plan(_sampling_settings(case))
        _agree(case, self.plan)
        self.context = torch.cat([case.input("prompt"), case.input("negative")]).to(self.dtype)
        network, s = self.adapter.network, self.settings
        patch = network.patch_size
        per_frame = -(-s["latent_h"] // patch[1]) * -(-s["latent_w"] // patch[2])
        tokens = self.plan.stored_frames * per_frame
        store = KVCache(len(network.blocks), tokens, network.dim, self.dtype, torch.device("cpu"))
        policy = SkyReelsV2Policy(_cache_config(case), case.quirks) if s["token_cache"] else None
        self.memory = NetworkRun(store, policy)
        self.latest: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))
        """Velocities and hidden states of the last call, an entry per branch."""

    def record(self) -> _Recording:
        s = self.settings
        recording = _Recording()
        state = RunState.new(
            self.plan, 1, self.adapter.network.out_dim, s["latent_h"], s["latent_w"], torch.device("cpu")
        )
        for window in self.plan.windows:
            self._begin(window, state)
            if window.context:
                recording.prefixes[str(window.index)] = state.window[0, :, : window.context].clone()
            for event in run_window(self.plan, window, state, self.memory, self._call, "unipc", self.case.quirks):
                if isinstance(event, CallEvent):
                    recording.events += self._group_events(event)
                    recording.after_row[window.index, event.call.row] = state.window[0].clone()
            recording.finals[str(window.index)] = state.window[0].clone()
        return recording

    def _call(self, call: Call, x: Tensor) -> Tensor:
        timesteps = [part.timestep for part in call.parts for _ in range(part.start, part.stop)]
        rows = [BranchRow(role, prompt=role) for role in _ROLES]
        fps = [[self.settings["fps_index"]] * len(timesteps)] * 2
        with Tap(arguments={"hidden": self.adapter.network.head.norm}) as tap:
            velocity = self.adapter.forward(
                x.repeat(2, 1, 1, 1, 1), self.context, call, rows, self.memory, [timesteps] * 2, fps
            )
        self.latest = velocity, tap.kept["hidden"]
        positive, negative = velocity.chunk(2)
        return clean_prediction(call, x, negative + self.settings["cfg"] * (positive - negative))

    def _group_events(self, event: CallEvent) -> Iterator[GroupEvent]:
        decisions: dict[object, Decision] = {decision.role: decision for decision in event.decisions}
        call = event.call
        if call.kind == "refresh":
            return
        updated = call.kind == "denoise"
        for branch, (role, output, hidden) in enumerate(zip(_ROLES, *self.latest, strict=True)):
            place = (call.window, call.row, branch, call.parts[0].chunk)
            shown = output if updated else torch.zeros_like(output)
            yield GroupEvent(place, updated, decisions.get(role), shown, hidden, self.settings.get("warmup", 0))

    def _begin(self, window: Window, state: RunState) -> None:
        """Lay out a window from the stored noise and the encoded overlap."""
        noise, level_noise, given = self._stored_start(window, state)
        begin_window(self.plan, window, state, self.memory, noise, level_noise, given)
        if window.index and "condition_frames_row0" in self.case.inputs:
            first_row = sum(self.settings["rows_by_iteration"][: window.index])
            shown = self.case.input("condition_frames_row0")[first_row][None, :, : window.context]
            state.history = shown.to(self.dtype)

    def _stored_start(self, window: Window, state: RunState) -> tuple[Tensor, Tensor, Tensor]:
        """(start noise, noise for the given frames, given frames), each ``[1, C, F, H, W]``."""
        key, inputs = str(window.index), self.case.inputs
        if "init_latents" in inputs:
            noise = self.case.input("init_latents")[key][None].to(self.dtype)
            given = noise[:, :, : window.context]
            return noise, torch.zeros_like(given), given
        noise = self.case.input("init_noise")[key][None].to(self.dtype)
        if not window.context:
            given = noise[:, :, :0]
            return noise, given, given
        given = self._through_vae(history_latents(window, state.video))
        return noise, self.case.input("cond_noise")[key][None].to(self.dtype), given

    def _through_vae(self, latents: Tensor) -> Tensor:
        """Decode and encode with the linear stand-in: it maps every latent frame on its own."""
        decode, encode = (self.case.input(name).to(self.dtype) for name in ("vae_decode", "vae_encode"))
        video = torch.einsum("rc,bcfhw->brfhw", decode, latents).clamp(-1, 1)
        return torch.einsum("cr,brfhw->bcfhw", encode, video)


def _agree(case: Case, plan: Plan) -> None:
    """Note what a case tells of its run that is not what its settings make of it."""
    s = case.settings
    rows, columns = (-(-s.get(name, 0) // 2) for name in ("latent_h", "latent_w"))
    window, overlap = (latent_length(s[f"{name}_frames"]) for name in ("window", "overlap"))
    case.expect(
        latent_frames=plan.latent_frames,
        window_latent_frames=window,
        overlap_latent_frames=overlap,
        groups=frozenset({window // s["block"], min(window, plan.latent_frames) // s["block"]}),
        overlap_groups=overlap // s["block"],
        iterations=len(plan.windows),
        rows_by_iteration=[1 + max(c.row for c in plan.calls if c.window == w.index) for w in plan.windows],
        tokens_per_group=s["block"] * rows * columns,
        fps=dict(enumerate(FRAME_RATES)).get(s.get("fps_index")),
    )


def _sampling_settings(case: Case) -> SamplingSettings:
    s = case.settings
    return SamplingSettings(
        frames=s["num_frames"],
        steps=s["steps"],
        shift=s["shift"],
        chunk_frames=s["block"],
        ar_step=s["ar_step"],
        window_frames=s["window_frames"],
        overlap_frames=s["overlap_frames"],
        history_noise=s["addnoise"],
        clean_refresh=s["clean_refresh"],
    )


def _cache_config(case: Case) -> CacheConfig:
    s = case.settings
    voices = s.get("vote_threshold")
    return CacheConfig(
        warmup_steps=s["warmup"],
        chunk_phase_updates=s["phase1_updates"],
        chunk_threshold=s["threshold"],
        token_threshold=s["threshold"],
        motion_floor=s["weight_floor"] or 0.0,
        distance_coefficients=coefficients_of(s),
        weight_norm=WEIGHT_NORMS[s["weight_norm"]],
        vote=voices if s["temporal_vote"] else None,
        min_update_ratio=s["min_update_ratio"],
    )
