"""MAGI-1's VAE in ComfyUI: the loader, the stock encode and decode nodes, streaming, previews, partial loading."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from motioncache_core.models.magi1.vae_config import VaeConfig, expected_keys

SIZES = {
    "video_size": 32,
    "video_length": 8,
    "patch_size": 8,
    "patch_length": 4,
    "z_chans": 16,
    "embed_dim": 256,
    "depth": 1,
    "num_heads": 4,
    "mlp_ratio": 1,
}
"""Official patches, so that the official tiles apply."""
WIDTH, HEIGHT = 200, 64
"""Two tiles side by side."""


@pytest.fixture(scope="module")
def stock() -> ModuleType:
    """ComfyUI's nodes."""
    import nodes

    return nodes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, pack: ModuleType) -> Iterator[Path]:
    """A folder of models/vae with a repository folder, a file beside it and a file that is something else."""
    import folder_paths

    generator = torch.Generator().manual_seed(3)
    shapes = expected_keys(VaeConfig(**SIZES))
    weights = {key: torch.randn(shape, generator=generator) * 0.15 for key, shape in shapes.items()}
    place = tmp_path_factory.mktemp("vae")
    (place / "MAGI-1" / "vae").mkdir(parents=True)
    save_file(weights, place / "MAGI-1" / "vae" / "diffusion_pytorch_model.safetensors")
    (place / "MAGI-1" / "vae" / "config.json").write_text(json.dumps({"model_type": "vit", "ddconfig": SIZES}))
    save_file(weights, place / "magi_single.safetensors", {"config": json.dumps(SIZES)})
    wan = {name: torch.zeros(1) for name in ("decoder.upsamples.0.x", "encoder.downsamples.0.x")}
    save_file(wan, place / "wan.safetensors")
    folder_paths.add_model_folder_path("vae", str(place))
    yield place
    folder_paths.folder_names_and_paths["vae"][0].remove(str(place))


@pytest.fixture(scope="module")
def loader(pack: ModuleType, folder: Path) -> Any:
    return importlib.import_module("motioncache.nodes.magi1_vae").MotionCacheLoadMagi1VAE


@pytest.fixture(scope="module")
def host(pack: ModuleType) -> ModuleType:
    return importlib.import_module("motioncache.nodes.host.magi1_vae")


@pytest.fixture(scope="module")
def vae(loader: Any) -> Any:
    with torch.inference_mode():
        return loader.execute("MAGI-1/vae/ (folder)").args[0]


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    """Five latent frames' worth."""
    return torch.rand(20, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def latent(vae: Any, frames: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return vae.encode(frames)


@pytest.fixture(scope="module")
def decoded(vae: Any, latent: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return vae.decode(latent)


# The loader


def test_folder_and_file_are_offered_and_give_the_same(pack, loader, vae, latent):
    paths = importlib.import_module("motioncache.nodes.host.magi1_paths")
    choices = paths.vae_choices()
    assert {"MAGI-1/vae/ (folder)", "magi_single.safetensors", "wan.safetensors"} <= set(choices)
    assert not [name for name in choices if "diffusion_pytorch_model" in name]
    assert loader.validate_inputs("MAGI-1/vae/ (folder)") is True
    assert loader.validate_inputs("magi_single.safetensors") is True
    other = loader.execute("magi_single.safetensors").args[0]
    assert torch.equal(other.decode(latent[:, :, :1]), vae.decode(latent[:, :, :1]))


def test_the_stock_loaders_list_takes_the_whole_path(loader, folder):
    inner = str(Path("MAGI-1/vae/diffusion_pytorch_model.safetensors"))
    assert "missing" in loader.validate_inputs(inner)  # without its config it would be the official VAE


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("wan.safetensors", "wan is a Wan VAE. Expected MAGI-1's VAE"),
        ("magi_singel.safetensors", "Nearest: magi_single.safetensors"),
        ("../vae/wan.safetensors", "was not found"),
        ("", "was not found"),
    ],
)
def test_other_choices_are_refused_in_words(loader, choice, message):
    assert message in loader.validate_inputs(choice)


def test_a_replaced_file_is_loaded_again(loader, folder):
    before = loader.fingerprint_inputs("magi_single.safetensors")
    assert before == loader.fingerprint_inputs("magi_single.safetensors")
    path = folder / "magi_single.safetensors"
    path.touch()
    assert before != loader.fingerprint_inputs("magi_single.safetensors")


# Stock nodes


def test_stock_nodes_encode_and_decode(stock, vae, frames, latent, decoded):
    encoded = stock.VAEEncode().encode(vae, frames)[0]["samples"]
    assert encoded.shape == (1, 16, 5, HEIGHT // 8, WIDTH // 8)
    assert torch.equal(encoded, latent)
    images = stock.VAEDecode().decode(vae, {"samples": encoded})[0]
    assert images.shape == frames.shape
    assert torch.equal(images, decoded[0])
    assert 0 <= images.min() < images.max() <= 1
    assert images.std() > 0.05


def test_tiled_stock_nodes_give_the_same(stock, vae, frames, latent, decoded):
    encoded = stock.VAEEncodeTiled().encode(vae, frames, 128, 32, 8, 4)[0]["samples"]
    assert torch.equal(encoded, latent)
    images = stock.VAEDecodeTiled().decode(vae, {"samples": latent}, 128, 32, 8, 4)[0]
    assert torch.equal(images, decoded[0])


def test_it_is_the_core_s_tiling(vae, frames, latent, decoded):
    video = frames.movedim(-1, 0).unsqueeze(0) * 2 - 1
    assert torch.allclose(vae.tiled.encode(video), latent, atol=1e-5)
    assert torch.equal((vae.tiled.decode(latent)[0].movedim(0, -1) / 2 + 0.5).clamp(0, 1), decoded[0])


def test_an_image_stays_an_image(stock, vae, frames):
    latent = stock.VAEEncode().encode(vae, frames[:1])[0]["samples"]
    assert latent.shape[2] == 1
    assert stock.VAEDecode().decode(vae, {"samples": latent})[0].shape == (1, HEIGHT, WIDTH, 3)
    assert torch.equal(latent, vae.encode(frames[:1].expand(4, -1, -1, -1)))


def test_videos_of_a_batch_come_one_after_the_other(stock, vae, frames):
    two = vae.encode(torch.stack((frames[:8], frames[8:16])))
    assert torch.equal(two, torch.cat((vae.encode(frames[:8]), vae.encode(frames[8:16]))))
    images = vae.decode(two)
    assert images.shape == (2, 8, HEIGHT, WIDTH, 3)
    assert torch.equal(stock.VAEDecode().decode(vae, {"samples": two})[0], images.flatten(0, 1))


def test_what_fills_no_latent_is_left_out(vae, frames, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        latent = vae.encode(frames[:11, :61, :196])
    assert latent.shape == (1, 16, 2, 7, 24)
    assert "of 11 frames the last 3 fill no latent frame" in caplog.text
    assert torch.equal(latent, vae.encode(frames[:8, 2:58, 2:194]))
    assert vae.encode(frames[:3]).shape[2] == 1
    assert vae.encode(torch.cat((frames[:4], frames[:4, ..., :1]), dim=-1)).shape[2] == 1  # alpha is not looked at


def test_other_latents_and_tiny_images_are_refused(stock, vae):
    with pytest.raises(ValueError, match=r"shape \[1, 4, 8, 8\]; MAGI-1's VAE decodes \[batch, 16, frames"):
        stock.VAEDecode().decode(vae, {"samples": torch.zeros(1, 4, 8, 8)})
    with pytest.raises(ValueError, match="7 x 16 pixels; MAGI-1's VAE needs at least 8 x 8"):
        vae.encode(torch.zeros(1, 16, 7, 3))


def test_interrupting_stops_a_decode(vae, latent):
    import comfy.model_management

    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        vae.decode(latent)
    vae.decode(latent[:, :, :1])


# Memory and precision


def test_it_works_loaded_in_part(vae, latent, decoded):
    patcher = vae.patcher
    patcher.detach()
    try:
        patcher.load(torch.device("cpu"), lowvram_model_memory=200_000)
        offloaded = [m for m in vae.first_stage_model.modules() if hasattr(m, "prev_comfy_cast_weights")]
        assert offloaded
        assert torch.equal((vae.tiled.decode(latent)[0].movedim(0, -1) / 2 + 0.5).clamp(0, 1), decoded[0])
    finally:
        patcher.detach()
    assert torch.equal(vae.decode(latent), decoded)


def test_bfloat16_is_close(host, loader, vae, latent, decoded):
    half = host.Magi1ComfyVae(vae.get_sd(), vae.first_stage_model.config, torch.bfloat16)
    assert {p.dtype for p in half.first_stage_model.parameters()} == {torch.bfloat16}
    images = half.decode(latent)
    assert images.dtype == torch.float32
    assert (images - decoded).abs().mean() < 0.02
    assert half.get_ram_usage() == vae.get_ram_usage() // 2


def test_comfyui_finds_what_it_asks_a_vae(vae):
    assert vae.spacial_compression_decode() == vae.spacial_compression_encode() == 8
    assert vae.temporal_compression_decode() == 4
    assert (vae.latent_channels, vae.latent_dim, vae.output_channels) == (16, 3, 3)
    assert vae.get_sd().keys() == expected_keys(VaeConfig(**SIZES)).keys()
    vae.throw_exception_if_invalid()
    assert vae.memory_used_decode((1, 16, 60, 90, 90), torch.bfloat16) == vae.memory_used_encode(
        (1, 3, 12, 720, 720), torch.bfloat16
    )


# Previews


def test_previews_show_the_colours(pack, vae, frames):
    import latent_preview

    formats = importlib.import_module("motioncache.nodes.host.magi1_latent_format")
    colours = vae.preview_colours()
    assert colours is vae.preview_colours()
    assert colours.explained > 0.3
    form = formats.Magi1LatentFormat(colours)
    assert form.process_in(torch.ones(1)).item() == pytest.approx(0.18215)
    assert form.process_out(form.process_in(torch.full((1,), 3.0))).item() == pytest.approx(3)
    previewer = latent_preview.Latent2RGBPreviewer(form.latent_rgb_factors, form.latent_rgb_factors_bias)
    for red in (0.1, 0.9):
        image = torch.tensor([red, 0.5, 0.5]).expand(1, 128, 128, 3)
        shown = previewer.decode_latent_to_preview(form.process_in(vae.encode(image)))
        assert shown.size == (16, 16)
        assert (shown.resize((1, 1)).getpixel((0, 0))[0] > 128) == (red > 0.5)
    assert formats.Magi1LatentFormat().latent_rgb_factors is None
