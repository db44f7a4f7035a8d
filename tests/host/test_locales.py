"""Translations keep in step with the schemas, ComfyUI serves them, and every node has a help page."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tools.host.environment import REPO
from tools.host.server import ComfyServer
from tools.make_locales import LANGUAGES, called_by_id, node_defs, read, with_ids


def leaves(tree: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def test_the_english_file_is_what_the_schemas_say(comfy: ComfyServer) -> None:
    found = node_defs(comfy.object_info())
    assert read("en") == found, "run `python -m tools.make_locales` and translate what changed"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_the_same_keys(language: str) -> None:
    english, own = dict(leaves(read("en"))), dict(leaves(read(language)))
    assert own.keys() == english.keys()
    empty = [path for path, text in own.items() if not text.strip()]
    assert not empty
    sentences = [path for path, text in english.items() if " " in text and path[-1] != "name"]
    same = [path for path in sentences if own[path] == english[path]]
    assert not same, "sentences that were not translated"


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translated_name_has_the_id_that_other_texts_call_the_input_by(language: str) -> None:
    """Else nobody finds the knob that an error or a help page speaks of."""
    called, own = called_by_id(read("en")), read(language)
    assert own == with_ids(own, called), "run `python -m tools.make_locales`"
    assert own["MotionCacheApply"]["inputs"]["chunk_phase_updates"]["name"].endswith(" (chunk_phase_updates)")
    assert {"chunk_threshold", "window", "guidance", "seed"} <= called


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_no_text_has_signs_that_the_front_end_takes_for_its_own(language: str) -> None:
    """vue-i18n reads ``{name}``, ``@:key`` and ``a | b``."""
    assert not [text for _, text in leaves(read(language)) if re.search(r"[{}|@]", text)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_values_that_are_typed_keep_their_names(language: str) -> None:
    """What has to be chosen or typed as it stands is not translated."""
    kept = re.compile(r"'custom'|'table'|'one step'|\bvae\b|999:0, 500:0\.8|min-max|models/\w+|clean_refresh|fp8")
    own = dict(leaves(read(language)))
    for path, text in leaves(read("en")):
        if path[-1] != "name":
            missing = [word for word in kept.findall(text) if word not in own[path]]
            assert not missing, (path, missing)


def test_comfyui_serves_them(comfy: ComfyServer) -> None:
    with urllib.request.urlopen(f"{comfy.url}/i18n") as answer:
        served = json.loads(answer.read())
    for language in ("en", *LANGUAGES):
        assert served[language]["nodeDefs"]["MotionCacheApply"] == read(language)["MotionCacheApply"]


def test_every_node_has_a_help_page(comfy: ComfyServer) -> None:
    nodes = {kind for kind in comfy.object_info() if kind.startswith("MotionCache")}
    pages = {path.stem for path in (REPO / "web" / "docs").glob("*.md")}
    assert pages == nodes
