"""Decoding bit by bit with ComfyUI's own Wan VAE and with MAGI-1's: equal to a whole decode, flat in memory."""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from motioncache_core.models.magi1.vae_config import VaeConfig, expected_keys
from tools import tiny_checkpoints
from tools.host.environment import REPO

MAGI1_SIZES = {"video_size": 32, "video_length": 8, "patch_size": 8, "patch_length": 4, "z_chans": 16}
MAGI1_SIZES |= {"embed_dim": 256, "depth": 1, "num_heads": 4, "mlp_ratio": 1}
FRAMES = {"random wan": 11, "tiny world": 11, "magi1": 8}
KINDS = list(FRAMES)
SPLITS = {"one by one": [1], "twos": [2], "fives": [5], "mixed": [1, 5, 2, 1, 4], "whole": [99]}


@pytest.fixture(scope="module")
def stream_module(pack: ModuleType) -> ModuleType:
    return importlib.import_module("motioncache.nodes.host.decode_stream")


@pytest.fixture(scope="module")
def vaes(pack: ModuleType) -> dict[str, Any]:
    import comfy.sd

    generator = torch.Generator().manual_seed(3)
    shapes = expected_keys(VaeConfig(**MAGI1_SIZES))
    weights = {key: torch.randn(shape, generator=generator) * 0.15 for key, shape in shapes.items()}
    magi1 = importlib.import_module("motioncache.nodes.host.magi1_vae").Magi1ComfyVae
    config = importlib.import_module("motioncache.motioncache_core.models.magi1.vae_config").VaeConfig(**MAGI1_SIZES)
    world = load_file(REPO / "tiny_world" / "vae" / "tiny_world_wan_vae.safetensors")
    return {
        "random wan": comfy.sd.VAE(sd=tiny_checkpoints.vae(), dtype=torch.float32),
        "tiny world": comfy.sd.VAE(sd=world, dtype=torch.float32),
        "magi1": magi1(weights, config, torch.float32),
    }


@pytest.fixture(scope="module")
def whole(vaes: dict[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
    """(latents, what the stock VAE Decode makes of them) by VAE; two videos each."""
    made = {}
    with torch.inference_mode():
        for name, frames in FRAMES.items():
            width = 25 if name == "magi1" else 8  # two of MAGI-1's tiles side by side
            latents = torch.randn(2, 16, frames, 6, width, generator=torch.Generator().manual_seed(frames))
            made[name] = latents, vaes[name].decode(latents)
    return made


def pieces(latents: Tensor, sizes: list[int]) -> list[Tensor]:
    """The last size goes on to the end."""
    made, begin = [], 0
    while begin < latents.shape[2]:
        size = sizes[min(len(made), len(sizes) - 1)]
        made.append(latents[:, :, begin : begin + size])
        begin += size
    return made


def more(module: ModuleType, vae: Any, stream: Any, latents: Tensor | None, last: bool = False) -> tuple[list, Any]:
    """(pieces of frames, the stream that follows)."""
    decoding = module.Decoding(vae, stream, latents, last=last)
    return list(decoding), decoding.stream


def decode(module: ModuleType, vae: Any, parts: list[Tensor], stream: Any = None) -> tuple[Tensor, Any]:
    """(all frames with those that wait, the stream before the end)."""
    images = []
    for part in parts:
        made, stream = more(module, vae, stream, part)
        images += made
    rest, ended = more(module, vae, stream, None, last=True)
    assert ended.ended and ended.bytes == 0
    return torch.cat([*images, *rest], dim=1), stream


def snapshot(stream: Any) -> list[Any]:
    return [t.clone() if isinstance(t, Tensor) else t for t in (*stream.cache, stream.waiting)]


def same(found: list[Any], expected: list[Any]) -> bool:
    pairs = list(zip(found, expected, strict=True))
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", SPLITS)
def test_pieces_of_any_size_give_the_frames_of_a_whole_decode(stream_module, vaes, whole, kind, split):
    latents, expected = whole[kind]
    found, stream = decode(stream_module, vaes[kind], pieces(latents, SPLITS[split]))
    assert torch.equal(found, expected)
    assert found.dtype == torch.float32
    assert stream.taken == latents.shape[2]
    assert float(expected.std()) > 0.05, "flat frames would prove nothing"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frames", [1, 2, 4])
def test_short_videos(stream_module, vaes, whole, kind, frames):
    latents = whole[kind][0][:1, :, :frames]
    found, _ = decode(stream_module, vaes[kind], pieces(latents, [1]))
    assert torch.equal(found, vaes[kind].decode(latents))


@pytest.mark.parametrize("kind", KINDS)
def test_two_endings_from_one_middle(stream_module, vaes, whole, kind):
    latents, expected = whole[kind]
    vae, other = vaes[kind], latents.flip(2)[:, :, :4]
    images, middle = more(stream_module, vae, None, latents[:, :, :4])
    kept = snapshot(middle)
    first, _ = decode(stream_module, vae, [other], middle)
    second, _ = decode(stream_module, vae, [latents[:, :, 4:6], latents[:, :, 6:]], middle)
    assert same(snapshot(middle), kept)
    assert torch.equal(torch.cat((*images, second), dim=1), expected)
    assert torch.equal(torch.cat((*images, first), dim=1), vae.decode(torch.cat((latents[:, :, :4], other), dim=2)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", [1, 4])
def test_a_stream_goes_through_a_saved_state(stream_module, vaes, whole, kind, at):
    state = importlib.import_module("motioncache.motioncache_core.state")
    latents, expected = whole[kind]
    before, stream = more(stream_module, vaes[kind], None, latents[:, :, :at])
    tensors, data = state.export(stream, (stream_module.DecodeStream,))
    restored = state.restore(tensors, data, (stream_module.DecodeStream,))
    assert (restored.taken, restored.given, restored.size) == (stream.taken, stream.given, stream.size)
    assert sum(t.nbytes for t in tensors.values()) == stream.bytes
    after, _ = decode(stream_module, vaes[kind], [latents[:, :, at:]], restored)
    assert torch.equal(torch.cat((*before, after), dim=1), expected)


def test_what_is_kept_lies_on_the_cpu_and_holds_nothing_else(stream_module, vaes, whole):
    latents, _ = whole["random wan"]
    _, early = more(stream_module, vaes["random wan"], None, latents[:, :, :3])
    _, late = more(stream_module, vaes["random wan"], early, latents[:, :, 3:])
    tensors = [t for t in late.cache if isinstance(t, Tensor)]
    assert len(tensors) > 20
    assert {t.device.type for t in tensors} == {"cpu"}
    assert all(t.untyped_storage().nbytes() == t.nbytes for t in tensors)
    assert early.bytes == late.bytes


def test_frames_come_as_soon_as_they_are_final(stream_module, vaes, whole):
    for kind, expected in (("random wan", [1, 4, 8, 16]), ("magi1", [0, 0, 12, 12])):
        stream, counts = None, []
        for part in pieces(whole[kind][0], [1, 1, 2, 4])[:4]:
            images, stream = more(stream_module, vaes[kind], stream, part)
            counts.append(sum(piece.shape[1] for piece in images))
        assert counts == expected
        assert stream.given == sum(expected)


def test_a_batch_that_does_not_fit_is_decoded_video_by_video(stream_module, vaes, whole, monkeypatch):
    import comfy.model_management

    latents, _ = whole["random wan"]
    vae = vaes["random wan"]
    alone = torch.cat([vae.decode(video) for video in latents.split(1)])
    seen = []
    vae.first_stage_model.decoder.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *args, **kwargs: 1.0)
    found, _ = decode(stream_module, vae, pieces(latents, [3]))
    vae.first_stage_model.decoder._forward_pre_hooks.popitem()
    assert set(seen) == {1}
    assert torch.equal(found, alone)


def test_comfyui_is_asked_for_the_memory_of_a_piece(stream_module, vaes, whole, monkeypatch):
    import comfy.model_management

    vae, asked = vaes["random wan"], []
    load = comfy.model_management.load_models_gpu

    def load_models_gpu(models: list[Any], memory_required: float = 0, **more: Any) -> None:
        asked.append((models, memory_required))
        load(models, memory_required=memory_required, **more)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", load_models_gpu)
    latents, _ = whole["random wan"]
    more(stream_module, vae, None, latents[:, :, :2])
    ((models, bytes_),) = asked
    assert models == [vae.patcher]
    assert bytes_ == vae.memory_used_decode(latents[:, :, :2].shape, torch.float32)


def test_out_of_memory_says_what_to_do(stream_module, vaes, whole, monkeypatch):
    """Memory that has run out cannot be made here; the network raises what PyTorch raises on a GPU."""
    import comfy.model_management

    network = vaes["random wan"].first_stage_model

    def full(*args: Any) -> Tensor:
        raise comfy.model_management.OOM_EXCEPTION("CUDA out of memory")

    monkeypatch.setattr(network.conv2, "forward", full)
    monkeypatch.setattr(stream_module.WanDecoder, "_watched", lambda self: (1, [None]))
    with pytest.raises(comfy.model_management.OOM_EXCEPTION, match=r"frames of 64 x 48 take about \d.* or use VAE Dec"):
        more(stream_module, vaes["random wan"], None, whole["random wan"][0])


def test_interrupting_stops_it(stream_module, vaes, whole):
    import comfy.model_management

    for kind in KINDS:
        comfy.model_management.interrupt_current_processing()
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            more(stream_module, vaes[kind], None, whole[kind][0])


def test_what_does_not_belong_together_is_refused(stream_module, vaes, whole):
    import comfy.sd

    latents = whole["random wan"][0]
    vae = vaes["random wan"]
    _, stream = more(stream_module, vae, None, latents[:, :, :3])
    with pytest.raises(ValueError, match="are 1 x 16 channels of 8 x 6 latents, but the video so far is 2 x 16"):
        more(stream_module, vae, stream, latents[:1])
    with pytest.raises(ValueError, match="so far was decoded by the wan VAE, and vae is a magi1 VAE"):
        more(stream_module, vaes["magi1"], stream, latents)
    wider = comfy.sd.VAE(sd=tiny_checkpoints.vae(dim=12), dtype=torch.float32)
    for other, changed in ((wider, stream), (vae, replace(stream, cache=stream.cache[:-1]))):
        with pytest.raises(ValueError, match="decoded by another VAE or another version of ComfyUI"):
            more(stream_module, other, changed, latents)
    with pytest.raises(ValueError, match="holds features, which MAGI-1's VAE does not make"):
        more(stream_module, vaes["magi1"], replace(stream, family="magi1"), latents)
    with pytest.raises(ValueError, match=r"shape \[2, 16, 6, 8\]; a video is"):
        more(stream_module, vae, None, latents[:, :, 0])
    with pytest.raises(ValueError, match="has 4 channels; this VAE decodes 16"):
        more(stream_module, vae, None, latents[:, :4])
    _, ended = more(stream_module, vae, stream, None, last=True)
    with pytest.raises(ValueError, match="come to its end, no latent can follow"):
        more(stream_module, vae, ended, latents)


def test_other_vaes_are_refused(stream_module):
    import comfy.sd
    from comfy.taesd.taehv import TAEHV

    small = object.__new__(comfy.sd.VAE)
    small.first_stage_model = TAEHV(latent_channels=16)
    with pytest.raises(ValueError, match=r"vae is a TAEHV; .* knows Wan's VAE \(wan_2.1_vae.*MAGI-1's"):
        stream_module.Decoding(small, None, torch.zeros(1, 16, 2, 4, 4), last=True)


def test_a_network_that_takes_several_latent_frames_at_once(stream_module, vaes, whole, monkeypatch):
    """As newer versions of ComfyUI do: 1, 2, 2, ... latent frames, and the decoder returns a list."""
    vae, latents = vaes["tiny world"], whole["tiny world"][0][:1]
    network = vae.first_stage_model
    one_by_one = network.decoder.forward

    def forward(x: Tensor, feat_cache: list, feat_idx: list) -> list[Tensor]:
        return [one_by_one(f, feat_cache=feat_cache, feat_idx=list(feat_idx)) for f in x.split(1, dim=2)]

    def decode_in_pairs(z: Tensor) -> Tensor:
        slots, made = [None] * 40, []
        for part in _pairs(network.conv2(z)):
            made += network.decoder(part, feat_cache=slots, feat_idx=[0])
        return torch.cat(made, dim=2)

    monkeypatch.setattr(network.decoder, "forward", forward)
    monkeypatch.setattr(network, "decode", decode_in_pairs)
    expected = vae.decode(latents)
    stream, counts, images = None, [], []
    for part in pieces(latents, [2, 1, 3, 4, 1]):
        made, stream = more(stream_module, vae, stream, part)
        counts.append(sum(piece.shape[1] for piece in made))
        images += made
    assert counts == [1, 8, 8, 16, 8]
    assert torch.equal(torch.cat(images, dim=1), expected)
    found, stream = decode(stream_module, vae, pieces(latents[:, :, :4], [4]))
    assert torch.equal(found, vae.decode(latents[:, :, :4]))


def _pairs(x: Tensor) -> list[Tensor]:
    return [x[:, :, :1], *(x[:, :, begin : begin + 2] for begin in range(1, x.shape[2], 2))]


def test_a_network_that_decodes_in_another_way_is_refused(stream_module, vaes, whole, monkeypatch):
    network = vaes["random wan"].first_stage_model
    monkeypatch.setattr(network, "decode", lambda z: z)
    with pytest.raises(ValueError, match="in another way than the pack knows; use VAE Decode"):
        more(stream_module, vaes["random wan"], None, whole["random wan"][0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_end_keeps_nothing_and_leaves_the_middle_alone(stream_module, vaes, whole, kind):
    latents, expected = whole[kind]
    first, middle = more(stream_module, vaes[kind], None, latents[:, :, :4])
    held, kept = middle.bytes, snapshot(middle)
    rest, ended = more(stream_module, vaes[kind], middle, latents[:, :, 4:], last=True)
    assert torch.equal(torch.cat((*first, *rest), dim=1), expected)
    assert (ended.bytes, ended.cache, ended.waiting) == (0, (), None)
    assert (ended.taken, ended.given) == (latents.shape[2], expected.shape[1])
    assert held == middle.bytes > 0 and same(snapshot(middle), kept)
    assert more(stream_module, vaes[kind], ended, None, last=True) == ([], ended)


@pytest.mark.parametrize("kind", KINDS)
def test_a_decoding_is_for_one_look(stream_module, vaes, whole, kind):
    decoding = stream_module.Decoding(vaes[kind], None, whole[kind][0][:, :, :4], last=False)
    frames = sum(images.shape[1] for images in decoding)
    stream = decoding.stream
    assert frames == stream.given > 0
    assert list(decoding) == [] and decoding.stream is stream


def test_features_stay_with_the_network_from_piece_to_piece(stream_module, vaes, whole, monkeypatch):
    """Bytes that go to main memory, how often the VAE is made ready, and which features live, while a node decodes."""
    import comfy.model_management

    vae, latents = vaes["random wan"], whole["random wan"][0]
    network, load, keep = vae.first_stage_model, comfy.model_management.load_models_gpu, stream_module._kept
    decoder = importlib.import_module("motioncache.nodes.host.wan_decoder")
    move, moves = decoder._move, []
    loads, kept, watched, entered, alive = [], [], [], [], []

    def load_models_gpu(models: list[Any], **more: Any) -> None:
        loads.append(models)
        load(models, **more)

    def keeping(tensor: Tensor) -> Tensor:
        kept.append(tensor.nbytes)
        return keep(tensor)

    def moving(slots: list[Any], **where: Any) -> None:
        moves.append(where)
        move(slots, **where)

    def watch(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        if args[0].shape[-1] == 1:
            watched.append(args[0].shape[2])
            return
        earlier = [ref() for refs in entered[1:] for ref in refs]  # the first are the stream's own
        alive.extend(slot for slot in earlier if slot is not None)
        entered.append([weakref.ref(slot) for slot in kwargs["feat_cache"] if isinstance(slot, Tensor)])

    monkeypatch.setattr(decoder, "_move", moving)
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", load_models_gpu)
    monkeypatch.setattr(stream_module, "_kept", keeping)
    hook = network.decoder.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        _, stream = more(stream_module, vae, None, latents[:, :, :2])
        held, one_network = stream.bytes, list(watched)
        assert sum(kept) == held
        for record in (loads, kept, moves, watched, entered):
            record.clear()
        images, stream = more(stream_module, vae, stream, latents[:, :, 2:])
        assert [piece.shape[1] for piece in images] == [12, 12, 12]
        assert sum(kept) == stream.bytes == held
        assert moves == [{"device": vae.device, "dtype": vae.vae_dtype}] * 3
        assert len(loads) == 1 and watched == one_network
        assert len(entered) == 9 and not alive, "features of a frame before are still there"
        kept.clear()
        more(stream_module, vae, stream, latents, last=True)
        assert not kept, "what nothing can follow went to main memory"
    finally:
        hook.remove()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc")
def test_memory_does_not_grow_with_length(stream_module, pack, record_property):
    """Resident memory between two pieces early and late in a video; keeping the frames shows that it is seen."""
    import comfy.sd

    vae = comfy.sd.VAE(sd=tiny_checkpoints.vae(dim=4), dtype=torch.float32)
    latents = torch.randn(1, 16, 45, 8, 8, generator=torch.Generator().manual_seed(0))
    early, late = 4, 15
    bytes_between = (late - early) * 12 * 64 * 64 * 3 * 4

    def growth(keep: bool) -> int:
        kept, seen = [], {}
        for piece, images in enumerate(stream_module.Decoding(vae, None, latents, last=True), start=1):
            kept = [*kept, images.clone()] if keep else []
            del images
            if piece in (early, late):
                seen[piece] = resident_bytes()
        return seen[late] - seen[early]

    growth(False)  # what is made once, such as kernels for these shapes
    found = growth(False)
    record_property(f"bytes more in memory, {(late - early) * 12} frames of 64 x 64 later", found)
    assert found < bytes_between / 3
    assert growth(True) > bytes_between * 0.8


def resident_bytes() -> int:
    """Of this process, after unused memory was given back."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
