"""Saved prompts come back as they were; what cannot be saved, and files that are no prompts, are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from motioncache_core.prompts import PromptError, load_prompt, save_prompt

GOOD = {"format": "motioncache_prompt", "version": "1", "text": "a fox"}


def conditioning() -> list:
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(1, 7, dtype=torch.int64)
    values = {
        "pooled_output": torch.randn(1, 32, generator=generator),
        "attention_mask": mask,
        "guidance": 3.5,
        "start_percent": 0.0,
        "crop_w": 7,
        "flags": [True, None, "x"],
    }
    return [
        [torch.randn(1, 7, 4096, generator=generator), values],
        [torch.randn(1, 3, 4096, generator=generator), {}],
    ]


def assert_equal(found: list, expected: list) -> None:
    assert len(found) == len(expected)
    for (cond, values), (cond_expected, values_expected) in zip(found, expected, strict=True):
        assert torch.equal(cond, cond_expected)
        assert set(values) == set(values_expected)
        for name, value in values_expected.items():
            assert torch.equal(values[name], value) if isinstance(value, torch.Tensor) else values[name] == value


def test_a_conditioning_comes_back_with_its_text(tmp_path):
    path = tmp_path / "deep" / "fox.safetensors"
    save_prompt(path, conditioning(), "a fox — 狐狸")
    found, text = load_prompt(path)
    assert text == "a fox — 狐狸"
    assert_equal(found, conditioning())
    assert list(path.parent.iterdir()) == [path], "nothing else is left behind"


def test_the_file_says_what_it_is(tmp_path):
    save_prompt(tmp_path / "fox.safetensors", conditioning(), "a fox")
    with safe_open(tmp_path / "fox.safetensors", "pt") as file:
        assert set(file.keys()) == {
            "entries.0.cond",
            "entries.0.pooled_output",
            "entries.0.attention_mask",
            "entries.1.cond",
        }
        metadata = file.metadata()
    assert {key: metadata[key] for key in GOOD} == GOOD
    assert json.loads(metadata["entries"])[0]["guidance"] == 3.5


def test_the_shortest_legal_file_is_loaded_as_float32(tmp_path):
    cond = torch.randn(1, 8, 4096).half()
    save_file({"entries.0.cond": cond}, tmp_path / "a.safetensors", GOOD)
    found, text = load_prompt(tmp_path / "a.safetensors")
    assert text == "a fox"
    assert_equal(found, [[cond.float(), {}]])
    assert found[0][0].dtype == torch.float32


def test_views_and_shared_tensors_are_saved(tmp_path):
    whole = torch.randn(2, 7, 16)
    entries = [[whole[:1], {"pooled_output": whole[0]}], [whole[1:].transpose(1, 2), {}]]
    save_prompt(tmp_path / "a.safetensors", entries)
    assert_equal(load_prompt(tmp_path / "a.safetensors")[0], entries)


def test_a_loaded_prompt_does_not_hold_its_file(tmp_path):
    save_prompt(tmp_path / "a.safetensors", conditioning())
    found, _ = load_prompt(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes(bytes(100))
    assert_equal(found, conditioning())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hooks": object()}, "entry 0 holds 'hooks' .object., which cannot be saved"),
        ({"control": {"a": 1}}, "entry 0 holds 'control' .dict."),
        ({"area": (4, 4, 0, 0)}, "entry 0 holds 'area' .tuple."),
        ({"reference_latents": [torch.zeros(1)]}, "entry 0 holds 'reference_latents' .list."),
        ({"strength": float("nan")}, "entry 0 holds 'strength' .float."),
        ({"cond": torch.zeros(1)}, "entry 0 holds 'cond', which has no place"),
        ({"a.b": 1}, "entry 0 holds 'a.b', which has no place"),
        ({3: 1}, "entry 0 holds 3, which has no place"),
    ],
)
def test_what_cannot_be_saved_is_refused_by_name(tmp_path, values, message):
    with pytest.raises(PromptError, match=message):
        save_prompt(tmp_path / "a.safetensors", [[torch.zeros(1, 2, 3), values]])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cond", [None, torch.zeros(2, 3), torch.zeros(1, 2, 3, dtype=torch.int64)])
def test_an_entry_without_a_text_conditioning_is_refused(tmp_path, cond):
    with pytest.raises(PromptError, match="entry 0 is no text conditioning"):
        save_prompt(tmp_path / "a.safetensors", [[cond, {}]])


def test_an_empty_conditioning_is_refused(tmp_path):
    with pytest.raises(PromptError, match="is empty"):
        save_prompt(tmp_path / "a.safetensors", [])


def test_a_failing_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_prompt(path, conditioning(), "old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("motioncache_core.prompts.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_prompt(path, conditioning(), "new")
    assert load_prompt(path)[1] == "old"
    assert list(tmp_path.iterdir()) == [path]


COND = {"entries.0.cond": torch.zeros(1, 2, 3)}


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        (COND, {}, "is not a saved prompt"),
        (COND, {**GOOD, "format": "other"}, "is not a saved prompt"),
        (COND, {**GOOD, "version": "2"}, "has version '2' of the prompt format; this package reads '1'"),
        (COND, {"format": GOOD["format"]}, "has version None"),
        ({"cond": torch.zeros(1, 2, 3)}, GOOD, "holds 'cond', which does not belong"),
        ({**COND, "entries.0.a.b": torch.zeros(1)}, GOOD, "holds 'entries.0.a.b'"),
        ({**COND, "entries.00.cond": torch.zeros(1, 2, 3)}, GOOD, "holds 'entries.00.cond'"),
        ({"entries.1.cond": torch.zeros(1, 2, 3)}, GOOD, r"its entries are \[1\]"),
        ({**COND, "entries.1.pooled_output": torch.zeros(1)}, GOOD, "entry 1 lacks its cond"),
        ({"entries.0.cond": torch.zeros(2, 3)}, GOOD, r"entries.0.cond is F32 of shape \[2, 3\]"),
        ({"entries.0.cond": torch.zeros(1, 0, 3)}, GOOD, r"of shape \[1, 0, 3\]"),
        ({"entries.0.cond": torch.zeros(1, 2, 3, dtype=torch.int32)}, GOOD, "entries.0.cond is I32"),
        (COND, {**GOOD, "entries": "{"}, "is not JSON"),
        (COND, {**GOOD, "entries": "[{}, {}]"}, "does not fit its 1 tensors"),
        (COND, {**GOOD, "entries": "[7]"}, "does not fit"),
        (COND, {**GOOD, "entries": '[{"cond": 1}]'}, "does not fit"),
        ({}, GOOD, "its entries are"),
    ],
)
def test_files_that_are_no_prompts_are_refused(tmp_path, tensors, metadata, message):
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    with pytest.raises(PromptError, match=f"a.safetensors.*{message}"):
        load_prompt(tmp_path / "a.safetensors")


def test_a_truncated_prompt_is_refused(tmp_path):
    save_prompt(tmp_path / "a.safetensors", conditioning())
    content = (tmp_path / "a.safetensors").read_bytes()
    Path(tmp_path / "a.safetensors").write_bytes(content[:-5])
    with pytest.raises(PromptError, match=r"truncated.*\(5 missing\)"):
        load_prompt(tmp_path / "a.safetensors")
