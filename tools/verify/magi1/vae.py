"""Cases of the VAE: one tile, videos in tiles, a run's prefix and frames, files brought to a run's size and rate."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from motioncache_core.models.magi1.prefix import ASPECTS, fit_frames
from motioncache_core.models.magi1.vae import AttentionFunction, Magi1Vae, sample
from motioncache_core.models.magi1.vae_config import config_from
from motioncache_core.models.magi1.vae_tiling import ONE_FRAME_QUIRK, SCALE_FACTOR, TiledVae, Tiling

from ..check import Kind
from ..folder import Case, CaseError
from .continuation import continued_frames, frames_at_rate

_SELECTIONS = {
    "first": "first 32 frames",
    "last": "after conversion to fps: the last whole seconds, at most 5; the last single frame if shorter than 1 s",
}


def encode(case: Case) -> dict[str, Tensor]:
    """Moments of one tile, their mean, and a draw with the stored noise."""
    _expect(case, sample="mean + exp(0.5 clamp(logvar, -30, 20)) * noise", shape=list(case.input("video_u8").shape))
    case.expect(single_image_rule="the frame is repeated 4 times" if case.settings["single_image"] else None)
    network = _network(case)
    moments = network.moments(_video(case))
    if case.settings["single_image"]:
        moments = moments[:, :, :1]
    return {
        "moments": moments,
        "mean": moments.chunk(2, dim=1)[0],
        "sample": sample(moments, case.input("noise")),
    }


def decode(case: Case) -> dict[str, Tensor]:
    """Pixels of one tile."""
    latent, single = case.input("latent"), case.settings["single_image"]
    _expect(case, latent_dtype="float32", shape=list(latent.shape))
    case.expect(single_image_rule="first frame only" if single else None)
    video = _network(case, decoding=True).decode(latent, single_image=single)
    case.expect(out_frames=video.shape[2])
    return {"video": video}


def tiled_encode(case: Case) -> dict[str, Tensor]:
    """Latents of a video in tiles."""
    _expect(case, blend="in place, against neighbours that are already blended")
    case.expect(single_frame_tile="repeated 4 times")
    video = _video(case)
    latent = TiledVae(_network(case), _tiling(case, video)).encode(video)
    case.expect(out_shape=list(latent.shape))
    return {"latent": latent}


def tiled_decode(case: Case) -> dict[str, Tensor]:
    """Pixels of a video in tiles."""
    _expect(case, blend="against the raw neighbours")
    latent = case.input("latent")
    network = _network(case, decoding=True)
    video = TiledVae(network, _tiling(case, latent)).decode(latent, quirks=case.quirks)
    case.expect(out_shape=list(video.shape))
    return {"video": video}


def prefix_latent(case: Case) -> dict[str, Tensor]:
    """Scaled latents of frames, as a run starts from them."""
    _expect(case, scale_factor=SCALE_FACTOR, rule="mean(encode(u8 / 127.5 - 1)) * scale_factor")
    frames = case.input("video_thwc_u8").movedim(-1, 0).unsqueeze(0)
    video = (frames.float() / 127.5 - 1).to(_dtype(case))
    return {"latent": TiledVae(_network(case), _tiling(case, video)).encode(video) * SCALE_FACTOR}


def frames(case: Case) -> dict[str, Tensor]:
    """Bytes of the frames of a scaled chunk."""
    rule = "clamp(decode(chunk / scale_factor) * 127.5 + 127.5, 0, 255), truncated to uint8"
    _expect(case, scale_factor=SCALE_FACTOR, rule=rule)
    chunk = case.input("chunk") / SCALE_FACTOR
    video = TiledVae(_network(case, decoding=True), _tiling(case, chunk)).decode(chunk, quirks=case.quirks)
    return {"frames_tchw_u8": (video[0] * 127.5 + 127.5).clamp(0, 255).to(torch.uint8).movedim(1, 0)}


def preprocess_image(case: Case) -> dict[str, Tensor]:
    """A picture brought to the size of a run."""
    from PIL import Image

    s = case.settings
    given = s.get("aspect_given", s["aspect"])
    case.expect(aspect=given if given in ASPECTS else "fit")  # the reference stretches where it does not know the word
    with Image.open(case.input("file")) as picture:
        pixels = torch.from_numpy(np.array(picture.convert("RGB")))
    if tuple(pixels.shape[:2]) != (s["input_height"], s["input_width"]):
        raise CaseError(f"the picture is {pixels.shape[1]} x {pixels.shape[0]}, not as the settings say")
    return {"frames": _bytes(fit_frames(pixels.unsqueeze(0).float() / 255, s["width"], s["height"], s["aspect"]))}


def preprocess_video(case: Case) -> dict[str, Tensor]:
    """The frames of a file that a run continues from, at its size and rate."""
    import av

    s = case.settings
    case.expect(aspect="fit", max_seconds=None if s["select"] == "first" else 5)
    with av.open(str(case.input("file"))) as file:
        stream = file.streams.video[0]
        decoded = list(file.decode(stream))
        times = [float(frame.pts * stream.time_base) for frame in decoded]
        end = times[-1] + float(decoded[-1].duration * stream.time_base)
        pixels = torch.from_numpy(np.stack([frame.to_ndarray(format="rgb24") for frame in decoded]))
    shown = frames_at_rate(times, end, s["fps"])
    kept = [shown[i] for i in continued_frames(len(shown), s["fps"], s["select"])]
    case.expect(frames=len(kept), rule=_SELECTIONS[s["select"]])
    return {"frames": _bytes(fit_frames(pixels[kept].float() / 255, s["width"], s["height"]))}


_SCALER = frozenset({"scaler"})
"""What resized the stored pixels; ours is another one, which the tolerance allows for."""

KINDS = {
    "vae.encode": Kind(encode, told=frozenset({"sample_seed"})),
    "vae.decode": Kind(decode),
    "vae.tiled_encode": Kind(tiled_encode),
    "vae.tiled_decode": Kind(tiled_decode, quirks=frozenset({ONE_FRAME_QUIRK})),
    "vae.prefix_latent": Kind(prefix_latent),
    "vae.frames": Kind(frames, quirks=frozenset({ONE_FRAME_QUIRK})),
    "vae.preprocess_image": Kind(preprocess_image, told=_SCALER),
    "vae.preprocess_video": Kind(preprocess_video, told=_SCALER),
}


def _expect(case: Case, **facts: object) -> None:
    case.expect(input="u8 / 127.5 - 1, then cast", temporal_overlap=0, **facts)


def _dtype(case: Case) -> torch.dtype:
    return getattr(torch, case.record["dtype"])


def _video(case: Case) -> Tensor:
    return (case.input("video_u8").float() / 127.5 - 1).to(_dtype(case))


def _bytes(pixels: Tensor) -> Tensor:
    return (pixels * 255).round().to(torch.uint8)


def _network(case: Case, decoding: bool = False) -> Magi1Vae:
    """The case's VAE. ComfyUI must be importable."""
    import comfy.ops

    dtype = _dtype(case)
    if decoding and case.settings["autocast"] != {torch.float32: None, torch.bfloat16: "bfloat16"}[dtype]:
        raise CaseError(f"setting autocast is {case.settings['autocast']!r}, which does not belong to {dtype}")
    # the stand-in for flash attention that made the data ran under autocast when it decoded
    attention = attention_in(dtype if decoding else torch.float32)
    network = Magi1Vae(config_from(case.config), operations=comfy.ops.manual_cast, attention=attention, dtype=dtype)
    network.load_state_dict(case.weights())
    return network.eval().requires_grad_(False)


def attention_in(dtype: torch.dtype) -> AttentionFunction:
    """Softmax in float32 between two matrix products in ``dtype``; the result has the queries' dtype."""

    def attention(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
        q, k, v = (t.unflatten(2, (heads, -1)).transpose(1, 2).to(dtype) for t in (queries, keys, values))
        weights = nn.functional.softmax((q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5, dim=-1)
        return (weights.to(dtype) @ v).transpose(1, 2).flatten(2).to(queries.dtype)

    return attention


def _tiling(case: Case, volume: Tensor) -> Tiling:
    """The case's tiles; without tiling in space one tile covers the volume."""
    s = case.settings
    blend = {"as dtype": _dtype(case), "float32, rounded once": torch.float32}[s.get("blend_dtype", "as dtype")]
    tiles = Tiling(s["tile_frames"], s["tile_h"], s["tile_w"], s["spatial_overlap"], blend)
    if s.get("spatial_tiling", True):
        return tiles
    side = case.config["patch_size"]
    return Tiling(s["tile_frames"], volume.shape[3] * side, volume.shape[4] * side, 0.0, blend)
