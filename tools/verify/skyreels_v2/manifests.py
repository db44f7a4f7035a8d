"""Cases about real checkpoints: key lists, name maps, facts. All of it is generated from the package's rules.

A case does not say in a field which list it holds, so the one of ours that shares most with it is compared with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from motioncache_core.models.skyreels_v2 import architecture
from motioncache_core.models.skyreels_v2.architecture import VARIANTS, Variant

from ... import wan_companions as companions
from ..folder import Case
from .layouts import layouts

_MANIFEST_FILES = {
    "SkyReels-V2-DF-1.3B-540P": "DF-1_3B-540P.json",
    "SkyReels-V2-I2V-1.3B-540P": "I2V-1_3B-540P.json",
    "SkyReels-V2-I2V-14B-540P": "I2V-14B-540P.json",
    "SkyReels-V2-I2V-14B-720P": "I2V-14B-540P.json",
}
_OTHER_MANIFEST = "DF-14B-540P.json"
"""All other variants have the keys of DF-14B-540P."""


def keys(case: Case) -> dict[str, Any]:
    """Keys with shapes and the dtype of a freshly built model."""
    vae = companions.vae_keys()
    lists = [architecture.expected_keys(variant.config) for variant in VARIANTS]
    lists += [vae, companions.umt5_keys()]
    lists += [{there: vae[here] for there, here in companions.vae_diffusers_map().items()}]
    case.expect(entry="key: [shape, dtype]")
    return _closest(case, [{key: [list(shape), "float32"] for key, shape in shapes.items()} for shapes in lists])


def names(case: Case) -> dict[str, Any]:
    """Keys of one layout under the names of another."""
    lists = [architecture.expected_keys(variant.config) for variant in VARIANTS]
    maps = [{architecture.official_to_diffusers(key): key for key in keys} for keys in lists]
    template = architecture.diffusers_template()
    maps += [template, companions.vae_diffusers_map(), companions.umt5_transformers_map()]
    made = _closest(case, maps)
    case.expect(entry="key there: official key", template=template in made.values())
    return made


def facts(case: Case) -> dict[str, Any]:
    """The table of published checkpoints, or the layouts that they come in."""
    return _closest(case, [_variants(), layouts()])


def _closest(case: Case, candidates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """For each output the candidate with most entries in common with what is stored (keys first, then values)."""

    def nearest(stored: Any) -> dict[str, Any]:
        def shared(candidate: Mapping[str, Any]) -> tuple[int, int]:
            both = candidate.keys() & stored.keys() if isinstance(stored, dict) else set()
            return len(both), sum(candidate[key] == stored[key] for key in both)

        return dict(max(candidates, key=shared))

    made = {name: nearest(reference.load()) for name, reference in case.outputs.items()}
    case.expect(entries=sum(map(len, made.values())))
    return made


def _variants() -> dict[str, Any]:
    table = {variant.name: _variant(variant) for variant in VARIANTS}
    table["Wan2.1_VAE.pth"] = _companion("Wan2_1_VAE.json", companions.vae_keys())
    table["models_t5_umt5-xxl-enc-bf16.pth"] = _companion("umt5_xxl_encoder.json", companions.umt5_keys()) | {
        "note": "file on the hub is bfloat16; float32 here because the class is built without a dtype"
    }
    return table


def _variant(variant: Variant) -> dict[str, Any]:
    config = variant.config
    return {
        "config": {
            "dim": config.dim,
            "ffn_dim": config.ffn_dim,
            "freq_dim": config.freq_dim,
            "in_dim": config.in_dim,
            "num_heads": config.num_heads,
            "num_layers": config.num_layers,
            "out_dim": config.out_dim,
            "text_len": 512,
            "eps": 1e-06,
            "model_type": "i2v" if config.image_conditioned else "t2v",
            "inject_sample_info": config.has_fps,
        },
        "keys": len(architecture.expected_keys(config)),
        "params": architecture.parameter_count(config),
        "shards_first_last": list(dict.fromkeys((variant.files[0], variant.files[-1]))),
        "same_in_motioncache": "yes",
        "manifest": _MANIFEST_FILES.get(variant.name, _OTHER_MANIFEST),
    }


def _companion(manifest: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    return {"manifest": manifest, "keys": len(shapes), "params": sum(map(math.prod, shapes.values()))}
