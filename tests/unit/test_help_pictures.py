"""The help pages' pictures: there, small, each of them named by a page, and addressed so that the page finds them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from tools.host.environment import REPO
from tools.make_help_pictures import named_in

DOCS = REPO / "web" / "docs"
PAGES = sorted(DOCS.glob("*.md"))
KINDS = {".webp", ".png", ".jpg"}
LARGEST, LARGEST_TOGETHER = 60_000, 900_000
WITHOUT = {"MotionCacheLoadSkyReelsV2", "MotionCacheLoadMagi1", "MotionCacheLoadMagi1VAE", "MotionCacheLoadPrompt"}
WITHOUT |= {"MotionCacheSavePrompt", "MotionCacheMagi1TextEncode", "MotionCacheSaveTake", "MotionCacheLoadTake"}
"""Nodes that load, save or encode: nothing of their effect on the video can be drawn."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_picture_of_a_page_is_there_and_small(page: Path):
    for words, address in named_in(page):
        # The front end puts the page's folder before an address that is neither absolute nor a URL.
        assert not re.match(r"/|[a-z]+:|\.\.", address), address
        picture = DOCS / address
        assert picture.is_file(), f"{page.name} names {address}"
        assert picture.stat().st_size < LARGEST
        with Image.open(picture) as image:
            assert image.width >= (700 if picture.parent != DOCS else 300), "blurred in a wide side bar"
            image.load()
        assert len(words) >= 10 and not set(words) & set("\"'<>"), "the older front end puts it into HTML as it is"


def test_pages_of_nodes_with_knobs_have_pictures():
    assert {page.stem for page in PAGES if not named_in(page)} == WITHOUT


def test_every_picture_is_named_by_a_page():
    files = {path for path in DOCS.rglob("*") if path.suffix in KINDS}
    assert files == {DOCS / address for page in PAGES for _, address in named_in(page)}
    assert sum(path.stat().st_size for path in files) < LARGEST_TOGETHER
