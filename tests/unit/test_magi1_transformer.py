"""The MAGI-1 transformer: strict loading, packed and partial calls, stored keys, float8, and life inside ComfyUI."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from motioncache_core.kv_cache import KVCache
from motioncache_core.models.magi1 import fp8, products, stretches, transformer
from motioncache_core.models.magi1.architecture import (
    NULL_CAPTION,
    PREFIX,
    VARIANTS,
    ArchitectureConfig,
    expected_entries,
    parameter_count,
)
from motioncache_core.models.magi1.attention import grouped
from motioncache_core.models.magi1.casting import Build
from motioncache_core.models.magi1.items import Fresh, Item, Placed, Stored, Writes, reads_of_range
from motioncache_core.models.magi1.rotary import positions
from motioncache_core.models.magi1.transformer import Magi1Transformer

CONFIG = ArchitectureConfig(
    dim=32, ffn_dim=48, num_heads=4, num_groups=2, num_layers=3, head_dim=8, text_dim=16, text_tokens=12
)
GATED = ArchitectureConfig(**{**vars(CONFIG), "gated": True, "doubled_channels": True, "x_rescale": 0.1})
QUANTISED = ArchitectureConfig(**{**vars(CONFIG), "fp8": True})
TOKENS = 2 * 2 * 3
"""Of a chunk of 2 latent frames of 4 by 6."""


def random_weights(config: ArchitectureConfig, seed: int = 0) -> dict[str, Tensor]:
    """A state dict in the stored dtypes, with sizes that keep all parts of the network at work."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for key, entry in expected_entries(config).items():
        values = torch.randn(entry.shape, generator=generator)
        if "scale" in key:
            values = 0.01 + 0.002 * values.clamp(-2, 2)
            values = values * 0.1 if key.endswith("weight_scale") else values
        elif entry.dtype == "float8_e4m3fn":
            values = values * 60
        elif len(entry.shape) > 1:
            values = values * entry.shape[-1] ** -0.5
        else:
            values = values * 0.2
        weights[key] = values.to(getattr(torch, entry.dtype))
    return weights


def build(config: ArchitectureConfig, dtype: torch.dtype = torch.float32, **arguments: object) -> Magi1Transformer:
    import comfy.ops

    network = Magi1Transformer(config, comfy.ops.manual_cast, dtype, **arguments)
    network.load_state_dict(random_weights(config))
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def network() -> Magi1Transformer:
    return build(CONFIG)


@pytest.fixture(scope="module", params=[CONFIG, GATED, QUANTISED], ids=["4.5B", "24B", "fp8"])
def each(request: pytest.FixtureRequest) -> Magi1Transformer:
    """A network of each kind, float32."""
    return build(request.param)


def chunk(seed: int, place: int = 0, frames: int = 2, **changes: object) -> Item:
    """An item of a chunk of its own, alone unless said otherwise."""
    generator = torch.Generator().manual_seed(seed)
    item = Item(
        latents=torch.randn(16, frames, 4, 6, generator=generator),
        timestep=0.2 + 0.1 * (seed % 7),
        text=torch.randn(3 + seed % 4, 16, generator=generator),
        start=frames * place,
        reads=(Fresh(0),),
    )
    return replace(item, **changes)


def store(network: Magi1Transformer, chunks: int) -> KVCache:
    config = network.config
    return KVCache(config.num_layers, chunks * TOKENS, config.kv_dim, torch.float32, torch.device("cpu"))


def exactness(network: Magi1Transformer) -> float:
    """What rounding alone may move: where activations are float8, another order of a sum can flip one."""
    return 2e-2 if network.config.fp8 else 1e-5


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((ours - theirs).abs().max() <= tolerance * theirs.abs().max())


def unpatched(mask: Tensor, item: Item) -> Tensor:
    """Tokens -> latents, ``[F, h, w]``."""
    return mask.view(item.grid).repeat_interleave(2, 1).repeat_interleave(2, 2)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_official_state_dicts_load_strictly_on_the_meta_device(reference_dir, variant, record_property):
    import comfy.ops

    path = reference_dir / "magi1" / "manifests" / "dit_full_state_dicts.json.gz"
    if not path.is_file():
        pytest.skip("the full key lists are not in the committed subset of the golden data")
    golden = json.loads(gzip.decompress(path.read_bytes()))
    entries = golden.get(variant.name) or golden[variant.name.replace("distill", "base")]
    state = {
        key: torch.empty(shape, dtype=getattr(torch, dtype), device="meta") for key, (shape, dtype) in entries.items()
    }
    network = Magi1Transformer(variant.config, comfy.ops.manual_cast, device=torch.device("meta"))
    made = {key: (tensor.shape, tensor.dtype) for key, tensor in network.state_dict().items()}
    result = network.load_state_dict(state, strict=True, assign=True)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    loaded = dict(network.named_parameters())
    assert sum(parameter.numel() for parameter in loaded.values()) == parameter_count(variant.config)
    for key, tensor in state.items():
        here = f"{key}.weight" if key == NULL_CAPTION else key
        assert (loaded[here].shape, loaded[here].dtype) == (tensor.shape, tensor.dtype)
        assert made[here] == (tensor.shape, tensor.dtype), "built as the original builds it"
    record_property("parameters", parameter_count(variant.config))


def test_scales_land_where_they_belong():
    network, weights = build(QUANTISED), random_weights(QUANTISED)
    assert not isinstance(network.videodit_blocks.layers[0].mlp.linear_fc1, fp8.QuantisedLinear)
    assert not isinstance(network.videodit_blocks.layers[2].mlp.linear_fc1, fp8.QuantisedLinear)
    inner = network.videodit_blocks.layers[1]
    for name in ("linear_qkv.q", "linear_qkv.qx", "linear_qkv.k", "linear_qkv.v", "linear_proj"):
        layer = inner.self_attention.get_submodule(name)
        assert isinstance(layer, fp8.QuantisedLinear)
        for scale in ("weight_scale", "input_scale") + (("smooth_scale",) if name == "linear_proj" else ()):
            stored = weights[f"{PREFIX}1.self_attention.{name}.{scale}"]
            assert torch.equal(getattr(layer, scale), stored)
    assert not isinstance(inner.self_attention.linear_kv_xattn, fp8.QuantisedLinear)


def test_a_missing_key_is_named():
    import comfy.ops

    weights = random_weights(CONFIG)
    del weights[NULL_CAPTION]
    network = Magi1Transformer(CONFIG, comfy.ops.manual_cast, torch.float32)
    with pytest.raises(RuntimeError, match="null_caption_embedding"):
        network.load_state_dict(weights)


def test_keys_of_the_state_dict_lead_to_parameters(network):
    """ComfyUI follows a key from attribute to attribute when it patches or saves a weight."""
    import comfy.ops
    import comfy.utils

    state = network.state_dict()
    assert all(isinstance(comfy.utils.get_attr(network, key), nn.Parameter) for key in state)
    again = Magi1Transformer(CONFIG, comfy.ops.manual_cast, torch.float32)
    again.load_state_dict(state)
    assert torch.equal(again.y_embedder.null_caption_embedding.weight, random_weights(CONFIG)[NULL_CAPTION])


def test_packed_items_equal_one_by_one(each, attend):
    """Chunks of other lengths, texts, times and roles in one call do not touch each other."""
    items = [
        chunk(1, place=3),
        chunk(2, frames=1, step_length=8.0),
        chunk(3, text=None, text_dropped=True),
        chunk(4, chosen=torch.tensor([0, 5, 7])),
        chunk(5, chosen=torch.empty(0, dtype=torch.long)),
        chunk(1, place=3, text=None),
    ]
    packed = each([replace(item, reads=(Fresh(i),)) for i, item in enumerate(items)], attend)
    for item, velocity in zip(items, packed, strict=True):
        (alone,) = each([item], attend)
        assert velocity.shape == item.latents.shape
        assert close(velocity, alone, exactness(each)) if item.computed else not velocity.any()


def test_condition_text_and_place_all_count(each, attend):
    """Every field of an item changes its velocity; with history its place does, alone it does not."""
    base = chunk(1)
    (plain,) = each([base], attend)
    changes = [
        {"timestep": 0.9},
        {"step_length": 8.0},
        {"step_length": 4.0},
        {"text": None},
        {"text": base.text[:-1]},
        {"text_dropped": True},
    ]
    others = [each([replace(base, **change)], attend)[0] for change in changes]
    for i, one in enumerate([plain, *others]):
        for other in others[i:]:
            assert not close(one, other, 1e-4)
    assert close(each([replace(base, start=17)], attend)[0], plain, max(2e-4, exactness(each))), (
        "alone, only relative positions count"
    )


def test_a_window_in_one_call_equals_chunk_after_chunk(each, attend):
    """Keys from the same call and stored keys are the same thing."""
    chunks = [chunk(seed, place) for place, seed in enumerate((1, 2, 3))]
    lane = [Placed(i, i * TOKENS, (i + 1) * TOKENS) for i in range(3)]
    together = each(
        [replace(c, reads=reads_of_range(0, (i + 1) * TOKENS, lane, "r")) for i, c in enumerate(chunks)], attend
    )
    kv = store(each, 3)
    for i, c in enumerate(chunks):
        item = replace(c, reads=(Stored("r", 0, (i + 1) * TOKENS),), writes=Writes("r", i * TOKENS))
        (velocity,) = each([item], attend, kv)
        assert close(velocity, together[i], exactness(each))
    assert not close(each([chunks[2]], attend)[0], together[2], 5e-2), "history counts"


def test_a_call_may_mix_stored_rows_and_rows_of_its_own(network, attend):
    """The original's scheme: the window's rows come from the call even where the store holds others."""
    kv = store(network, 3)
    first = chunk(1, 0)
    network([replace(first, reads=(Fresh(0),), writes=Writes("r", 0))], attend, kv)
    stale = chunk(9, 1)
    network([replace(stale, reads=(Fresh(0),), writes=Writes("r", TOKENS))], attend, kv)
    lane = [Placed(0, TOKENS, 2 * TOKENS), Placed(1, 2 * TOKENS, 3 * TOKENS)]
    window = [
        replace(chunk(2, 1), reads=reads_of_range(0, 2 * TOKENS, lane, "r")),
        replace(chunk(3, 2), reads=reads_of_range(0, 3 * TOKENS, lane, "r")),
    ]
    mixed = network(window, attend, kv)
    whole = [Placed(i, i * TOKENS, (i + 1) * TOKENS) for i in range(3)]
    items = [first, *window]
    items = [replace(x, reads=reads_of_range(0, (i + 1) * TOKENS, whole, "r")) for i, x in enumerate(items)]
    for ours, theirs in zip(mixed, network(items, attend)[1:], strict=True):
        assert close(ours, theirs)


def test_chosen_tokens_come_out_as_in_the_full_forward(each, attend):
    kv = store(each, 2)
    before = replace(chunk(1, 0), writes=Writes("r", 0), reads=(Stored("r", 0, TOKENS),))
    full = replace(chunk(2, 1), writes=Writes("r", TOKENS), reads=(Stored("r", 0, 2 * TOKENS),))
    each([before], attend, kv)
    (velocity,) = each([full], attend, kv)
    chosen = torch.tensor([1, 4, 6, 11])
    (sparse,) = each([replace(full, chosen=chosen)], attend, kv)
    there = unpatched(torch.zeros(TOKENS, dtype=torch.bool).index_fill(0, chosen, True), full)
    assert close(sparse[:, there], velocity[:, there], exactness(each))
    assert not sparse[:, ~there].any()


def test_a_sparse_call_replaces_the_rows_of_its_tokens_only(network, attend):
    kv = store(network, 2)
    item = replace(chunk(1, 1), writes=Writes("r", TOKENS), reads=(Stored("r", TOKENS, 2 * TOKENS),))
    network([item], attend, kv)
    like = torch.empty(0)
    old = [kv.read("r", layer, slice(0, 2 * TOKENS), like)[0].clone() for layer in range(3)]
    chosen = torch.tensor([2, 3])
    network([replace(chunk(8, 1), writes=item.writes, reads=item.reads, chosen=chosen)], attend, kv)
    for layer in range(3):
        new = kv.read("r", layer, slice(0, 2 * TOKENS), like)[0]
        changed = (new != old[layer]).any(-1).flatten().nonzero().flatten()
        assert changed.tolist() == (chosen + TOKENS).tolist()


def test_a_call_without_tokens_runs_no_block(network):
    def no_attention(*_: Tensor) -> Tensor:
        pytest.fail("a block ran")

    none = torch.empty(0, dtype=torch.long)
    (velocity,) = network([chunk(1, chosen=none)], no_attention)
    assert velocity.shape == (16, 2, 4, 6)
    assert not velocity.any()


def test_a_shared_text_is_projected_once(network, attend):
    seen = []
    layer = network.videodit_blocks.layers[0].self_attention.linear_kv_xattn
    hook = layer.register_forward_hook(lambda module, args, result: seen.append(args[0].shape[0]))
    text = torch.randn(5, 16)
    items = [chunk(i, text=text if i < 3 else None, reads=(Fresh(i),)) for i in range(5)]
    network(items, attend)
    hook.remove()
    assert seen == [5, CONFIG.null_tokens]


def test_long_sequences_go_in_stretches(each, attend, monkeypatch):
    items = [chunk(1), chunk(2, reads=(Fresh(1),))]
    whole = each(items, attend)
    monkeypatch.setattr(stretches, "VALUES_AT_ONCE", 400)
    monkeypatch.setattr(transformer, "MATRIX_VALUES_AT_ONCE", 400)
    for module in (products, fp8):
        monkeypatch.setattr(module, "_VALUES_AT_ONCE", 400)
    for ours, theirs in zip(each(items, attend), whole, strict=True):
        assert close(ours, theirs, exactness(each))


def test_stretches_are_as_long_as_their_widest_numbers_allow(monkeypatch):
    monkeypatch.setattr(stretches, "VALUES_AT_ONCE", 60)
    seen: list[tuple[int, ...]] = []

    def doubled(a: Tensor, b: Tensor) -> Tensor:
        seen.append(tuple(a.shape))
        return torch.cat([a, b], dim=1)

    a, b = torch.randn(7, 6), torch.randn(7, 2)
    expected = torch.cat([a, b], dim=1)
    for width, at_once, sizes in ((1, None, [7]), (20, None, [3, 3, 1]), (20, 100, [5, 2]), (1000, None, [1] * 7)):
        seen.clear()
        assert torch.equal(stretches.by_rows(doubled, a, b, width=width, at_once=at_once), expected)
        assert [rows for rows, _ in seen] == sizes


BF16, CUDA = torch.bfloat16, torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("changes", "chosen"),
    [
        ({}, True),
        ({"dtype": torch.float32}, False),
        ({"weight_dtype": torch.float16}, False),
        ({"weight_dtype": torch.float8_e4m3fn}, False),
        ({"weight_device": torch.device("cpu")}, False),
        ({"device": torch.device("cpu"), "weight_device": torch.device("cpu")}, False),
        ({"device": torch.device("mps"), "weight_device": torch.device("mps")}, False),
        ({"changed": [lambda weight: weight]}, False),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_the_output_projection_takes_bfloat16_units_where_nothing_is_lost(changes, chosen, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "12.8")  # this machine may have none; nothing runs there
    asked = {"dtype": BF16, "device": CUDA, "weight_dtype": BF16, "weight_device": CUDA, "changed": ()}
    if "dtype" in torch.ops.aten.mm.overloads():
        assert products.sums_on_tensor_cores(**asked | changes) == chosen
    monkeypatch.setattr(torch.version, "cuda", None)
    assert not products.sums_on_tensor_cores(**asked | changes), "of AMD's, which are called cuda too"


def test_the_output_projection_is_float32_of_bfloat16_numbers(monkeypatch):
    """On either way: the other one is played here by a product of the same exact numbers."""
    linear = torch.nn.Linear(64, 32, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    cast = type("Cast", (nn.Module,), {"forward": lambda self, x: nn.functional.linear(x, linear.weight.to(x.dtype))})()
    cast.weight = linear.weight
    x = torch.randn(9, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    exact = x.double() @ linear.weight.double().t()
    plain = products.precise_product(cast, x)
    assert plain.dtype == torch.float32 and close(plain.double(), exact, 1e-6)
    handed = []

    def product(a: Tensor, b: Tensor, out_dtype: torch.dtype) -> Tensor:
        handed.append((a.dtype, b.dtype, tuple(b.shape)))
        return (a.double() @ b.double()).to(out_dtype)

    monkeypatch.setattr(products, "sums_on_tensor_cores", lambda *asked: True)
    monkeypatch.setattr(torch, "mm", product)
    assert close(products.precise_product(cast, x), plain)
    assert handed == [(torch.bfloat16, torch.bfloat16, (64, 32))]
    monkeypatch.undo()
    asked: list = []
    monkeypatch.setattr(products, "sums_on_tensor_cores", lambda *given: asked.append(given[-1]))
    products.precise_product(cast, x)
    cast.forward = lambda x: nn.functional.linear(x, 2 * linear.weight.to(x.dtype))
    assert close(products.precise_product(cast, x), 2 * plain)
    cast.weight_function = [lambda weight: weight]
    products.precise_product(cast, x)
    assert [bool(changed) for changed in asked] == [False, True, True]


def test_grouped_attention_equals_repeated_keys(attend):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(7, 6, 8, generator=generator)
    k, v = (torch.randn(11, 2, 8, generator=generator) for _ in range(2))
    repeated = (t.repeat_interleave(3, dim=1).flatten(1).unsqueeze(0) for t in (k, v))
    assert close(grouped(attend, q, k, v), attend(q.flatten(1).unsqueeze(0), *repeated, 6)[0])


def test_bfloat16_stays_near_float32(attend):
    items = [chunk(1), chunk(2, reads=(Fresh(1),))]
    precise, rounded = build(GATED), build(GATED, torch.bfloat16)
    for ours, theirs in zip(rounded(items, attend), precise(items, attend), strict=True):
        assert ours.dtype == torch.float32
        assert not torch.equal(ours, theirs)
        assert close(ours, theirs, 0.03)


def test_linear_weights_may_be_kept_in_plain_float8(attend):
    network = build(CONFIG, torch.bfloat16, weight_dtype=torch.float8_e4m3fn)
    inner = network.videodit_blocks.layers[1]
    assert inner.mlp.linear_fc1.weight.dtype == torch.float8_e4m3fn
    assert inner.mlp_post_norm.weight.dtype == torch.bfloat16
    assert network.x_embedder.weight.dtype == torch.float32
    assert close(network([chunk(1)], attend)[0], build(CONFIG, torch.bfloat16)([chunk(1)], attend)[0], 0.2)


def test_gradients_reach_every_parameter(attend):
    """The tiny model is trained through the same forward."""
    network = build(CONFIG).requires_grad_(True)
    items = [chunk(1, text=None), chunk(2, reads=(Fresh(0), Fresh(1)), text_dropped=True)]
    sum(velocity.square().mean() for velocity in network(items, attend)).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_positions_span_the_same_area_for_every_size():
    frames, rows, columns = positions(3, 2, 16, 16, torch.device("cpu"))
    assert frames.tolist() == [3.0, 4.0]
    assert rows.tolist() == columns.tolist() == [i - 7.5 for i in range(16)]
    _, rows, columns = positions(0, 1, 8, 32, torch.device("cpu"))
    assert (rows[-1] - rows[0]).item() == pytest.approx(7)
    assert (columns[-1] - columns[0]).item() == pytest.approx(31)
    _, rows, columns = positions(0, 1, 32, 32, torch.device("cpu"))
    assert (rows[-1] - rows[0]).item() == pytest.approx(15)
    assert positions(0, 1, 1, 4, torch.device("cpu"))[1].tolist() == [0.0]


def test_bad_items_are_refused(network, attend):
    with pytest.raises(ValueError, match=r"5 x 6 do not divide into 2 x 2 patches \(nearest: 6 x 6\)"):
        Item(torch.zeros(16, 1, 5, 6), 0.0, None, 0, ())
    with pytest.raises(ValueError, match="no store is given"):
        network([chunk(1, writes=Writes("r", 0))], attend)
    with pytest.raises(ValueError, match="no store is given"):
        network([chunk(1, reads=(Stored("r", 0, 4),))], attend)


def test_ranges_that_cannot_be_read_are_refused():
    lane = [Placed(0, 20, 30), Placed(1, 30, 40)]
    assert reads_of_range(10, 40, lane, "r") == (Stored("r", 10, 20), Fresh(0), Fresh(1))
    assert reads_of_range(0, 20, lane, "r") == (Stored("r", 0, 20),)
    assert reads_of_range(30, 40, lane, "r") == (Fresh(1),)
    with pytest.raises(ValueError, match="rows 10 to 35 cut through the chunk at 30 to 40"):
        reads_of_range(10, 35, lane, "r")
    with pytest.raises(ValueError, match="rows 40 to 50 are neither stored nor made in this call"):
        reads_of_range(10, 50, lane, "r")
    with pytest.raises(ValueError, match="rows 30 to 40 are neither stored"):
        reads_of_range(20, 50, [lane[0], Placed(1, 40, 50)], "r")


def quantised(smooth: bool) -> fp8.QuantisedLinear:
    layers = build(QUANTISED).videodit_blocks.layers[1].mlp
    return layers.linear_fc2 if smooth else layers.linear_fc1


@pytest.mark.parametrize("smooth", [False, True], ids=["per tensor", "per channel"])
def test_float8_layers_round_their_input(smooth):
    layer = quantised(smooth)
    x = torch.randn(6, layer.weight.shape[2], generator=torch.Generator().manual_seed(1))
    x[0, 0] = 1e4  # beyond what float8 holds: clipped
    divisor = layer.smooth_scale if smooth else layer.input_scale
    rounded = (x / divisor).clamp(-448, 448).bfloat16().to(torch.float8_e4m3fn).double()
    expected = rounded @ layer.weight[0].double().T * layer.input_scale[0].double() * layer.weight_scale.double()
    ours = layer(x)
    assert torch.equal(ours, ours.bfloat16().float())
    assert close(ours.double(), expected, 5e-3)
    unrounded = torch.nn.functional.linear(x[1:], layer.convert_weight(layer.weight))
    assert not close(ours[1:], unrounded, 1e-3), "the rounding shows"
    assert close(ours[1:], unrounded, 0.1)


@pytest.mark.parametrize("smooth", [False, True], ids=["per tensor", "per channel"])
def test_the_devices_own_float8_product_gets_the_same_numbers(smooth, monkeypatch):
    layer = quantised(smooth)
    x = torch.randn(16, layer.weight.shape[2], generator=torch.Generator().manual_seed(1))
    plain, handed = layer(x), []

    def product(a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, out_dtype: torch.dtype) -> Tensor:
        handed.append((a.dtype, b.dtype, a.is_contiguous(), b.stride(0) == 1))
        return (a.float() @ b.float() * scale_a * scale_b).to(out_dtype)

    monkeypatch.setattr(fp8, "has_scaled_matmul", lambda device: True)
    monkeypatch.setattr(torch, "_scaled_mm", product)
    assert torch.equal(layer(x), plain)
    assert handed == [(torch.float8_e4m3fn, torch.float8_e4m3fn, True, True)], "row-major times column-major"
    off = build(QUANTISED, native_float8=False).videodit_blocks.layers[1].mlp
    assert torch.equal((off.linear_fc2 if smooth else off.linear_fc1)(x), plain)
    assert len(handed) == 1


@pytest.mark.parametrize("smooth", [False, True], ids=["per tensor", "per channel"])
def test_float8_weights_survive_the_way_to_real_weights_and_back(smooth):
    layer = quantised(smooth)
    stored = layer.weight.clone()
    real = layer.convert_weight(layer.weight)
    assert real.shape == stored.shape[1:], "as the patches of a linear layer"
    again = layer.set_weight(real, return_weight=True)
    assert again.shape == stored.shape
    assert torch.equal(again.float(), stored.float())
    layer.set_weight(real * 2, inplace_update=True)
    assert close(layer.convert_weight(layer.weight).clamp(-1e3, 1e3), real * 2, 0.07)


def test_float8_rounding_by_chance_keeps_the_mean_and_the_neighbours():
    exact = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    exact = exact[exact.isfinite()]
    assert torch.equal(fp8.round_to_fp8(exact.unsqueeze(0), seed=1)[0].float(), exact), "its own numbers stay"
    values = torch.cat([torch.linspace(-500, 500, 4001), torch.logspace(-4, 2, 4000), torch.tensor([0.0, 2**-10])])
    values = values.unsqueeze(0)
    grid = exact.sort().values.unique()
    below = grid[(torch.searchsorted(grid, values.clamp(-448, 448), right=True) - 1).clamp_min(0)]
    above = grid[torch.searchsorted(grid, values.clamp(-448, 448)).clamp_max(len(grid) - 1)]
    draws = torch.stack([fp8.round_to_fp8(values, seed).float() for seed in range(200)])
    assert ((draws == below) | (draws == above)).all()
    off = (draws.mean(dim=0) - values.clamp(-448, 448)).abs()
    assert (off <= 0.2 * (above - below) + 1e-7).all(), "six standard deviations of 200 draws"
    assert torch.equal(fp8.round_to_fp8(values, seed=5).float(), draws[5]), "the same in every run"
    assert torch.equal(fp8.round_to_fp8(values).float(), values.clamp(-448, 448).to(torch.float8_e4m3fn).float())


@pytest.mark.parametrize("smooth", [False, True], ids=["per tensor", "per channel"])
def test_small_changes_of_float8_weights_keep_their_strength(smooth):
    """A LoRA that changes weights by a hundredth of their size, far less than a float8 step."""
    linear = fp8.QuantisedLinear(256, 512, smooth, Build(None, torch.bfloat16, torch.bfloat16)).requires_grad_(False)
    generator = torch.Generator().manual_seed(2)
    for scale in (linear.weight_scale, linear.input_scale, getattr(linear, "smooth_scale", linear.input_scale)):
        scale.data.fill_(1.0).add_(torch.rand(scale.shape, generator=generator) * 0.5)
    linear.weight.data.copy_(torch.randn(linear.weight.shape, generator=generator) * 60)
    real = linear.convert_weight(linear.weight)
    change = torch.randn(512, 8, generator=generator) @ torch.randn(8, 256, generator=generator)
    change *= 0.01 * real.std() / change.std()

    def strength(seed: int | None) -> float:
        made = linear.convert_weight(linear.set_weight(real + change, seed=seed, return_weight=True)) - real
        return ((made * change).sum() / change.square().sum()).item()

    assert strength(seed=4) == pytest.approx(1.0, abs=0.05)
    assert strength(seed=None) < 0.8, "to the nearest, most of it is lost"


class Wrapped(nn.Module):
    """What a ModelPatcher holds: a module with the network in it."""

    def __init__(self, network: Magi1Transformer):
        super().__init__()
        self.diffusion_model = network


LORA_KEYS = (
    f"{PREFIX}0.self_attention.linear_proj.weight",
    f"{PREFIX}1.self_attention.linear_qkv.q.weight",
    f"{PREFIX}1.mlp.linear_fc2.weight",
    f"{PREFIX}1.mlp_post_norm.weight",
    f"{PREFIX}1.self_attention.q_layernorm_xattn.bias",
    "x_embedder.weight",
)


@pytest.fixture
def run_patched(attend) -> Callable[..., Tensor]:
    """Velocity of a network under a ModelPatcher that loads it whole or leaves all that can stay where it was."""

    def run(config: ArchitectureConfig, patches: dict[str, Tensor], partial: bool) -> Tensor:
        from comfy.model_patcher import ModelPatcher

        cpu = torch.device("cpu")
        model = Wrapped(build(config))
        patcher = ModelPatcher(model, cpu, cpu)
        accepted = patcher.add_patches({f"diffusion_model.{key}": ("diff", (diff,)) for key, diff in patches.items()})
        assert len(accepted) == len(patches)
        patcher.patch_model(cpu, lowvram_model_memory=1 if partial else 0)
        try:
            assert model.model_lowvram == partial
            return model.diffusion_model([chunk(1), chunk(2, text=None, reads=(Fresh(0), Fresh(1)))], attend)[1]
        finally:
            patcher.unpatch_model(cpu)

    return run


@pytest.mark.parametrize("config", [CONFIG, QUANTISED], ids=["plain", "fp8"])
def test_patches_act_alike_in_whole_and_partly_loaded_models(config, run_patched):
    weights = random_weights(config)
    generator = torch.Generator().manual_seed(3)
    shapes = {key: weights[key].shape[-2:] if ".linear_" in key else weights[key].shape for key in LORA_KEYS}
    changes = {key: torch.randn(shape, generator=generator) * 0.05 for key, shape in shapes.items()}
    plain = run_patched(config, {}, partial=False)
    assert close(run_patched(config, {}, partial=True), plain)
    whole = run_patched(config, changes, partial=False)
    assert not close(whole, plain, 1e-2)
    assert close(run_patched(config, changes, partial=True), whole)
    for key, change in changes.items():
        one = run_patched(config, {key: change * 4}, partial=True)
        assert not close(one, plain, 1e-4), f"{key} does not act"


def test_every_parameter_lies_where_a_partial_load_can_move_it():
    """ComfyUI passes over parameters beside child modules with parameters of their own."""
    from comfy.model_patcher import ModelPatcher

    model = Wrapped(build(QUANTISED))
    patcher = ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))
    listed = {f"{name}.{param}" for *_, name, _, params in patcher._load_list() for param in params}
    assert listed == set(dict(model.named_parameters()))
