"""Names of files: legal on every system, inside of their folder, numbered where taken."""

from __future__ import annotations

import pytest

from motioncache_core.file_names import FileNameError, file_path, name_problem


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fox", "fox.safetensors"),
        ("fox.safetensors", "fox.safetensors"),
        ("walks/fox at night", "walks/fox at night.safetensors"),
        ("walks\\fox", "walks/fox.safetensors"),
        ('a:b*c?"<>|\n', "a_b_c______.safetensors"),
        ("  .fox. ", ".fox.safetensors"),
        ("C:\\fox", "C_/fox.safetensors"),
        ("con", "_con.safetensors"),
        ("狐" * 100, "狐" * 50 + ".safetensors"),
        ("a//b", "a/b.safetensors"),
    ],
)
def test_file_names_are_made_legal(tmp_path, name, expected):
    assert file_path(tmp_path, name, overwrite=True) == tmp_path / expected


@pytest.mark.parametrize("name", ["../fox", "a/../../fox", "/etc/fox", "\\fox", "a\\..\\fox"])
def test_names_that_lead_out_are_refused(tmp_path, name):
    with pytest.raises(FileNameError, match="leads out of"):
        file_path(tmp_path, name, overwrite=False)


@pytest.mark.parametrize("name", ["", "  ", ".safetensors", "...", "."])
def test_empty_names_are_refused(tmp_path, name):
    with pytest.raises(FileNameError, match="is empty"):
        file_path(tmp_path, name, overwrite=False)


def test_a_taken_name_gets_a_number_unless_overwriting(tmp_path):
    for expected in ("fox", "fox_2", "fox_3"):
        path = file_path(tmp_path, "fox", overwrite=False)
        assert path.name == f"{expected}.safetensors"
        path.write_bytes(b"")
    assert file_path(tmp_path, "fox", overwrite=True).name == "fox.safetensors"


def test_a_problem_names_the_input(tmp_path):
    assert name_problem(tmp_path, "forest/walk") is None and name_problem(tmp_path, None) is None
    assert name_problem(tmp_path, "../x", "autosave").startswith("autosave '../x' leads out of")
