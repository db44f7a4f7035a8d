"""Makes the pictures of the help pages from the files that ship: `python dev.py pictures [NAME ...]`.

Every picture is a run (or several) of the tiny world through the pack's own nodes, with a knob at a few values, or the
plan that the sampler draws before a run. Runs are kept in `build/help_pictures` until a source or a model changes, so
that a second start only draws.
"""

from __future__ import annotations

import argparse
import io
import logging
import re
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tools.bench.harness import pack
from tools.host.environment import REPO
from tools.tinyworld.host import import_comfyui

FOLDER = REPO / "web" / "docs" / "pictures"
LARGEST = 28_000
"""Bytes up to which a picture keeps all its colours."""
ROUNDED = 8
"""Of 256 levels, those that become one in larger pictures."""


def main(given: list[str] | None = None) -> int:
    """Draw the named pictures, or all."""
    parser = argparse.ArgumentParser(prog="dev.py pictures", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these (all)")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where they are written")
    parser.add_argument("--runs", type=Path, default=REPO / "build" / "help_pictures", help="where runs are kept")
    options = parser.parse_args(given)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    import_comfyui()
    pack.load()
    from tools.helppictures.catalogue import PICTURES
    from tools.helppictures.runs import Runs

    logging.getLogger("motioncache").setLevel(logging.WARNING)
    torch.set_num_threads(1)  # the same sums on every machine, and the model is too small for more to help
    unknown = [name for name in options.names if name not in PICTURES]
    if unknown:
        parser.error(f"there is no picture {unknown[0]!r}; there is: {', '.join(PICTURES)}")
    options.out.mkdir(parents=True, exist_ok=True)
    runs = Runs(options.runs)
    for name in options.names or PICTURES:
        content = encoded(PICTURES[name](runs))
        path = options.out / f"{name}.webp"
        path.write_bytes(content)
        print(f"{len(content) / 1000:5.1f} kB  {path}", flush=True)
    return 0


def named_in(page: Path) -> list[tuple[str, str]]:
    """(words, address) of a page's pictures, in order."""
    return re.findall(r"!\[([^\]]*)\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))


def encoded(picture: np.ndarray) -> bytes:
    """As WebP: without loss where that is small, else the smaller of few colours (cells) and with loss (frames)."""
    whole = Image.fromarray(picture)
    exact = _webp(whole, lossless=True, quality=80)
    if len(exact) <= LARGEST:
        return exact
    middle = picture // ROUNDED * ROUNDED + ROUNDED // 2
    rounded = np.where((picture == 0) | (picture == 255), picture, middle).astype(np.uint8)
    few = Image.fromarray(rounded).quantize(128, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).convert("RGB")
    return min(_webp(few, lossless=True, quality=80), _webp(whole, quality=85), key=len)


def _webp(image: Image.Image, **how: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "WEBP", method=4, **how)
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(main())
