"""Judging a SkyReels-V2 checkpoint by its headers, in every layout, under one set of names: the official ones.

Layouts: official names (single file, shards, repository folder), the same with a ComfyUI prefix, diffusers names;
float32, bfloat16, float16, fp8 as it is, fp8 with one scale per layer (``scaled_fp8`` + ``.scale_weight``, or
``.comfy_quant`` + ``.weight_scale``). Sources of the names: ComfyUI ``comfy/model_detection.py``, diffusers
``convert_skyreelsv2_to_diffusers.py``, kijai's published files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...recognise import describe
from ...safetensors_file import CheckpointError, StoredTensor
from ...sizes import ArchitectureError, Shape
from ...stored_layout import (
    COMPANIONS,
    FP8,
    PLAIN,
    PREFIXES,
    READABLE,
    StoredLayout,
    check_shapes,
    companions_notice,
    refusal,
    refuse_extra,
    refuse_sizeless,
    some,
    with_place,
)
from ...weight_files import WeightFiles, find_weight_files
from .architecture import (
    FPS_KEYS,
    PLAIN_WAN,
    SIZE_KEYS,
    ArchitectureConfig,
    block_index,
    diffusers_template,
    diffusers_to_official,
    expected_keys,
    matching_variants,
    official_to_diffusers,
)

WANTED = "a SkyReels-V2 diffusion-forcing model (safetensors; official, ComfyUI or diffusers layout)"
TEXT_DIM, FREQ_DIM, CHANNELS = 4096, 256, 16
"""What ComfyUI's Wan text-to-video network is built with, whatever the file says."""

_COMPANIONS = (*COMPANIONS, "clip_vision.")
_WEIGHT_SCALES = (".scale_weight", ".weight_scale")
_INPUT_SCALES = (".scale_input", ".input_scale")
_QUANT_MARK = ".comfy_quant"
_QUANT_MARKS = (*_WEIGHT_SCALES, *_INPUT_SCALES, _QUANT_MARK, ".weight_scale_2", ".pre_quant_scale")
_FP8_MARK = "scaled_fp8"
_FORCING = re.compile(r"(?i)(?<![a-z])df(?![a-z])|diffusion[ _-]?forcing")


@dataclass(frozen=True)
class Layout(StoredLayout):
    """Where the tensors of one checkpoint lie.

    Args:
        config: sizes.
        weight_scales, input_scales, quant_marks: layer -> stored tensor, for fp8 with scales.
        full_precision_matmul: the file asks not to multiply in fp8.
    """

    config: ArchitectureConfig
    weight_scales: Mapping[str, StoredTensor]
    input_scales: Mapping[str, StoredTensor]
    quant_marks: Mapping[str, StoredTensor]
    full_precision_matmul: bool

    @property
    def precision(self) -> str:
        """The dtype that most of the numbers have, e.g. ``bfloat16`` or ``float8_e4m3fn, scaled``."""
        return self.main_dtype + (", scaled" if self.weight_scales else "")

    def summary(self) -> str:
        variants = matching_variants(self.config)
        what = " / ".join(variants) if variants else f"width {self.config.dim}, {self.config.num_layers} blocks"
        return f"{self.name}: {what}; {self.kind}, {self.precision}, {len(self.tensors)} tensors"


def read_layout(path: Path | str) -> Layout:
    """Judge a file or folder by its headers.

    Raises:
        CheckpointError: truncated, damaged or missing files, another model, missing or extra keys, wrong shapes; the
            message says what the file is and what was expected.
    """
    found = find_weight_files(path)
    stored = found.headers()
    prefix, diffusers = _recognise_names(found, stored)
    names, marks, extra = _official_names(stored, prefix, diffusers)
    shapes = {key: tensor.shape for key, tensor in names.items()}
    _refuse_relatives(found, shapes, describe({k.removeprefix(prefix): t.shape for k, t in stored.items()}))
    refuse_extra(partial(_fail, found), extra)
    config = _checked_config(found, names, shapes)
    _check_dtypes(found, names)
    scales = _check_scales(found, names, marks)
    companions = sum(not key.startswith(prefix) and key != _FP8_MARK for key in stored)
    matmul_mark = stored.get(prefix + _FP8_MARK, stored.get(_FP8_MARK))
    return Layout(
        path=found.root,
        name=found.name,
        kind=_kind(found, prefix, diffusers),
        config=config,
        tensors={key: names[key] for key in expected_keys(config)},
        weight_scales=scales[0],
        input_scales=scales[1],
        quant_marks=scales[2],
        full_precision_matmul=matmul_mark is not None and math.prod(matmul_mark.shape) == 2,
        notices=_notices(found, config, companions),
    )


def _fail(found: WeightFiles, sentence: str) -> CheckpointError:
    return refusal(found, WANTED, sentence)


def _template(key: str) -> str:
    return key if block_index(key) is None else f"blocks.{{i}}.{key.split('.', 2)[2]}"


def _recognise_names(found: WeightFiles, stored: Mapping[str, StoredTensor]) -> tuple[str, bool]:
    """Prefix, and whether the names are those of diffusers: the pair that explains most keys.

    Raises:
        CheckpointError: no pair explains a fair part of the file, so it is another kind of model.
    """
    template = diffusers_template()
    families = {False: set(template.values()), True: set(template)}
    best = (0, 0, "", False)
    for prefix in PREFIXES:
        inside = [_template(key[len(prefix) :]) for key in stored if key.startswith(prefix)]
        for diffusers, family in families.items():
            hits = sum(key in family for key in inside)
            if hits > best[0]:
                best = (hits, len(inside), prefix, diffusers)
    hits, inside_count, prefix, diffusers = best
    # both namings share patch_embedding and the like, so a handful of hits proves nothing
    if hits < 8 or hits < 0.2 * inside_count:
        raise _fail(found, f"is {describe({key: tensor.shape for key, tensor in stored.items()})}.")
    return prefix, diffusers


def _official_names(
    stored: Mapping[str, StoredTensor], prefix: str, diffusers: bool
) -> tuple[dict[str, StoredTensor], dict[str, StoredTensor], list[str]]:
    """Official key -> tensor, ``layer + quantisation suffix`` -> tensor, and the keys that have no official name."""
    names: dict[str, StoredTensor] = {}
    marks: dict[str, StoredTensor] = {}
    extra: list[str] = []
    known = set(diffusers_template().values())
    for key, tensor in stored.items():
        if not key.startswith(prefix):
            if not key.startswith(_COMPANIONS) and key != _FP8_MARK:
                extra.append(key)
            continue
        inner = key[len(prefix) :]
        if inner == _FP8_MARK:
            continue
        suffix = next((mark for mark in _QUANT_MARKS if inner.endswith(mark)), "")
        plain = inner.removesuffix(suffix) + ".weight" if suffix else inner
        official = diffusers_to_official(plain) if diffusers else plain
        if official is None or _template(official) not in known:
            extra.append(key)
        elif suffix:
            marks[official.removesuffix(".weight") + suffix] = tensor
        else:
            names[official] = tensor
    return names, marks, extra


def _checked_config(
    found: WeightFiles, names: Mapping[str, StoredTensor], shapes: Mapping[str, Shape]
) -> ArchitectureConfig:
    fail = partial(_fail, found)
    refuse_sizeless(fail, [_spelled(key, names) for key in SIZE_KEYS if key not in shapes])
    try:
        config = ArchitectureConfig.from_shapes(shapes)
    except ArchitectureError as error:
        raise fail(f"looks like a Wan transformer but cannot be used: {error}.") from None
    check_shapes(fail, names, expected_keys(config), lambda key: _spelled(key, names))
    _check_sizes(found, config)
    return config


def _refuse_relatives(found: WeightFiles, shapes: Mapping[str, Shape], described: str) -> None:
    """Refuse other members of the Wan family, which share most keys."""
    if described.startswith(("a Wan", "a HuMo")):
        raise _fail(found, f"is {described}.")
    patch = shapes.get("patch_embedding.weight", ())
    into = patch[1] if len(patch) == 5 else None
    if any(key.startswith("img_emb.") or ".cross_attn.k_img." in key for key in shapes):
        what = f"an image-to-video model (SkyReels-V2 I2V or Wan 2.1 I2V, {into} input channels)"
    elif into == 36:
        what = "a Wan 2.2 image-to-video model (36 input channels)"
    elif into == 48:
        what = "a Wan 2.2 TI2V-5B model (48 input channels)"
    else:
        return
    raise _fail(
        found,
        f"is {what}. Only diffusion-forcing (DF) models are served; with them, a start image goes into the sampler.",
    )


def _spelled(official: str, names: Mapping[str, StoredTensor]) -> str:
    """A missing key as this file would spell it."""
    diffusers = any(tensor.key.endswith("scale_shift_table") for tensor in names.values())
    return (official_to_diffusers(official) or official) if diffusers else official


def _check_sizes(found: WeightFiles, config: ArchitectureConfig) -> None:
    wanted = {"text_dim": TEXT_DIM, "freq_dim": FREQ_DIM, "in_dim": CHANNELS, "out_dim": CHANNELS}
    for name, value in wanted.items():
        if getattr(config, name) != value:
            actual = getattr(config, name)
            raise _fail(found, f"has {name} {actual}; ComfyUI's Wan text-to-video network needs {value}.")
    claims = dict(found.config)
    if "attention_head_dim" in claims and "num_attention_heads" in claims:
        claims["num_heads"] = claims["num_attention_heads"]
    for name in ("dim", "ffn_dim", "num_heads", "num_layers"):
        claim = claims.get(name)
        if isinstance(claim, int) and claim != getattr(config, name):
            raise _fail(
                found,
                f"contradicts its config.json: {name} is {claim} there and {getattr(config, name)} in the weights "
                "(an incomplete download, or heads that are not 128 wide).",
            )
    if claims.get("inject_sample_info") is True and not config.has_fps:
        raise _fail(found, f"lacks {some(FPS_KEYS)}, which its config.json promises: it is incomplete.")


def _check_dtypes(found: WeightFiles, names: Mapping[str, StoredTensor]) -> None:
    for tensor in names.values():
        if tensor.dtype not in PLAIN and tensor.dtype not in FP8:
            raise _fail(
                found, f"stores {tensor.key} as {tensor.dtype}; readable are {READABLE} (fp8 also with scales)."
            )


def _check_scales(
    found: WeightFiles, names: Mapping[str, StoredTensor], marks: Mapping[str, StoredTensor]
) -> tuple[dict[str, StoredTensor], dict[str, StoredTensor], dict[str, StoredTensor]]:
    """Sort the quantisation tensors by layer: weight scales, input scales, ``comfy_quant`` marks."""
    weight: dict[str, StoredTensor] = {}
    into: dict[str, StoredTensor] = {}
    quant: dict[str, StoredTensor] = {}
    for key, tensor in marks.items():
        layer, _, suffix = key.rpartition(".")
        suffix = "." + suffix
        if f"{layer}.weight" not in names:
            raise _fail(found, f"holds {tensor.key} for a layer that it does not have.")
        if suffix == _QUANT_MARK:
            quant[layer] = tensor
            continue
        if suffix not in (*_WEIGHT_SCALES, *_INPUT_SCALES):
            raise _fail(found, f"is quantised in a way that is not read ({tensor.key}); fp8, one scale a layer, is.")
        if math.prod(tensor.shape) != 1:
            raise _fail(found, f"has {tensor.key} of shape {list(tensor.shape)}; one scale per layer is read.")
        (weight if suffix in _WEIGHT_SCALES else into)[layer] = tensor
    for layer in {**quant, **weight}:
        dtype = names[f"{layer}.weight"].dtype
        if dtype not in FP8:
            raise _fail(found, f"has a scale for {layer}, whose weight is {dtype} and not fp8.")
        if layer not in weight:
            raise _fail(found, f"lacks the scale of {layer} (weight_scale): it is incomplete.")
    return weight, into, quant


def _kind(found: WeightFiles, prefix: str, diffusers: bool) -> str:
    layout = "diffusers layout" if diffusers else "official layout"
    if prefix:
        layout += f" with prefix {prefix}"
    return with_place(layout, found)


def _notices(found: WeightFiles, config: ArchitectureConfig, companions: int) -> tuple[str, ...]:
    notices = []
    by_name = " Its name says diffusion forcing." if _FORCING.search(f"{found.name} {found.pipeline}") else ""
    if config == PLAIN_WAN["Wan2.1-T2V-1.3B"]:
        notices.append(
            f"{found.name} has the keys of Wan2.1-T2V-1.3B: the frame-rate layers of SkyReels-V2-DF-1.3B are missing. "
            f"Chunk by chunk sampling needs diffusion-forcing (DF) weights; others drift or stay noisy.{by_name}"
        )
    elif config == PLAIN_WAN["Wan2.1-T2V-14B"]:
        notices.append(
            f"{found.name}: SkyReels-V2-DF-14B, SkyReels-V2-T2V-14B and Wan T2V-14B have identical keys, so the file "
            f"cannot tell which one it is. Chunk by chunk sampling needs the DF one.{by_name}"
        )
    return (*notices, *companions_notice(found.name, companions))
