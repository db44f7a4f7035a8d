"""MAGI-1's VAE: layouts of its tensors, tiles and their blending, streaming, preview colours, given frames."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor, nn

from motioncache_core.models.magi1.prefix import fit_frames
from motioncache_core.models.magi1.preview_colours import fit_preview_colours, synthetic_pictures
from motioncache_core.models.magi1.vae import Magi1Vae, sample
from motioncache_core.models.magi1.vae_checkpoint import read_vae_layout, read_vae_tensors
from motioncache_core.models.magi1.vae_config import OFFICIAL, VaeConfig, VaeConfigError, config_from, expected_keys
from motioncache_core.models.magi1.vae_tiling import ONE_FRAME_QUIRK, TiledVae, Tiling, bytes_needed
from motioncache_core.safetensors_file import CheckpointError

SIZES = {
    "video_size": 16,
    "video_length": 8,
    "patch_size": 4,
    "patch_length": 4,
    "z_chans": 4,
    "embed_dim": 64,
    "depth": 1,
    "num_heads": 2,
    "mlp_ratio": 2,
}
CONFIG = VaeConfig(**SIZES)
TILING = Tiling(frames=8, height=16, width=32, overlap=0.25)


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {key: torch.randn(shape, generator=generator) * 0.3 for key, shape in expected_keys(CONFIG).items()}


@pytest.fixture(scope="module")
def network(weights: dict[str, Tensor]) -> Magi1Vae:
    """Built from torch's own layers: the core needs no ComfyUI."""
    made = Magi1Vae(CONFIG, operations=nn, attention=_attention)
    made.load_state_dict(weights)
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def tiled(network: Magi1Vae) -> TiledVae:
    return TiledVae(network, TILING)


def _attention(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    q, k, v = (rearrange(t, "b n (h d) -> b h n d", h=heads) for t in (queries, keys, values))
    return rearrange(((q @ k.mT) / q.shape[-1] ** 0.5).softmax(-1) @ v, "b h n d -> b n (h d)")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# The network


def test_the_official_vae_has_its_published_keys_and_size():
    shapes = expected_keys(OFFICIAL)
    assert len(shapes) == 496
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 613_755_239


def test_the_official_keys_load_strictly():
    shapes = expected_keys(OFFICIAL)
    made = Magi1Vae(OFFICIAL, operations=nn, attention=_attention, device="meta")
    made.load_state_dict({key: torch.empty(shape, device="meta") for key, shape in shapes.items()}, assign=True)
    assert {key: tuple(t.shape) for key, t in made.state_dict().items()} == shapes


def test_shapes(network: Magi1Vae):
    assert network.moments(noise(2, 3, 8, 12, 20)).shape == (2, 8, 2, 3, 5)
    assert network.encode(noise(2, 3, 8, 12, 20)).shape == (2, 4, 2, 3, 5)
    assert network.decode(noise(2, 4, 2, 3, 5)).shape == (2, 3, 8, 12, 20)


def test_pixels_of_a_patch_come_before_their_channels():
    config = VaeConfig(**(SIZES | {"embed_dim": 256, "patch_size": 2, "video_size": 8}))  # 16 channels a pixel
    decoder = Magi1Vae(config, operations=nn, attention=_attention).decoder
    x = noise(2, 2 * 3 * 5, 256)
    expected = rearrange(x, "b (t h w) (pt ph pw c) -> b c (t pt) (h ph) (w pw)", t=2, h=3, w=5, pt=4, ph=2, pw=2, c=16)
    assert torch.equal(decoder._pixels(x, (2, 3, 5)), expected)


def test_an_image_is_four_times_the_same_frame(network: Magi1Vae):
    image = noise(1, 3, 1, 16, 16)
    assert torch.equal(network.encode(image), network.encode(image.repeat(1, 1, 4, 1, 1)))
    latent = network.encode(image)
    assert network.decode(latent).shape[2] == 4
    assert torch.equal(network.decode(latent, single_image=True), network.decode(latent)[:, :, :1])


def test_frames_that_fill_no_latent_frame_are_refused(network: Magi1Vae):
    with pytest.raises(ValueError, match="2 frames fill no latent frame; give 1 .* or at least 4"):
        network.encode(noise(1, 3, 2, 16, 16))


def test_positions_of_another_size_are_resized(network: Magi1Vae, weights: dict[str, Tensor]):
    """A position table that grows linearly along a side stays linear between its outermost positions."""
    t, h, w = CONFIG.grid
    ramp = torch.arange(w).float().expand(t, h, w).reshape(1, -1, 1).expand(-1, -1, CONFIG.embed_dim)
    resized = network.encoder._resized(ramp, (t, h, 2 * w))[0, : 2 * w, 0]
    assert resized[1:-1].tolist() == pytest.approx([0.25 + 0.5 * i for i in range(2 * w - 2)])
    assert torch.equal(network.encoder._resized(ramp, (1, h, w))[0], ramp[0, : h * w])


def test_queries_keys_and_values_are_normalised(weights: dict[str, Tensor]):
    seen: list[Tensor] = []

    def attention(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
        seen.extend(rearrange(t, "b n (h d) -> b n h d", h=heads) for t in (queries, keys, values))
        return queries

    made = Magi1Vae(CONFIG, operations=nn, attention=attention)
    made.load_state_dict(weights)
    made.decode(noise(1, 4, 2, 4, 4))
    assert len(seen) == 3
    for heads in seen:
        assert heads.mean(-1).abs().max() < 1e-5
        assert (heads.std(-1, correction=0) - 1).abs().max() < 1e-3


def test_a_draw_is_the_mean_without_noise(network: Magi1Vae):
    moments = network.moments(noise(1, 3, 8, 16, 16))
    mean, log_variance = moments.chunk(2, dim=1)
    assert torch.equal(sample(moments, torch.zeros_like(mean)), mean)
    drawn = sample(moments, torch.ones_like(mean))
    assert torch.allclose(drawn - mean, (log_variance / 2).exp(), rtol=1e-4, atol=1e-5)


# Tiles


def lines(before: Tensor, tile: Tensor, extent: int, dim: int) -> Tensor:
    """The tile with its first lines mixed one by one with the last of the tile before."""
    mixed, extent = tile.clone(), min(before.shape[dim], tile.shape[dim], extent)
    for line in range(extent):
        share = line / extent
        old = before.select(dim, before.shape[dim] - extent + line)
        mixed.select(dim, line).copy_(old * (1 - share) + tile.select(dim, line) * share)
    return mixed


def by_lines(
    volume: Tensor, size: tuple[int, int, int], out: tuple[int, int], function: Callable, in_place: bool
) -> Tensor:
    """Tiles of ``size`` of a volume through a function and joined, told step by step; ``out``: sizes that come out."""
    length, height, width = size
    parts = []
    for begin in range(0, volume.shape[2], length):
        raw, done, strips = {}, {}, []
        for i, top in enumerate(range(0, volume.shape[3], height * 3 // 4)):
            strip = []
            for j, left in enumerate(range(0, volume.shape[4], width * 3 // 4)):
                tile = volume[:, :, begin : begin + length, top : top + height, left : left + width]
                raw[i, j] = done[i, j] = function(tile)
                neighbours = done if in_place else raw
                if i:
                    done[i, j] = lines(neighbours[i - 1, j], done[i, j], out[0] // 4, 3)
                if j:
                    done[i, j] = lines(neighbours[i, j - 1], done[i, j], out[1] // 4, 4)
                strip.append(done[i, j][:, :, :, : out[0] * 3 // 4, : out[1] * 3 // 4])
            strips.append(torch.cat(strip, dim=4))
        parts.append(torch.cat(strips, dim=3))
    return torch.cat(parts, dim=2)


@pytest.mark.parametrize(("frames", "height", "width"), [(16, 40, 60), (12, 16, 32), (9, 28, 20), (1, 32, 72)])
def test_encoding_blends_against_blended_neighbours(network, tiled, frames, height, width):
    video = noise(1, 3, frames, height, width)
    expected = by_lines(video, (8, 16, 32), (4, 8), network.encode, in_place=True)
    found = tiled.encode(video)
    assert found.shape == (1, 4, -(-frames // 4), height // 4, width // 4)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("frames", "height", "width"), [(4, 10, 15), (3, 4, 8), (1, 7, 18)])
def test_decoding_blends_against_raw_neighbours(network, tiled, frames, height, width):
    latent = noise(1, 4, frames, height, width)
    expected = by_lines(latent, (2, 4, 8), (16, 32), network.decode, in_place=False)
    found = tiled.decode(latent)
    assert found.shape == (1, 3, 4 * frames, 4 * height, 4 * width)
    assert torch.allclose(found, expected, atol=1e-5)


def test_the_two_ways_of_blending_differ(network, tiled):
    video = noise(1, 3, 8, 40, 60)
    raw = by_lines(video, (8, 16, 32), (4, 8), network.encode, in_place=False)
    assert (tiled.encode(video) - raw).abs().max() > 0.01


def test_one_tile_is_the_network_itself(network, tiled):
    video, latent = noise(1, 3, 8, 12, 20), noise(1, 4, 2, 3, 5)
    assert torch.equal(tiled.encode(video), network.encode(video))
    assert torch.equal(tiled.decode(latent), network.decode(latent))


def test_a_last_latent_frame_of_a_video_gives_four_frames(tiled):
    latent = noise(1, 4, 5, 4, 6)
    faulty = tiled.decode(latent, quirks=frozenset({ONE_FRAME_QUIRK}))
    assert tiled.decode(latent).shape[2] == 20
    assert faulty.shape[2] == 17
    assert torch.equal(faulty, tiled.decode(latent)[:, :, :17])


def test_a_single_image_gives_one_frame(tiled):
    latent = noise(1, 4, 1, 10, 15)
    assert torch.equal(tiled.decode(latent, single_image=True), tiled.decode(latent)[:, :, :1])
    # only the latent that is alone: another one in the same video keeps its four frames
    assert tiled.decode(noise(1, 4, 2, 4, 6), single_image=True).shape[2] == 8


@pytest.mark.parametrize("pieces", [(7,), (2, 2, 3), (1, 1, 1, 1, 1, 1, 1), (3, 4), (6, 1)])
def test_latents_may_arrive_in_pieces(tiled, pieces):
    latent = noise(1, 4, 7, 6, 9)
    stream = tiled.stream()
    arrived = [row for piece in latent.split(pieces, dim=2) for row in stream.push(piece)]
    assert sum(row.shape[2] for row in arrived) == 24  # what fills rows of tiles does not wait
    assert torch.equal(torch.cat([*arrived, *stream.finish()], dim=2), tiled.decode(latent))
    assert list(stream.finish()) == []


def test_progress_counts_every_tile(tiled):
    seen: list[int] = []
    stream = tiled.stream(on_tile=lambda: seen.append(1))
    latent = noise(1, 4, 3, 10, 15)
    list(stream.push(latent)), list(stream.finish())
    assert len(seen) == tiled.tiles(3, 10, 15) == 2 * 4 * 3
    seen.clear()
    tiled.encode(noise(1, 3, 12, 40, 60), on_tile=lambda: seen.append(1))
    assert len(seen) == 2 * 4 * 3


def test_tiles_of_broken_latents_are_refused(network):
    with pytest.raises(ValueError, match="does not divide into latents of 4 x 4 x 4"):
        TiledVae(network, Tiling(frames=8, height=16, width=24))
    with pytest.raises(ValueError, match="does not divide into latents"):
        TiledVae(network, Tiling(frames=6, height=16, width=32))


def test_memory_does_not_grow_with_length_or_height():
    needed = bytes_needed(OFFICIAL, 1, 720, torch.bfloat16)
    assert 0.2e9 < needed < 1e9
    assert bytes_needed(OFFICIAL, 1, 1280, torch.bfloat16) > needed
    assert bytes_needed(OFFICIAL, 2, 720, torch.bfloat16) == 2 * needed
    assert bytes_needed(OFFICIAL, 1, 720, torch.float32) > needed


# Sizes and checkpoints


def described(**changes) -> dict:
    return {"_class_name": "ViTVAE", "model_type": "vit", "ddconfig": SIZES | {"in_chans": 3} | changes}


def test_sizes_are_read_from_the_official_form():
    assert config_from(described(double_z=True, conv_last_layer=True)) == CONFIG
    assert config_from(SIZES) == CONFIG
    assert config_from({"ddconfig": {"patch_length": 4}}) == OFFICIAL


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"sample_size": 3}, "no entry 'ddconfig'"),
        ({"ddconfig": 7}, "no entry 'ddconfig'"),
        (described() | {"model_type": "vit_ncthw"}, "model_type is 'vit_ncthw'; only 'vit'"),
        (described(use_rope=True), "use_rope is True; only False"),
        (described(norm_code=True), "norm_code is True; only False"),
        (described(depth="many"), "depth is 'many'"),
        (described(depth=0), "depth is 0"),
        (described(num_heads=5), "embed_dim 64 is not a multiple of num_heads 5"),
        (described(video_length=6), "video_length 6 is not a multiple of patch_length 4"),
        (described(embed_dim=96, num_heads=2), "embed_dim 96 is not a multiple of a patch's 64 pixels"),
    ],
)
def test_other_descriptions_are_refused(content, message):
    with pytest.raises(VaeConfigError, match=message):
        config_from(content)


@pytest.fixture
def folder(tmp_path: Path, weights: dict[str, Tensor]) -> Path:
    """The official layout."""
    place = tmp_path / "my vae"
    place.mkdir()
    save_file(weights, place / "diffusion_pytorch_model.safetensors")
    (place / "config.json").write_text(json.dumps(described()))
    return place


def test_a_folder_is_read(folder: Path, weights: dict[str, Tensor]):
    layout = read_vae_layout(folder)
    assert (layout.name, layout.config) == ("my vae", CONFIG)
    assert layout.summary() == "my vae: VAE of MAGI-1's kind, of other sizes, stored as F32"
    read = read_vae_tensors(layout, torch.bfloat16)
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[key], weights[key].bfloat16()) for key in weights)


def test_a_file_is_read_by_its_metadata(tmp_path: Path, weights: dict[str, Tensor]):
    path = tmp_path / "one.safetensors"
    save_file({f"vae.{key}": t for key, t in weights.items()}, path, {"config": json.dumps(described())})
    layout = read_vae_layout(path)
    assert layout.config == CONFIG
    assert torch.equal(
        read_vae_tensors(layout, torch.float32, copy=True)["encoder.cls_token"], weights["encoder.cls_token"]
    )


def test_a_file_without_description_is_the_official_one(tmp_path: Path):
    """Only its header is read: the file has the right length and holds nothing."""
    entries, end = {}, 0
    for key, shape in expected_keys(OFFICIAL).items():
        begin, end = end, end + 2 * torch.Size(shape).numel()
        entries[key] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    header = json.dumps(entries).encode()
    path = tmp_path / "magi_vae.safetensors"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
    layout = read_vae_layout(path)
    assert layout.config == OFFICIAL
    assert layout.summary() == "magi_vae: MAGI-1 VAE, stored as BF16"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("decoder.norm.bias"), r"1 missing: decoder\.norm\.bias"),
        (lambda w: w.update(extra=torch.zeros(1)), r"1 unknown: extra"),
        (lambda w: w.update({"encoder.norm.bias": torch.zeros(3)}), r"shape \[3\], expected \[64\] \(1 such tensors\)"),
        (lambda w: w.update({k: t.to(torch.float8_e4m3fn) for k, t in w.items()}), "stored as F8_E4M3; read are"),
        (lambda w: [w.pop(k) for k in list(w) if "pos_embed" in k], "Expected MAGI-1's VAE"),
    ],
)
def test_other_contents_are_refused(folder: Path, weights: dict[str, Tensor], change, message):
    changed = dict(weights)
    change(changed)
    save_file(changed, folder / "diffusion_pytorch_model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        read_vae_layout(folder)


def test_a_file_of_other_sizes_wants_its_description(tmp_path: Path, weights: dict[str, Tensor]):
    path = tmp_path / "other.safetensors"
    save_file({key: t for key, t in weights.items()}, path)
    with pytest.raises(CheckpointError, match="missing"):
        read_vae_layout(path)
    save_file(weights, path, {"config": "{"})
    with pytest.raises(CheckpointError, match="'config' of its metadata is not JSON"):
        read_vae_layout(path)


# Preview colours


def linear_encoder(channels: int, seed: int = 1) -> tuple[Callable[[Tensor], Tensor], SimpleNamespace]:
    """Latents that mix the mean colours of 8 x 8 pixels."""
    mix, offset = noise(channels, 3, seed=seed), noise(channels, seed=seed + 1)

    def encode(picture: Tensor) -> Tensor:
        means = nn.functional.avg_pool2d(picture[0, :, 0], 8)
        return (torch.einsum("cr,rhw->chw", mix, means) + offset[:, None, None])[None, :, None]

    return encode, SimpleNamespace(mix=mix, offset=offset)


def test_colours_of_a_linear_code_are_found_exactly():
    encode, _ = linear_encoder(16)
    pictures = synthetic_pictures(4, 64)
    colours = fit_preview_colours(encode, pictures, 0.5)
    assert colours.explained > 0.999
    latent = encode(pictures[:1, :, None])[0, :, 0] * 0.5
    shown = torch.einsum("chw,cr->rhw", latent, torch.tensor(colours.factors))
    shown = shown + torch.tensor(colours.bias)[:, None, None]
    assert (shown - nn.functional.avg_pool2d(pictures[0], 8)).abs().max() < 0.02


def test_colours_are_fitted_to_a_vae(network: Magi1Vae):
    colours = fit_preview_colours(network.encode, synthetic_pictures(3, 32), 0.18215)
    assert len(colours.factors) == 4
    assert 0.2 < colours.explained <= 1


def test_too_few_latents_for_a_fit_are_refused():
    with pytest.raises(ValueError, match="4 latents are too few to fit 16 channels"):
        fit_preview_colours(linear_encoder(16)[0], synthetic_pictures(1, 16), 1.0)


def test_synthetic_pictures_are_colourful_and_always_the_same():
    pictures = synthetic_pictures()
    assert torch.equal(pictures, synthetic_pictures())
    assert not torch.equal(pictures, synthetic_pictures(seed=1))
    assert pictures.abs().max() <= 1
    means = nn.functional.avg_pool2d(pictures, 8)
    assert torch.linalg.matrix_rank(rearrange(means, "n c h w -> (n h w) c") - means.mean()) == 3
    assert means.std() > 0.3


# Given frames


def test_fitting_stretches_crops_or_pads():
    picture = torch.rand(1, 20, 40, 3, generator=torch.Generator().manual_seed(0))
    wide = torch.cat((torch.zeros(1, 20, 10, 3), torch.ones(1, 20, 20, 3), torch.zeros(1, 20, 10, 3)), dim=2)
    assert torch.equal(fit_frames(picture, 40, 20), picture)
    for aspect in ("fit", "crop", "pad"):
        assert fit_frames(picture, 24, 32, aspect).shape == (1, 32, 24, 3)
    assert fit_frames(wide, 20, 20, "crop").mean() > 0.99  # the sides are cut off
    column = torch.arange(21.0).view(1, 1, 21, 1).expand(1, 8, 21, 3) / 32
    for width, first in ((18, 2), (16, 2), (14, 4)):  # of 3, 5 and 7 columns too many: halves to the even side
        assert torch.equal(fit_frames(column, width, 8, "crop"), column[:, :, first : first + width])
    padded = fit_frames(torch.ones(1, 20, 40, 3), 40, 40, "pad")[0, :, :, 0]
    assert padded[:10].max() == 0 and padded[30:].max() == 0 and padded[10:30].min() == 1
    with pytest.raises(ValueError, match="aspect 'fill' is unknown; legal are fit, crop, pad"):
        fit_frames(picture, 8, 8, "fill")
