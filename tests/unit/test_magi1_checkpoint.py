"""Sizes and key names of MAGI-1, and its files: every layout is read, everything else refused with a sentence."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from motioncache_core.models.magi1.architecture import (
    NULL_CAPTION,
    PREFIX,
    VARIANTS,
    ArchitectureConfig,
    Entry,
    expected_entries,
    expected_keys,
    matching_variants,
    parameter_count,
)
from motioncache_core.models.magi1.checkpoint import CheckpointError, read_layout, read_tensors
from motioncache_core.safetensors_file import DTYPE_BYTES
from motioncache_core.sizes import ArchitectureError

TINY = ArchitectureConfig(
    dim=32, ffn_dim=48, num_heads=4, num_groups=2, num_layers=3, head_dim=8, text_dim=16, text_tokens=12
)
TINY_GATED = ArchitectureConfig(**{**vars(TINY), "gated": True, "doubled_channels": True, "x_rescale": 0.1})
TINY_FP8 = ArchitectureConfig(**{**vars(TINY), "fp8": True})
COUNTS = {"4.5B_base": 4_459_898_128, "24B_base": 23_899_281_936}
SPELLED = {"bfloat16": "BF16", "float32": "F32", "float8_e4m3fn": "F8_E4M3"}


def weights(config: ArchitectureConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random tensors of a checkpoint."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.randn(entry.shape, generator=generator).to(getattr(torch, entry.dtype))
        for key, entry in expected_entries(config).items()
    }


def write(path: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    return path


def write_shards(folder: Path, tensors: Mapping[str, torch.Tensor], count: int, index: bool = True) -> Path:
    """Shards named like the official ones, with their index."""
    folder.mkdir(parents=True, exist_ok=True)
    keys, weight_map = sorted(tensors), {}
    for i in range(count):
        name = f"model-{i + 1:05d}-of-{count:05d}.safetensors"
        write(folder / name, {key: tensors[key] for key in keys[i::count]})
        weight_map |= dict.fromkeys(keys[i::count], name)
    if index:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def write_header(path: Path, entries: Mapping[str, Entry]) -> Path:
    """A good header with a hole where its data would be, so that real sizes cost nothing."""
    header, offset = {}, 0
    for key, entry in entries.items():
        size = DTYPE_BYTES[SPELLED[entry.dtype]]
        for n in entry.shape:
            size *= n
        header[key] = {"dtype": SPELLED[entry.dtype], "shape": entry.shape, "data_offsets": [offset, offset + size]}
        offset += size
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + offset)
    return path


def official(config: ArchitectureConfig, **engine: Any) -> str:
    """An official configuration file."""
    model = {
        "num_layers": config.num_layers,
        "hidden_size": config.dim,
        "ffn_hidden_size": config.ffn_dim,
        "num_attention_heads": config.num_heads,
        "num_query_groups": config.num_groups,
        "kv_channels": config.head_dim,
        "gated_linear_unit": config.gated,
        "half_channel_vae": config.doubled_channels,
        "x_rescale_factor": config.x_rescale,
        "caption_channels": config.text_dim,
        "caption_max_length": config.text_tokens,
    }
    return json.dumps({"model_config": model, "runtime_config": {}, "engine_config": engine})


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_keys_shapes_and_dtypes_equal_the_official_state_dict(reference_dir, variant):
    path = reference_dir / "magi1" / "manifests" / "dit_full_state_dicts.json.gz"
    if not path.is_file():
        pytest.skip("the full key lists are not in the committed subset of the golden data")
    golden = json.loads(gzip.decompress(path.read_bytes()))
    same = variant.name if variant.name in golden else variant.name.replace("distill", "base")
    ours = expected_entries(variant.config)
    assert {key: [list(entry.shape), entry.dtype] for key, entry in ours.items()} == golden[same]


def test_variants_have_the_published_sizes():
    for variant in VARIANTS:
        config = variant.config
        assert ArchitectureConfig.from_shapes(expected_keys(config)) == config
        assert variant in matching_variants(config)
        plain = ArchitectureConfig(**{**vars(config), "fp8": False})
        assert parameter_count(plain) == COUNTS[f"{variant.name.split('_')[0]}_base"]
    folders = {variant.folder for variant in VARIANTS}
    assert folders == {"inference_weight", "inference_weight.distill", "inference_weight.fp8.distill"}


def test_only_inner_blocks_are_float8():
    entries = expected_entries(TINY_FP8)
    in_float8 = {key.removeprefix(PREFIX)[0] for key, entry in entries.items() if entry.dtype == "float8_e4m3fn"}
    assert in_float8 == {"1"}
    q, proj = (f"{PREFIX}1.self_attention.{name}" for name in ("linear_qkv.q", "linear_proj"))
    assert entries[f"{q}.weight"] == Entry((1, 32, 32), "float8_e4m3fn")
    assert entries[f"{q}.input_scale"] == Entry((32,), "float32")
    assert entries[f"{proj}.input_scale"] == Entry((1,), "float32")
    assert entries[f"{proj}.smooth_scale"] == Entry((1, 64), "float32")
    assert f"{q}.smooth_scale" not in entries


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 5}, "num_heads 5 is not a multiple of num_groups 2"),
        ({"head_dim": 12}, r"head_dim 12 is not a multiple of 8 \(nearest: 16\)"),
        ({"num_layers": 0}, "num_layers must be a positive whole number"),
        ({"text_tokens": 1}, "text_tokens must be at least 2"),
    ],
)
def test_impossible_sizes_are_refused(changes, message):
    with pytest.raises(ArchitectureError, match=message):
        ArchitectureConfig(**{**vars(TINY), **changes})


@pytest.mark.parametrize("config", [TINY, TINY_GATED, TINY_FP8], ids=["4.5B", "24B", "fp8"])
def test_a_merged_file_is_read(tmp_path, config):
    tensors = weights(config)
    layout = read_layout(write(tmp_path / "magi1_distill.safetensors", tensors))
    assert (layout.config, layout.distilled, layout.notices) == (config, True, ())
    read = read_tensors(layout, copy=True)
    assert list(read) == list(expected_entries(config))
    assert all(torch.equal(read[key].float(), tensors[key].float()) for key in tensors)
    assert all(read[key].dtype == tensors[key].dtype for key in tensors)


@pytest.mark.parametrize(
    ("asked", "index"),
    [(asked, index) for asked in ("folder", "above", "shard") for index in (True, False)] + [("index", True)],
)
def test_shards_are_read_from_wherever_they_are_named(tmp_path, asked, index):
    folder = write_shards(tmp_path / "4.5B_base" / "inference_weight", weights(TINY), 3, index)
    path = {
        "folder": folder,
        "above": folder.parent,
        "shard": folder / "model-00002-of-00003.safetensors",
        "index": folder / "model.safetensors.index.json",
    }[asked]
    layout = read_layout(path)
    assert layout.config == TINY
    assert layout.name == "4.5B_base/inference_weight"
    assert layout.distilled is False
    assert len(layout.files) == 3
    assert set(read_tensors(layout)) == set(expected_keys(TINY))


def test_names_with_comfyuis_prefix_and_beside_other_tensors(tmp_path):
    tensors = {f"model.diffusion_model.{key}": tensor for key, tensor in weights(TINY).items()}
    # as ComfyUI saves the network: the learned caption lies in a module of its own
    learned = tensors.pop(f"model.diffusion_model.{NULL_CAPTION}")
    tensors[f"model.diffusion_model.{NULL_CAPTION}.weight"] = learned
    tensors["vae.decoder.cls_token"] = torch.zeros(1)
    layout = read_layout(write(tmp_path / "merged_base.safetensors", tensors))
    assert "with prefix model.diffusion_model." in layout.summary()
    assert torch.equal(read_tensors(layout)[NULL_CAPTION], learned)
    assert layout.notices == ("merged_base is a full checkpoint; its 1 other tensors (text, VAE) are not used.",)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_official_variants_are_recognised(tmp_path, variant):
    folder = tmp_path / variant.name / variant.folder
    folder.mkdir(parents=True)
    write_header(folder / "model.safetensors", expected_entries(variant.config))
    layout = read_layout(folder)
    assert variant in matching_variants(layout.config)
    assert layout.distilled == variant.distilled
    assert f"MAGI-1 {variant.name};" in layout.summary()
    assert ("float8_e4m3fn, scaled" if variant.config.fp8 else "bfloat16,") in layout.summary()
    assert layout.notices == ()


def test_the_configuration_file_tells_distilled_from_base(tmp_path):
    folder = write_shards(tmp_path / "some_model", weights(TINY), 2)
    assert read_layout(folder).distilled is None
    assert "does not tell whether it is a base or a distilled model" in read_layout(folder).notices[0]
    (folder / "magi_config.json").write_text(official(TINY, distill=True, fp8_quant=False))
    layout = read_layout(folder)
    assert (layout.distilled, layout.notices) == (True, ())
    assert layout.official["engine_config"]["distill"] is True


def test_contradictions_are_notices_that_say_who_wins(tmp_path):
    folder = write_shards(tmp_path / "4.5B_base", weights(TINY), 2)
    larger = ArchitectureConfig(**{**vars(TINY), "num_layers": 34})
    (folder / "config.json").write_text(official(larger, distill=True, fp8_quant=True))
    layout = read_layout(folder)
    assert layout.config == TINY
    assert layout.distilled is True
    assert layout.notices[0] == (
        "4.5B_base: its configuration file config.json says distilled, its name says base; it is taken as distilled. "
        "Mend the one that errs."
    )
    assert "num_layers is 34 in its configuration file and 3 in the weights, which decide" in layout.notices[1]
    assert "fp8 is True in its configuration file and False in the weights" in layout.notices[2]


def test_configurations_that_contradict_one_another_are_not_used(tmp_path):
    folder = write_shards(tmp_path / "4.5B_distill", weights(TINY), 2)
    for distill in (False, True):
        kind = "distill" if distill else "base"
        (folder / f"4.5B_{kind}_config.json").write_text(official(TINY, distill=distill, fp8_quant=False))
    layout = read_layout(folder)
    assert layout.distilled is True, "its name"
    assert layout.notices == (
        "4.5B_distill: 4.5B_base_config.json says base, 4.5B_distill_config.json says distilled; neither is used. Keep "
        "the one of this model.",
    )


def test_the_configuration_beside_a_merged_file_counts_where_no_other_model_lies(tmp_path):
    path = write(tmp_path / "magi1.safetensors", weights(TINY))
    (tmp_path / "4.5B_distill_config.json").write_text(official(TINY, distill=True, fp8_quant=False))
    layout = read_layout(path)
    assert (layout.distilled, layout.notices, layout.name) == (True, (), "magi1")
    write(tmp_path / "another.safetensors", {"x": weights(TINY)["y_embedder.null_caption_embedding"]})
    assert read_layout(path).distilled is None, "it may be the other one's"


def test_a_name_that_contradicts_float8_scales_is_a_notice(tmp_path):
    layout = read_layout(write(tmp_path / "magi1_base_fp8.safetensors", weights(TINY_FP8)))
    assert layout.distilled is True
    assert (
        "float8 scales (only distilled models are published so) says distilled, its name says base"
        in (layout.notices[0])
    )


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_layout(path)
    return str(caught.value)


def test_stacked_layers_are_refused_by_name(tmp_path):
    tensors = {key: tensor for key, tensor in weights(TINY).items() if PREFIX not in key}
    tensors[f"{PREFIX}self_attention.linear_qkv.weight"] = torch.zeros(3, 4, 4)
    message = refusal(write(tmp_path / "magi11.safetensors", tensors))
    assert "stacked in one tensor each" in message
    assert "MAGI-1.1 24B" in message


def test_other_models_are_named(tmp_path):
    path = write(tmp_path / "wrong.safetensors", {"blocks.0.ffn.0.lora_A.weight": torch.zeros(2, 2)})
    assert refusal(path) == (
        "wrong.safetensors is a LoRA. Expected a MAGI-1 transformer (safetensors; 4.5B or 24B, base or distilled, "
        "official names)."
    )


def test_incomplete_and_foreign_tensors_are_refused(tmp_path):
    complete = weights(TINY)
    gone = f"{PREFIX}1.mlp.linear_fc2.weight"
    some = {key: tensor for key, tensor in complete.items() if key != gone}
    assert f"lacks {gone} (1 of {len(complete)} keys): it is incomplete" in refusal(write(tmp_path / "a.sft", some))
    sizeless = {key: tensor for key, tensor in complete.items() if not key.startswith("t_embedder")}
    assert "lacks t_embedder.mlp.0.weight, which tells its size" in refusal(write(tmp_path / "b.sft", sizeless))
    more = complete | {"something.weight": torch.zeros(1)}
    assert "holds something.weight, which do not belong" in refusal(write(tmp_path / "c.sft", more))
    bent = complete | {gone: torch.zeros(32, 47)}
    assert f"first {gone}: [32, 47] instead of [32, 48]" in refusal(write(tmp_path / "d.sft", bent))
    counted = complete | {gone: torch.zeros(32, 48, dtype=torch.int32)}
    assert f"stores {gone} as I32; readable are" in refusal(write(tmp_path / "e.sft", counted))


def test_float8_layers_must_be_e4m3(tmp_path):
    tensors = weights(TINY_FP8)
    key = f"{PREFIX}1.mlp.linear_fc1.weight"
    tensors[key] = tensors[key].float().to(torch.float8_e5m2)
    message = refusal(write(tmp_path / "magi1.safetensors", tensors))
    assert f"stores {key} as F8_E5M2, although it has scales for F8_E4M3" in message


def test_plain_float8_without_scales_is_read(tmp_path):
    tensors = {
        key: tensor.to(torch.float8_e4m3fn) if tensor.ndim == 2 and PREFIX in key else tensor
        for key, tensor in weights(TINY).items()
    }
    layout = read_layout(write(tmp_path / "magi1_base_fp8_e4m3fn.safetensors", tensors))
    assert (layout.config, layout.distilled) == (TINY, False)
    assert layout.precision == "float8_e4m3fn"


def test_missing_and_compressed_shards_are_named(tmp_path):
    folder = write_shards(tmp_path / "a", weights(TINY), 3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert "1 of 3 files are missing: model-00002-of-00003.safetensors" in refusal(folder)
    assert "1 of 3 files are missing" in refusal(folder / "model.safetensors.index.json")
    packed = tmp_path / "b"
    packed.mkdir()
    (packed / "model-00001-of-00001.safetensors.zst").write_bytes(b"")
    assert "compressed weights (model-00001-of-00001.safetensors.zst); unpack them with `zstd -d`" in refusal(packed)


def test_a_folder_of_several_models_asks_which(tmp_path):
    for name in ("inference_weight", "inference_weight.distill"):
        write(tmp_path / name / "model.safetensors", weights(TINY))
    assert "holds several models (inference_weight, inference_weight.distill)" in refusal(tmp_path)
