"""Cases of one whole forward, full or block-causal, with inner tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from motioncache_core.models.skyreels_v2.adapter import BranchRow, NetworkRun
from motioncache_core.models.skyreels_v2.levels import Levels
from motioncache_core.models.skyreels_v2.schedule import chunk_sizes
from motioncache_core.plan import Call, Part

from ..folder import Case, CaseError
from .network import FRAME_RATES, Tap, build, dtype_of


def call_of(bounds: list[tuple[int, int]], *, first_place: int = 0, writes: bool, causal: bool) -> Call:
    """A call over adjacent chunks. Timesteps go to the adapter frame by frame, so the parts hold none."""
    parts = tuple(Part(first_place + i, start, stop, 0, 0.0, 0.0, 0) for i, (start, stop) in enumerate(bounds))
    return Call(0, "denoise", 0, 0, parts, 0.0, (0, parts[-1].stop), writes, causal)


def bounds_of(sizes: list[int]) -> list[tuple[int, int]]:
    """First and one past the last latent frame of every chunk."""
    return [(sum(sizes[:i]), sum(sizes[: i + 1])) for i in range(len(sizes))]


def frame_rates(case: Case, samples: int, frames: int) -> list[tuple[int, ...]]:
    """Frame-rate index of every latent frame of every sample; 0 where the model takes none."""
    given = case.settings.get("fps_index")
    if given is not None:
        case.expect(fps=[FRAME_RATES[i] for i in given] if isinstance(given, list) else FRAME_RATES[given])
    else:
        case.expect(fps=None)
    given = [0 if given is None else given] * samples if not isinstance(given, list) else given
    if len(given) != samples:
        raise CaseError(f"setting fps_index has {len(given)} entries for a batch of {samples}")
    return frame_rate_of_frames(given, frames, case.quirks)


def frame_rate_of_frames(
    fps: Sequence[int], frames: int, quirks: frozenset[str] = frozenset()
) -> list[tuple[int, ...]]:
    """For every sample the frame-rate index of each latent frame.

    Quirk ``fps_wrong_order``: the indices are repeated sample by sample instead of frame by frame.
    """
    if "fps_wrong_order" not in quirks:
        return [(index,) * frames for index in fps]
    samples = len(fps)
    return [tuple(fps[(sample * frames + frame) % samples] for frame in range(frames)) for sample in range(samples)]


def expect_shape(case: Case, x: Tensor, timesteps: Tensor) -> None:
    """Note where a case tells another size of its batch ``[B, C, F, H, W]`` than it holds."""
    samples, _, frames, height, width = x.shape
    levels = "one per frame" if timesteps.ndim == 2 else "one per batch entry"
    case.expect(batch=samples, latent_frames=frames, latent_h=height, latent_w=width, timestep=levels)


def forward(case: Case) -> dict[str, Tensor]:
    """The velocity, and what the network held on the way."""
    attention = case.settings["attention"]
    if attention not in ("full", "block-causal"):
        raise CaseError(f"setting attention is {attention!r}; known are 'full' and 'block-causal'")
    adapter, dtype = build(case), dtype_of(case)
    x, context, t = case.input("x").to(dtype), case.input("context").to(dtype), case.input("t")
    samples, frames = x.shape[0], x.shape[2]
    expect_shape(case, x, t)
    network = adapter.network
    case.expect(
        rope={
            "grid": [size // patch for size, patch in zip(x.shape[2:], network.patch_size, strict=True)],
            "head_dim": network.dim // network.num_heads,
            "theta": 10000,
            "axes": "frame: d-4*(d//6), row: 2*(d//6), column: 2*(d//6)",
            "layout": "[token, pair, cos|sin]",
        }
    )
    timesteps = (t if t.ndim == 2 else t.unsqueeze(1).expand(-1, frames)).tolist()
    fps = frame_rates(case, samples, frames)
    sizes = chunk_sizes(frames, case.settings["block"])[0] if attention == "block-causal" else [frames]
    call = call_of(bounds_of(sizes), writes=False, causal=attention == "block-causal")
    run = NetworkRun()
    inner: dict[str, Tensor] = {}

    def recorded(layer: int):  # noqa: ANN202 - ComfyUI's form of a block replacement
        def replacement(args: dict, extra: dict) -> dict[str, Tensor]:
            result = extra["original_block"](args)
            inner[f"block{layer}"] = result["img"].unflatten(1, (samples, -1))[0]
            return result

        return replacement

    with Tap(outputs={"patches": network.patch_embedding, "text": network.text_embedding}) as tap:
        out = adapter.forward(
            x,
            context,
            call,
            [BranchRow(("positive", 0, sample)) for sample in range(samples)],
            run,
            timesteps,
            fps,
            replacements={layer: recorded(layer) for layer in range(len(network.blocks))},
        )
    levels = Levels(network, timesteps, fps, adapter.fps_terms, x)
    index = torch.tensor(levels.index)
    return inner | {
        "out": out,
        "e_per_frame": levels.embedding[index],
        "e0_per_frame": levels.projected[index],
        "patch_tokens": tap.kept["patches"].flatten(2).transpose(1, 2),
        "text_tokens": tap.kept["text"],
        "rope_table": next(iter(run.rotary.values())).squeeze(1),
    }
