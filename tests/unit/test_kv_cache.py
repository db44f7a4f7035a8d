"""Keys and values: rows are overwritten where told, roles are apart, memory is what was announced."""

from __future__ import annotations

import pytest
import torch

from motioncache_core.kv_cache import KVCache

CPU = torch.device("cpu")
ROLE, OTHER = ("positive", 0, 0), ("negative", 0, 0)
PRECISIONS = [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn]


def cache(dtype: torch.dtype = torch.float32) -> KVCache:
    return KVCache(layers=2, tokens=6, width=4, dtype=dtype, device=CPU)


def rows(*values: float) -> torch.Tensor:
    """``[n, 4]``, one value a row."""
    return torch.tensor(values).view(-1, 1).repeat(1, 4)


def read(kv: KVCache, role: object = ROLE, layer: int = 0, span: slice = slice(0, 6)) -> tuple[list, list]:
    keys, values = kv.read(role, layer, span, torch.zeros(1))
    assert keys.shape == values.shape == (1, span.stop - span.start, 4)
    return keys[0, :, 0].tolist(), values[0, :, 3].tolist()


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_a_slice_and_single_rows_are_overwritten(dtype: torch.dtype):
    kv = cache(dtype)
    kv.write(ROLE, 0, slice(1, 4), rows(1, 2, 3), rows(-1, -2, -3))
    kv.write(ROLE, 0, torch.tensor([3, 0]), rows(8, 9), rows(-8, -9))
    assert read(kv) == ([9, 1, 2, 8, 0, 0], [-9, -1, -2, -8, 0, 0])
    assert read(kv, span=slice(1, 3)) == ([1, 2], [-1, -2])


def test_layers_and_roles_are_apart():
    kv = cache()
    for i, (role, layer) in enumerate([(ROLE, 0), (ROLE, 1), (OTHER, 0), (OTHER, 1)]):
        kv.write(role, layer, slice(0, 6), rows(*[i] * 6), rows(*[i + 10] * 6))
    for i, (role, layer) in enumerate([(ROLE, 0), (ROLE, 1), (OTHER, 0), (OTHER, 1)]):
        assert read(kv, role, layer) == ([i] * 6, [i + 10] * 6)


def test_no_rows_change_nothing():
    kv = cache()
    kv.write(ROLE, 0, torch.empty(0, dtype=torch.long), rows(), rows())
    assert read(kv) == ([0] * 6, [0] * 6)


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_reading_gives_the_precision_asked_for(dtype: torch.dtype):
    kv = cache(dtype)
    kv.write(ROLE, 0, slice(0, 6), rows(*[0.3] * 6), rows(*[0.3] * 6))
    for like in (torch.float32, torch.bfloat16):
        keys, _ = kv.read(ROLE, 0, slice(0, 6), torch.zeros(1, dtype=like))
        assert keys.dtype == like
        assert keys.float().mean().item() == pytest.approx(0.3, rel=2**-4)


def test_what_fp8_cannot_hold_becomes_its_largest_value():
    kv = cache(torch.float8_e4m3fn)
    kv.write(ROLE, 0, slice(0, 3), rows(1000, -1e6, 447), rows(1, 1, 1))
    kv.write(ROLE, 0, torch.tensor([3]), rows(500), rows(1))
    assert read(kv, span=slice(0, 4))[0] == [448, -448, 448, 448]


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_the_announced_bytes_are_those_allocated(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    made = []
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *a, **k: made.append(zeros(*a, **k)) or made[-1])
    kv = cache(dtype)
    kv.allocate(ROLE)
    kv.allocate(OTHER)
    kv.allocate(ROLE)
    assert sum(tensor.nbytes for tensor in made) == KVCache.bytes_needed(2, 6, 4, 2, dtype)


def test_freed_memory_is_gone():
    kv = cache()
    kv.write(ROLE, 0, slice(0, 1), rows(1), rows(1))
    kv.free()
    with pytest.raises(KeyError):
        read(kv)
