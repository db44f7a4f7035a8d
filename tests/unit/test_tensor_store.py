"""Files of tensors and plain data: what was written comes back, anything else is refused with a sentence."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from motioncache_core.kv_cache import KVCache
from motioncache_core.tensor_store import StoreError, read, read_facts, write

VALUE = {
    "latents": torch.arange(24.0).view(2, 3, 4),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "eight": torch.ones(2, 5).to(torch.float8_e4m3fn),
    "none": torch.zeros(0, 4),
    "one": torch.tensor(3.0),
    ("a", 1): [1, 2.5, None, "text", True],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "sub" / "a.safetensors"
    write(path, "kind", 1, {"size": [1, 2]}, VALUE, ())
    return path


def test_what_was_written_comes_back(path: Path):
    assert read_facts(path, "kind", 1) == {"size": [1, 2]}
    found = read(path, "kind", 1, ())
    assert list(found) == list(VALUE)
    for name, value in VALUE.items():
        if isinstance(value, torch.Tensor):
            assert found[name].dtype == value.dtype and torch.equal(found[name].float(), value.float())
        else:
            assert found[name] == value
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_tensors_that_share_memory_are_written(tmp_path: Path):
    whole = torch.arange(6.0)
    write(tmp_path / "b", "kind", 1, {}, [whole, whole[2:], whole.view(2, 3).T], ())
    found = read(tmp_path / "b", "kind", 1, ())
    assert torch.equal(found[1], whole[2:]) and torch.equal(found[2], whole.view(2, 3).T)


def test_another_kind_or_version_is_refused(path: Path):
    with pytest.raises(StoreError, match="is no other"):
        read(path, "other", 1, ())
    with pytest.raises(StoreError, match=r"version '1' of the format kind; this package reads version 2"):
        read_facts(path, "kind", 2)


def test_every_flipped_byte_is_noticed(path: Path):
    raw = path.read_bytes()
    for at in range(0, len(raw), max(1, len(raw) // 160)):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 0x04]) + raw[at + 1 :])
        with pytest.raises(StoreError):
            read(path, "kind", 1, ())


def test_truncated_files_and_huge_headers_are_refused_at_once(path: Path):
    raw = path.read_bytes()
    started = time.process_time()
    for damaged in (raw[:-1], raw[: len(raw) // 2], raw[:7], b"", (2**32).to_bytes(8, "little") + raw[8:], raw + b"x"):
        path.write_bytes(damaged)
        with pytest.raises(StoreError):
            read_facts(path, "kind", 1)
    assert time.process_time() - started < 2.0


def test_only_known_classes_are_made(tmp_path: Path):
    cache = KVCache(1, 2, 3, torch.float32, torch.device("cpu"))
    write(tmp_path / "c", "kind", 1, {}, {"kv": cache}, ())
    assert isinstance(read(tmp_path / "c", "kind", 1, ())["kv"], KVCache)
    texts = {"facts": "{}", "data": json.dumps({"class": "Popen", "fields": {"dict": []}})}
    import zlib

    total = 0
    for name in sorted(texts):
        total = zlib.crc32(texts[name].encode(), total)
    save_file({}, tmp_path / "d", {"format": "kind", "version": "1", **texts, "checksum": str(total)})
    with pytest.raises(StoreError, match="Popen"):
        read(tmp_path / "d", "kind", 1, ())


def test_a_failed_write_leaves_the_old_file(path: Path):
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write(path, "kind", 1, {}, {"bad": object()}, ())
    assert path.read_bytes() == before
