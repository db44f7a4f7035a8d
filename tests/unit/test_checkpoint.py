"""Every layout is read under the official names; everything else is refused by its header alone, with a sentence."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from motioncache_core.models.skyreels_v2 import checkpoint
from motioncache_core.models.skyreels_v2.architecture import (
    FPS_KEYS,
    PLAIN_WAN,
    VARIANTS,
    ArchitectureConfig,
    expected_keys,
)
from motioncache_core.models.skyreels_v2.checkpoint import (
    CheckpointError,
    dequantise,
    fps_delta,
    read_layout,
    read_tensors,
)
from motioncache_core.safetensors_file import read_header
from motioncache_core.weight_files import find_weight_files, is_repository
from tools import tiny_checkpoints as tiny
from tools.wan_companions import umt5_keys, umt5_transformers_map, vae_diffusers_map, vae_keys

WEIGHTS = tiny.transformer()
LAYOUTS = {
    "official fp32": "official layout, file, float32, 74 tensors",
    "official bf16": "official layout, file, bfloat16, 74 tensors",
    "official fp16": "official layout, file, float16, 74 tensors",
    "fp8 e4m3fn": "official layout, file, float8_e4m3fn, 74 tensors",
    "fp8 e5m2": "official layout, file, float8_e5m2, 74 tensors",
    "fp8 scaled e4m3fn": "official layout, file, float8_e4m3fn, scaled, 74 tensors",
    "fp8 scaled e5m2": "official layout, file, float8_e5m2, scaled, 74 tensors",
    "fp8 scaled input": "official layout, file, float8_e4m3fn, scaled, 74 tensors",
    "fp8 scaled partly": "official layout, file, bfloat16, scaled, 74 tensors",
    "fp8 scaled e5m2 partly": "official layout, file, bfloat16, scaled, 74 tensors",
    "comfy_quant": "official layout, file, bfloat16, scaled, 74 tensors",
    "prefixed": "official layout with prefix model.diffusion_model., file, float32, 74 tensors",
    "prefixed model": "official layout with prefix model., file, float32, 74 tensors",
    "prefixed fp8 scaled": "with prefix model.diffusion_model., file, float8_e4m3fn, scaled, 74 tensors",
    "full checkpoint": "official layout with prefix model.diffusion_model., file, float32, 74 tensors",
    "diffusers file": "diffusers layout, file, float32, 74 tensors",
    "diffusers fp8 scaled": "diffusers layout, file, float8_e4m3fn, scaled, 74 tensors",
    "no fps": "official layout, file, float16, 69 tensors",
    "official folder": "official layout, folder, float32, 74 tensors",
    "official shards, no index": "official layout, folder of 3 shards, float32, 69 tensors",
    "official shards": "official layout, folder of 2 shards, float32, 74 tensors",
    "diffusers folder": "diffusers layout, folder, float32, 74 tensors",
    "diffusers shards": "diffusers layout, folder of 2 shards, bfloat16, 74 tensors",
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny.write_all(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, str], str]:
    """Checks that a path is refused with that regular expression, without any tensor being read."""

    def check(path: Path, pattern: str) -> str:
        def no_reading(*_: object, **__: object) -> None:
            pytest.fail("a tensor was read")

        monkeypatch.setattr(checkpoint, "safe_open", no_reading)
        with pytest.raises(CheckpointError, match=pattern) as caught:
            read_layout(path)
        return str(caught.value)

    return check


def write(path: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    return path


def write_header(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str = "BF16", width: int = 2) -> Path:
    """A file with a good header and a hole where its data would be, so that real sizes cost nothing."""
    entries, offset = {}, 0
    for key, shape in shapes.items():
        size = width
        for n in shape:
            size *= n
        entries[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    return write_raw(path, json.dumps(entries).encode(), data=offset)


def write_raw(path: Path, header: bytes, data: int = 0, length: int | None = None) -> Path:
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header) if length is None else length))
        file.write(header)
        file.truncate(8 + len(header) + data)
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_tensors_under_official_names(paths, layout):
    found = read_layout(paths[layout])
    has_fps = "69" not in LAYOUTS[layout]
    assert found.config == (tiny.TINY if has_fps else ArchitectureConfig(**{**vars(tiny.TINY), "has_fps": False}))
    assert found.summary().endswith(LAYOUTS[layout])
    weights = read_tensors(found)
    assert list(weights.tensors) == [key for key in expected_keys(tiny.TINY) if key not in FPS_KEYS]
    for key, tensor in weights.tensors.items():
        assert torch.equal(dequantise(key, tensor, weights.weight_scales), WEIGHTS[key]), key
    assert set(weights.fps) == (set(FPS_KEYS) if has_fps else set())
    for key, tensor in weights.fps.items():
        assert torch.equal(tensor, WEIGHTS[key]), key
    assert not any(layer.startswith("fps_") for layer in {**weights.weight_scales, **weights.input_scales})


def test_every_layout_is_tested(paths):
    assert set(paths) == set(LAYOUTS) == set(tiny.LAYOUTS)


def test_copied_tensors_do_not_need_their_file(paths, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(paths["official fp32"].read_bytes())
    weights = read_tensors(read_layout(path), copy=True)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert all(torch.equal(tensor, WEIGHTS[key]) for key, tensor in weights.tensors.items())


def test_marks_of_scaled_fp8(paths):
    assert read_tensors(read_layout(paths["fp8 scaled e4m3fn"])).full_precision_matmul is True
    assert read_tensors(read_layout(paths["comfy_quant"])).full_precision_matmul is False
    assert set(read_tensors(read_layout(paths["fp8 scaled input"])).input_scales) == set(
        read_layout(paths["fp8 scaled input"]).weight_scales
    )


def test_full_precision_is_read_from_comfy_quant(tmp_path):
    tensors = tiny.fp8_scaled(tiny.TINY, WEIGHTS, torch.float8_e4m3fn, style="comfy_quant")
    mark = json.dumps({"format": "float8_e4m3fn", "full_precision_matrix_mult": True}).encode()
    tensors["blocks.0.ffn.0.comfy_quant"] = torch.tensor(list(mark), dtype=torch.uint8)
    assert read_tensors(read_layout(write(tmp_path / "a.safetensors", tensors))).full_precision_matmul is True


def test_names_of_models(paths):
    assert read_layout(paths["official shards"]).name == "SkyReels-V2-DF-14B-720P"
    assert read_layout(paths["diffusers folder"] / "transformer").name == "SkyReels-V2-DF-1.3B-540P-Diffusers"
    assert read_layout(paths["official fp32"]).name == "Wan2_1-SkyReels-V2-DF-1_3B-540P_fp32"


def test_one_shard_stands_for_its_set(paths):
    shard = paths["official shards, no index"] / "model-00002-of-00003.safetensors"
    found = read_layout(shard)
    assert (found.name, len(found.files), len(found.tensors)) == ("model", 3, 69)


def test_default_precision_is_preferred_to_a_variant(paths, tmp_path):
    folder = tmp_path / "transformer"
    write(folder / "diffusion_pytorch_model.fp16.safetensors", tiny.to_diffusers(tiny.cast(WEIGHTS, torch.float16)))
    assert read_layout(tmp_path).precision == "float16", "the only one there is"
    write(folder / "diffusion_pytorch_model.safetensors", tiny.to_diffusers(WEIGHTS))
    assert read_layout(tmp_path).precision == "float32"


def test_which_folders_look_like_repositories(paths, tmp_path):
    assert all(is_repository(path) for path in paths.values() if path.is_dir())
    assert is_repository(paths["diffusers folder"] / "transformer")
    assert not is_repository(paths["official fp32"].parent), "single files beside each other"
    assert not is_repository(tmp_path)
    assert not is_repository(tmp_path / "absent")


def test_the_frame_rate_term_is_the_two_linear_layers(paths):
    delta = fps_delta(read_tensors(read_layout(paths["official bf16"])).fps)
    w = {key: WEIGHTS[key].double() for key in FPS_KEYS}
    hidden = w["fps_embedding.weight"] @ w["fps_projection.0.weight"].T + w["fps_projection.0.bias"]
    expected = (hidden * torch.sigmoid(hidden)) @ w["fps_projection.2.weight"].T + w["fps_projection.2.bias"]
    assert delta.shape == (2, 6 * 128)
    assert delta.dtype == torch.float32
    assert (delta - expected).abs().max() < 1e-5
    assert (delta[0] - delta[1]).abs().max() > 0.1
    assert fps_delta({}) is None


@pytest.mark.parametrize("variant", [v for v in VARIANTS if not v.config.image_conditioned], ids=lambda v: v.name)
@pytest.mark.parametrize(("dtype", "width"), [("F32", 4), ("F8_E4M3", 1)])
def test_published_sizes_are_recognised(tmp_path, variant, dtype, width):
    keys = expected_keys(variant.config)
    found = read_layout(write_header(tmp_path / f"{variant.name}.safetensors", keys, dtype, width))
    assert found.config == variant.config
    assert variant.name in found.summary()
    if variant.config.has_fps:
        assert found.notices == ()
    else:
        (notice,) = found.notices
        assert "identical keys" in notice and "Wan T2V-14B" in notice
        assert ("Its name says diffusion forcing" in notice) == ("-DF-" in variant.name)


def test_plain_wan_loads_with_a_notice(tmp_path):
    keys = expected_keys(PLAIN_WAN["Wan2.1-T2V-1.3B"])
    (notice,) = read_layout(write_header(tmp_path / "wan2.1_t2v_1.3B_bf16.safetensors", keys)).notices
    assert "has the keys of Wan2.1-T2V-1.3B" in notice
    assert "needs diffusion-forcing (DF) weights" in notice
    assert "Its name says" not in notice


def test_a_full_checkpoint_says_what_is_not_used(paths):
    (notice,) = read_layout(paths["full checkpoint"]).notices
    assert "its 1 other tensors (text, VAE) are not used" in notice


# Damaged and incomplete files


def test_truncated_data_is_refused_with_the_missing_bytes(paths, tmp_path, refused):
    content = paths["official bf16"].read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:-1000])
    refused(tmp_path / "cut.safetensors", r"cut.safetensors is truncated: .*\(1000 missing\)")


def test_truncated_header_is_refused(paths, tmp_path, refused):
    (tmp_path / "cut.safetensors").write_bytes(paths["official bf16"].read_bytes()[:500])
    refused(tmp_path / "cut.safetensors", "is truncated: it has 500 bytes, its header alone needs")


def test_bytes_behind_the_end_are_refused(paths, tmp_path, refused):
    (tmp_path / "long.safetensors").write_bytes(paths["official bf16"].read_bytes() + b"\0" * 7)
    refused(tmp_path / "long.safetensors", "has 7 bytes too many")


def test_a_claimed_header_of_4_gb_is_refused_at_once(tmp_path, refused):
    path = write_raw(tmp_path / "big.safetensors", b"{}", data=5 * 2**30, length=4 * 2**30)
    start = time.process_time()
    refused(path, "claims a header of 4294967296 bytes")
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (b"", "has 0 bytes: it is empty or truncated"),
        (b"\x01\x02", "has 2 bytes"),
        (b"GGUF" + bytes(100), "is a GGUF file; load it with a GGUF loader node"),
        (b"PK\x03\x04" + bytes(100), "is a pickled PyTorch checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "is a web page"),
        (struct.pack("<Q", 20) + b"x" * 20, "its header is not JSON"),
        (struct.pack("<Q", 20000) + b"[" * 20000, "its header is not JSON"),
        (struct.pack("<Q", 2) + b"[]", "the header is not a table"),
        (struct.pack("<Q", 2) + b"{}", "is a file without tensors"),
        (struct.pack("<Q", 25) + b'{"__metadata__": {"a":1}}', "metadata of its header"),
    ],
)
def test_what_is_no_safetensors_file_is_named(tmp_path, refused, content, pattern):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    refused(path, pattern)


@pytest.mark.parametrize(
    "entry",
    [
        {},
        7,
        {"dtype": "F32", "shape": [2], "data_offsets": [0]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, -8]},
        {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [1] * 17, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": "ab", "data_offsets": [0, 8]},
        {"dtype": 3, "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
    ],
)
def test_damaged_header_entries_are_named(tmp_path, entry):
    path = write_raw(tmp_path / "a.safetensors", json.dumps({"key": entry}).encode(), data=8)
    with pytest.raises(CheckpointError, match="'key'.*damaged"):
        read_header(path)


def test_missing_shards_are_named(paths, tmp_path, refused):
    for index in (True, False):
        folder = tmp_path / f"index {index}"
        tiny.save_shards(folder, WEIGHTS, "model", 6, index=index)
        (folder / "model-00002-of-00006.safetensors").unlink()
        refused(folder, "1 of 6 files are missing: model-00002-of-00006.safetensors")
    for number in range(3, 7):
        (tmp_path / "index False" / f"model-0000{number}-of-00006.safetensors").unlink()
    refused(tmp_path / "index False" / "model-00001-of-00006.safetensors", "5 of 6 files are missing: .* and 1 more")


def test_an_index_that_does_not_fit_its_files_is_refused(tmp_path, refused):
    tiny.save_shards(tmp_path, WEIGHTS, "model", 2, index=True)
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())

    def rewrite(weight_map: object) -> None:
        index.write_text(json.dumps({"weight_map": weight_map}))

    first = "patch_embedding.weight"
    rewrite({**content["weight_map"], first: "model-00002-of-00002.safetensors"})
    refused(tmp_path, f"the index places '{first}' in model-00002-of-00002.safetensors, which does not hold it")
    rewrite({**content["weight_map"], first: "../secret.safetensors"})
    refused(tmp_path, "names '../secret.safetensors', which is not a safetensors file beside it")
    rewrite({**content["weight_map"], first: "model.pkl"})
    refused(tmp_path, "names 'model.pkl'")
    rewrite([])
    refused(tmp_path, "has no usable weight_map")
    index.write_text("{")
    refused(tmp_path, "is not JSON")


def test_the_same_tensor_in_two_files_is_refused(tmp_path, refused):
    write(tmp_path / "model-00001-of-00002.safetensors", WEIGHTS)
    write(tmp_path / "model-00002-of-00002.safetensors", {"patch_embedding.bias": torch.zeros(128)})
    refused(tmp_path, "'patch_embedding.bias' is both in")


def test_folders_without_usable_weights(tmp_path, refused):
    refused(tmp_path, "holds no safetensors weights")
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
    refused(tmp_path, "It holds pytorch_model.bin; only safetensors are read")
    refused(tmp_path / "absent", "does not exist")


@pytest.mark.parametrize(
    "keys",
    [
        ["blocks.1.ffn.2.bias"],
        ["head.modulation"],
        ["patch_embedding.weight"],
        ["blocks.0.ffn.0.weight"],
        ["fps_embedding.weight"],
    ],
)
@pytest.mark.parametrize("diffusers", [False, True])
def test_missing_keys_are_named_as_the_file_would_spell_them(tmp_path, refused, keys, diffusers):
    tensors = {key: tensor for key, tensor in WEIGHTS.items() if key not in keys}
    path = write(tmp_path / "a.safetensors", tiny.to_diffusers(tensors) if diffusers else tensors)
    spelled = next(iter(tiny.to_diffusers({keys[0]: WEIGHTS[keys[0]]}))) if diffusers else keys[0]
    refused(
        path, f"lacks {spelled}( |, which tells its size).*it is incomplete. Expected a SkyReels-V2 diffusion-forcing"
    )


def test_many_missing_keys_are_counted(tmp_path, refused):
    tensors = {key: tensor for key, tensor in WEIGHTS.items() if not key.startswith("blocks.1.c")}
    refused(write(tmp_path / "a.safetensors", tensors), r"and 6 more \(10 of 74 keys\): it is incomplete")


def test_extra_keys_are_named(tmp_path, refused):
    path = write(tmp_path / "a.safetensors", {**WEIGHTS, "blocks.0.novel.weight": torch.zeros(1)})
    refused(path, r"holds blocks.0.novel.weight, which do not belong to the model \(1 extra keys\)")
    prefixed = {**tiny.prefixed(WEIGHTS, "model.diffusion_model."), "strange.weight": torch.zeros(1)}
    refused(write(tmp_path / "b.safetensors", prefixed), "holds strange.weight")


def test_wrong_shapes_are_named(tmp_path, refused):
    path = write(tmp_path / "a.safetensors", {**WEIGHTS, "blocks.1.ffn.2.weight": torch.zeros(128, 255)})
    refused(path, r"1 tensors of the wrong shape, first blocks.1.ffn.2.weight: \[128, 255\] instead of \[128, 256\]")
    path = write(tmp_path / "b.safetensors", {**WEIGHTS, "patch_embedding.weight": torch.zeros(128, 64)})
    refused(path, r"patch_embedding.weight has shape \[128, 64\], expected 5 dimensions")


def test_sizes_that_comfyui_cannot_build_are_refused(tmp_path, refused):
    narrow = expected_keys(ArchitectureConfig(96, 192, 4, 1))
    refused(write_header(tmp_path / "a.safetensors", narrow), "width 96 is not a multiple of 128")
    short_text = expected_keys(ArchitectureConfig(128, 192, 1, 1, text_dim=32))
    refused(write_header(tmp_path / "b.safetensors", short_text), "has text_dim 32; ComfyUI's .* needs 4096")


def test_a_contradicting_config_is_refused(paths, tmp_path, refused):
    content = paths["official folder"] / "model.safetensors"

    def folder(name: str, **config: object) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(content.read_bytes())
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        return tmp_path / name

    refused(folder("layers", num_layers=30), "num_layers is 30 there and 2 in the weights")
    refused(folder("heads", num_heads=4), "num_heads is 4 there and 1 in the weights")
    refused(folder("diffusers", num_attention_heads=4, attention_head_dim=32), "num_heads is 4 there")
    plain = tmp_path / "fps"
    tiny.save_shards(plain, tiny.without_fps(WEIGHTS), "model", 2, index=False)
    (plain / "config.json").write_text(json.dumps({"inject_sample_info": True}))
    refused(plain, "lacks fps_embedding.weight.*which its config.json promises")


# Other models


def shapes_of(*keys: str) -> dict[str, tuple[int, ...]]:
    return {key: (4, 4) for key in keys}


def wan(**sizes: int) -> dict[str, tuple[int, ...]]:
    return expected_keys(ArchitectureConfig(**{"dim": 128, "ffn_dim": 256, "num_heads": 1, "num_layers": 1, **sizes}))


FOREIGN = {
    "is an image-to-video model .*36 input channels.*Only diffusion-forcing": wan(in_dim=36, image_conditioned=True),
    "image-to-video model .* 36 input": {**wan(in_dim=36, image_conditioned=True), "img_emb.emb_pos": (1, 514, 1280)},
    "is a Wan 2.2 image-to-video model": wan(in_dim=36),
    "is a Wan 2.2 TI2V-5B model": wan(in_dim=48, out_dim=48),
    "has in_dim 20; ComfyUI": wan(in_dim=20),
    "is a Wan VACE model": {**wan(), "vace_blocks.0.before_proj.weight": (128, 128)},
    "is a Wan Animate model": {**wan(image_conditioned=True), "face_adapter.fuser_blocks.0.k_norm.weight": (128,)},
    "is a Wan camera-control model": {**wan(), "control_adapter.conv.weight": (128, 4)},
    "is a LoRA": shapes_of("diffusion_model.blocks.0.self_attn.q.lora_A.weight", "diffusion_model.x.lora_B.weight"),
    "is a Wan VAE\\.": vae_keys(),
    "is a Wan VAE \\(diffusers\\)": {key: vae_keys()[official] for key, official in vae_diffusers_map().items()},
    "is a text encoder \\(umt5\\)": umt5_keys(),
    "is a text encoder \\(T5\\)": {key: umt5_keys()[official] for key, official in umt5_transformers_map().items()},
    "is a text encoder \\(CLIP\\)": shapes_of("text_model.encoder.layers.0.mlp.fc1.weight"),
    "is a Flux model": shapes_of(
        "double_blocks.0.img_attn.qkv.weight", "single_blocks.0.linear1.weight", "img_in.weight"
    ),
    "is a Stable Diffusion checkpoint \\(SDXL\\)": shapes_of(
        "model.diffusion_model.input_blocks.0.0.weight", "model.diffusion_model.label_emb.0.0.weight"
    ),
    "is a MAGI-1 model": shapes_of(
        "videodit_blocks.layers.0.self_attention.q_layernorm.weight", "t_embedder.mlp.0.weight"
    ),
    "is a HunyuanVideo model": shapes_of(
        "double_blocks.0.img_mod.linear.weight", "txt_in.individual_token_refiner.blocks.0.norm1.weight"
    ),
    r"is an unknown model \(5 tensors, first keys: a.weight, b.weight, c.weight, d.weight\)": shapes_of(
        *(f"{letter}.weight" for letter in "edcba")
    ),
}


@pytest.mark.parametrize("pattern", FOREIGN)
def test_another_model_is_named(tmp_path, refused, pattern):
    path = write_header(tmp_path / "other.safetensors", FOREIGN[pattern])
    message = refused(path, pattern)
    assert message.startswith("other.safetensors ")
    assert "Expected a SkyReels-V2 diffusion-forcing model" in message


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.config.image_conditioned], ids=lambda v: v.name)
def test_published_image_models_are_refused(tmp_path, refused, variant):
    path = write_header(tmp_path / f"{variant.name}.safetensors", expected_keys(variant.config))
    refused(path, r"is an image-to-video model \(SkyReels-V2 I2V or Wan 2.1 I2V, 36 input channels\)")


# Quantisation that is not read


def test_integer_weights_are_refused(tmp_path, refused):
    tensors = {**WEIGHTS, "blocks.0.ffn.0.weight": torch.zeros(256, 128, dtype=torch.int8)}
    refused(write(tmp_path / "a.safetensors", tensors), "stores blocks.0.ffn.0.weight as I8; readable are")


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"blocks.0.ffn.0.weight_scale_2": torch.ones(())}, "is quantised in a way that is not read"),
        ({"blocks.0.ffn.0.scale_weight": torch.ones(256)}, r"scale_weight of shape \[256\]; one scale per layer"),
        ({"blocks.9.ffn.0.scale_weight": torch.ones(())}, "for a layer that it does not have"),
        ({"blocks.0.ffn.9.scale_weight": torch.ones(())}, "holds blocks.0.ffn.9.scale_weight, which do not belong"),
        ({"blocks.0.ffn.0.weight": torch.zeros(256, 128)}, "has a scale for blocks.0.ffn.0, whose weight is F32"),
    ],
)
def test_scales_that_do_not_fit_are_refused(tmp_path, refused, change, pattern):
    tensors = tiny.fp8_scaled(tiny.TINY, WEIGHTS, torch.float8_e4m3fn)
    refused(write(tmp_path / "a.safetensors", {**tensors, **change}), pattern)


def test_a_missing_scale_is_named(tmp_path, refused):
    tensors = tiny.fp8_scaled(tiny.TINY, WEIGHTS, torch.float8_e4m3fn, style="comfy_quant")
    del tensors["blocks.1.cross_attn.o.weight_scale"]
    refused(write(tmp_path / "a.safetensors", tensors), "lacks the scale of blocks.1.cross_attn.o")


@pytest.mark.parametrize(
    ("mark", "pattern"),
    [
        (b'{"format": "nvfp4"}', "blocks.0.ffn.0 is quantised as 'nvfp4' and stored as float8_e4m3fn"),
        (b"nonsense", "blocks.0.ffn.0.comfy_quant is not readable"),
        (b"[]", "blocks.0.ffn.0.comfy_quant is not readable"),
    ],
)
def test_a_format_that_is_not_read_is_named_when_reading(tmp_path, mark, pattern):
    tensors = tiny.fp8_scaled(tiny.TINY, WEIGHTS, torch.float8_e4m3fn, style="comfy_quant")
    tensors["blocks.0.ffn.0.comfy_quant"] = torch.tensor(list(mark), dtype=torch.uint8)
    layout = read_layout(write(tmp_path / "a.safetensors", tensors))
    with pytest.raises(CheckpointError, match=pattern):
        read_tensors(layout)


def test_reading_headers_of_a_large_model_is_quick(tmp_path):
    path = write_header(tmp_path / "a.safetensors", expected_keys(PLAIN_WAN["Wan2.1-T2V-14B"]))
    start = time.process_time()
    read_layout(path)
    assert time.process_time() - start < 1.0
    assert find_weight_files(path).files == (path,)
