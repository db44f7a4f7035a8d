"""Sizes, key names and maps of SkyReels-V2 against the key lists of the real checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from motioncache_core.models.skyreels_v2.architecture import (
    PLAIN_WAN,
    VARIANTS,
    ArchitectureConfig,
    diffusers_template,
    diffusers_to_official,
    expected_keys,
    linear_layers,
    matching_variants,
    official_to_diffusers,
    parameter_count,
)
from motioncache_core.sizes import ArchitectureError
from tools import wan_companions as companions

BY_NAME = {variant.name: variant.config for variant in VARIANTS}
KEY_LISTS = {
    "DF-1_3B-540P": BY_NAME["SkyReels-V2-DF-1.3B-540P"],
    "DF-14B-540P": BY_NAME["SkyReels-V2-DF-14B-540P"],
    "I2V-1_3B-540P": BY_NAME["SkyReels-V2-I2V-1.3B-540P"],
    "I2V-14B-540P": BY_NAME["SkyReels-V2-I2V-14B-540P"],
}


@pytest.fixture(scope="module")
def manifest(reference_dir: Path):
    """Reads a golden manifest; the committed subset has only the small ones."""

    def read(name: str) -> dict:
        path = reference_dir / "skyreels_v2" / "manifests" / f"{name}.json"
        if not path.is_file():
            pytest.skip(f"{name}.json is not in the committed subset of the golden data")
        return json.loads(path.read_text(encoding="utf-8"))

    return read


def shapes(entries: dict) -> dict[str, tuple[int, ...]]:
    return {key: tuple(shape) for key, (shape, _) in entries.items()}


def published(config: dict) -> ArchitectureConfig:
    """Sizes by the constructor arguments of the original model."""
    sizes = ("dim", "ffn_dim", "num_heads", "num_layers", "in_dim", "out_dim", "freq_dim")
    return ArchitectureConfig(
        **{name: config[name] for name in sizes},
        has_fps=config["inject_sample_info"],
        image_conditioned=config["model_type"] == "i2v",
    )


@pytest.mark.parametrize("name", KEY_LISTS)
def test_keys_and_shapes_equal_those_of_the_real_checkpoint(manifest, name):
    golden = shapes(manifest(name))
    ours = expected_keys(KEY_LISTS[name])
    assert ours == golden
    assert list(ours) == list(golden), "same order"


@pytest.mark.parametrize("config", KEY_LISTS.values(), ids=KEY_LISTS)
def test_sizes_are_read_back_from_shapes(config):
    assert ArchitectureConfig.from_shapes(expected_keys(config)) == config


def test_variants_have_the_published_facts(manifest):
    golden = manifest("variants")
    for variant in VARIANTS:
        facts = golden[variant.name]
        assert published(facts["config"]) == variant.config
        assert len(expected_keys(variant.config)) == facts["keys"]
        assert parameter_count(variant.config) == facts["params"]
        assert [*dict.fromkeys([variant.files[0], variant.files[-1]])] == facts["shards_first_last"]
    assert {variant.name for variant in VARIANTS} == {name for name in golden if name.startswith("SkyReels")}


def test_diffusers_rules_equal_the_template(manifest):
    golden = manifest("diffusers_to_official_template")
    assert diffusers_template() == golden
    assert {key: diffusers_to_official(key) for key in golden} == golden


def test_diffusers_map_equals_the_whole_list(manifest):
    keys = expected_keys(KEY_LISTS["DF-1_3B-540P"])
    assert {official_to_diffusers(key): key for key in keys} == manifest("diffusers_to_official_DF-1_3B")


def test_diffusers_norms_are_swapped():
    assert diffusers_to_official("blocks.7.norm2.weight") == "blocks.7.norm3.weight"
    assert diffusers_to_official("blocks.7.norm3.weight") is None


@pytest.mark.parametrize("config", KEY_LISTS.values(), ids=KEY_LISTS)
def test_diffusers_names_go_there_and_back(config):
    for key in expected_keys(config):
        assert diffusers_to_official(official_to_diffusers(key)) == key


def test_vae_keys_and_shapes_equal_the_real_file(manifest):
    golden = shapes(manifest("Wan2_1_VAE"))
    assert companions.vae_keys() == golden
    assert list(companions.vae_keys()) == list(golden)


def test_vae_diffusers_map(manifest):
    assert companions.vae_diffusers_map() == manifest("diffusers_to_official_vae")
    official = companions.vae_keys()
    there = {name: official[key] for name, key in companions.vae_diffusers_map().items()}
    assert there == shapes(manifest("diffusers_AutoencoderKLWan"))


def test_vae_refuses_a_foreign_key():
    with pytest.raises(ValueError, match="not a key of the Wan 2.1 VAE"):
        companions.vae_official_to_diffusers("encoder.something.0.weight")


def test_text_encoder_keys_and_map(manifest):
    assert companions.umt5_keys() == shapes(manifest("umt5_xxl_encoder"))
    assert companions.umt5_transformers_map() == manifest("hf_umt5_to_official")


def test_variants_that_keys_cannot_tell_apart():
    assert matching_variants(PLAIN_WAN["Wan2.1-T2V-14B"]) == (
        "SkyReels-V2-DF-14B-540P",
        "SkyReels-V2-DF-14B-720P",
        "SkyReels-V2-T2V-14B-540P",
        "SkyReels-V2-T2V-14B-720P",
        "Wan2.1-T2V-14B",
    )
    assert matching_variants(BY_NAME["SkyReels-V2-DF-1.3B-540P"]) == ("SkyReels-V2-DF-1.3B-540P",)
    assert matching_variants(ArchitectureConfig(128, 256, 1, 2)) == ()


def test_linear_layers_are_those_of_comfyuis_network():
    layers = linear_layers(ArchitectureConfig(128, 256, 1, 2, has_fps=True))
    assert len(layers) == 2 + 2 + 1 + 2 * (4 + 4 + 2) + 1
    assert not any(layer.startswith("fps") for layer in layers)


def test_heads_of_another_width_can_be_given():
    keys = expected_keys(ArchitectureConfig(96, 192, 4, 3, text_dim=32))
    assert ArchitectureConfig.from_shapes(keys, num_heads=4).head_dim == 24
    with pytest.raises(ArchitectureError, match="width 96 is not a multiple of 128.*nearest: 128"):
        ArchitectureConfig.from_shapes(keys)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 0}, "dim must be a positive whole number, got 0"),
        ({"num_layers": True}, "num_layers must be a positive"),
        ({"num_heads": 3}, "dim 128 is not divisible by num_heads 3"),
    ],
)
def test_illegal_sizes_are_named(change, message):
    with pytest.raises(ArchitectureError, match=message):
        ArchitectureConfig(**{"dim": 128, "ffn_dim": 256, "num_heads": 1, "num_layers": 2, **change})


def test_a_damaged_block_number_does_not_ask_for_millions_of_keys():
    keys = {**expected_keys(ArchitectureConfig(128, 256, 1, 1)), "blocks.99999999.modulation": (1, 6, 128)}
    with pytest.raises(ArchitectureError, match="blocks.99999999"):
        ArchitectureConfig.from_shapes(keys)
