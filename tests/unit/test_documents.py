"""The README and the pages under docs/: what they link to is there, headings included."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "tiny_world" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\((?!\w+:)([^)#]*)(?:#([^)]*))?\)")


def anchors(page: Path) -> set[str]:
    """The headings as GitHub addresses them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    for address, heading in LINK.findall(page.read_text(encoding="utf-8")):
        target = (page.parent / address).resolve() if address else page
        assert target.exists(), address
        assert not heading or heading in anchors(target), f"{address} has no heading #{heading}"


def test_pictures_of_the_documents_are_named_by_one():
    named = {
        (page.parent / address).resolve() for page in PAGES for address, _ in LINK.findall(page.read_text("utf-8"))
    }
    pictures = {path for path in (ROOT / "docs").iterdir() if path.suffix in {".png", ".jpg", ".webp"}}
    assert pictures <= named
