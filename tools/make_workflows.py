"""Writes the shipped workflows: `python -m tools.make_workflows OBJECT_INFO.json`.

The files under `workflows/` are its output.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tools import storyboard_workflows
from tools.host.environment import REPO
from tools.workflow_graph import Link, Node, to_saved
from tools.workflow_layout import spread
from tools.workflow_sources import (
    PROMPT,
    PROMPT_2,
    PROMPT_3,
    TINY_PRESET,
    TINY_SAMPLING,
    magi1_cache,
    magi1_sources,
    magi1_text,
    skyreels_sources,
    tiny_sources,
)


def finish(nodes: dict[str, Node], x: int, prefix: str, fps: float) -> dict[str, Node]:
    """Decode, save, and show what the cache did."""
    return {
        **nodes,
        "decode": Node("VAEDecode", (x, 40), {"samples": ("sample", 0), "vae": ("vae", 0)}, (240, 60)),
        "video": Node("CreateVideo", (x, 160), {"images": ("decode", 0), "fps": fps}, (240, 90)),
        "save": Node("SaveVideo", (x + 280, 40), {"video": ("video", 0), "filename_prefix": prefix}, (420, 460)),
        "report": Node("PreviewAny", (x, 310), {"source": ("sample", 2)}, (240, 190), "What was saved"),
        "mask": Node("MotionCacheDecisionMask", (x, 560), {"decisions": ("sample", 3)}, (240, 110)),
        "mask_image": Node("MaskToImage", (x, 730), {"mask": ("mask", 0)}, (240, 60)),
        "mask_save": Node(
            "SaveAnimatedWEBP",
            (x + 280, 560),
            {"images": ("mask_image", 0), "filename_prefix": f"{prefix}_recomputed", "fps": fps},
            (420, 420),
            "White: recomputed often",
        ),
    }


def tiny_world() -> dict[str, Node]:
    """The demo: everything it needs ships with the pack."""
    note = (
        "**Try MotionCache** with a tiny model that ships with the pack: nothing to download, 13 s on 2 quiet CPU "
        "cores.\n\nIt knows only its own toy world. Choose other prompts in the two Load prompt nodes, turn the knobs "
        "of MotionCache, and compare *What was saved*."
    )
    nodes = {
        "note": Node("MarkdownNote", (40, -190), {"text": note}, (660, 170), "Tiny world"),
        **tiny_sources(),
        "cache": Node("MotionCacheApply", (400, 40), {"model": ("model", 0), "preset": TINY_PRESET}, (340, 200)),
        "sample": Node(
            "MotionCacheAutoregressiveSampler",
            (780, 40),
            {"model": ("cache", 0), "positive": ("positive", 0), "negative": ("negative", 0), **TINY_SAMPLING},
            (340, 480),
        ),
    }
    return finish(nodes, 1160, "motioncache/tiny_world", 24.0)


def compare() -> dict[str, Node]:
    """The tiny world with and without MotionCache: how alike are the videos, and what did each cost?"""
    note = (
        "**What do my settings cost in quality?** The same video twice, same prompt and seed, without and with "
        "MotionCache. *Compare videos* measures how alike they are; *MotionCache sweep* puts quality and cost into a "
        "plot.\n\nTo try more settings, copy MotionCache, its sampler, VAE Decode, Compare videos and the last sweep, "
        "turn the knobs, and connect *previous* to the sweep before. For your own model, replace loaders and prompts."
    )
    sampling = {"positive": ("positive", 0), "negative": ("negative", 0), **TINY_SAMPLING}
    videos = {"reference": ("decode_plain", 0), "compared": ("decode_cached", 0)}
    plain = {"report": ("plain", 1), "label": "without MotionCache"}
    cached = {"report": ("cached", 1), "label": "MotionCache", "quality": ("compare", 2), "previous": ("first", 0)}
    sampler, size = "MotionCacheAutoregressiveSampler", (340, 480)
    return {
        "note": Node("MarkdownNote", (40, -190), {"text": note}, (700, 170), "Compare cache settings"),
        **tiny_sources(),
        "cache": Node("MotionCacheApply", (400, 40), {"model": ("model", 0), "preset": TINY_PRESET}, (340, 200)),
        "plain": Node(sampler, (780, 40), {"model": ("model", 0), **sampling}, size, "Without MotionCache"),
        "cached": Node(sampler, (1160, 40), {"model": ("cache", 0), **sampling}, size, "With MotionCache"),
        "decode_plain": Node("VAEDecode", (1540, 40), {"samples": ("plain", 0), "vae": ("vae", 0)}, (300, 60)),
        "decode_cached": Node("VAEDecode", (1540, 150), {"samples": ("cached", 0), "vae": ("vae", 0)}, (300, 60)),
        "compare": Node("MotionCacheCompareVideos", (1540, 260), videos, (300, 210)),
        "first": Node("MotionCacheSweep", (1540, 520), plain, (300, 150)),
        "second": Node("MotionCacheSweep", (1540, 720), cached, (300, 150)),
        "frames": Node("PreviewImage", (1880, -180), {"images": ("compare", 0)}, (460, 370), "Frame by frame"),
        "worst": Node("PreviewImage", (1880, 240), {"images": ("compare", 1)}, (460, 240), "Worst frame"),
        "plot": Node("PreviewImage", (1880, 530), {"images": ("second", 1)}, (460, 350), "Quality over cost"),
        "table": Node("PreviewAny", (40, 640), {"source": ("second", 2)}, (700, 230), "All runs"),
    }


def skyreels(image: bool) -> dict[str, Node]:
    """Text or image to video with SkyReels-V2 DF 1.3B 540P."""
    start = {"start_image": ("image", 0), "vae": ("vae", 0)} if image else {}
    nodes = {
        **skyreels_sources(),
        "sample": Node(
            "MotionCacheAutoregressiveSampler",
            (800, 40),
            {
                "model": ("cache", 0),
                "positive": ("positive", 0),
                "negative": ("negative", 0),
                "steps": 50,
                "frames": 97,
                "seed": 42,
                **start,
            },
            (340, 480),
        ),
    }
    if image:
        nodes["image"] = Node("LoadImage", (40, 500), {"image": "example.png"}, (340, 330), "First frame")
    return finish(nodes, 1180, "motioncache/skyreels_v2", 24.0)


def _magi1_sampler(pos: tuple[int, int], frames: int, **more: Link) -> Node:
    sources = {"model": ("cache", 0), "positive": ("positive", 0), "vae": ("vae", 0)}
    numbers = {"steps": 16, "frames": frames, "seed": 1234}
    return Node("MotionCacheMagi1Sampler", pos, {**sources, **numbers, **more}, (340, 560))


def magi1(start: str | None = None) -> dict[str, Node]:
    """Text, image or video (``start``) to video with MAGI-1 4.5B distilled."""
    nodes = {
        **magi1_sources(),
        "positive": magi1_text((420, 40), PROMPT, "Prompt"),
        "cache": magi1_cache((420, 400)),
        "sample": _magi1_sampler((800, 40), 96, **({f"start_{start}": ("given", 0)} if start else {})),
    }
    if start == "image":
        nodes["given"] = Node("LoadImage", (40, 480), {"image": "example.png"}, (340, 330), "First frame")
    elif start == "video":
        nodes["file"] = Node("LoadVideo", (40, 480), {"file": "example.mp4"}, (340, 330), "Video to go on from")
        nodes["given"] = Node("GetVideoComponents", (40, 860), {"video": ("file", 0)}, (340, 80))
    return finish(nodes, 1180, "motioncache/magi1", 24.0)


def magi1_several_prompts() -> dict[str, Node]:
    """A story in one take with MAGI-1 4.5B distilled: the prompt changes twice while the video goes on."""
    note = (
        "\n\n*Prompt for chunks* says from which second on a prompt holds; chain as many as you like. What was made "
        "before stays as it is."
    )
    nodes = {
        **magi1_sources(note),
        "positive": magi1_text((420, 40), PROMPT, "Prompt, from the beginning"),
        "words_2": magi1_text((420, 400), PROMPT_2, "Prompt, from the third second"),
        "words_3": magi1_text((420, 760), PROMPT_3, "Prompt, from the fifth second"),
        "cache": magi1_cache((800, 40)),
        "chunks_2": Node(
            "MotionCacheChunkPrompt", (800, 400), {"conditioning": ("words_2", 0), "first_chunk": 3}, (340, 90)
        ),
        "chunks_3": Node(
            "MotionCacheChunkPrompt",
            (800, 760),
            {"conditioning": ("words_3", 0), "first_chunk": 5, "chunk_prompts": ("chunks_2", 0)},
            (340, 90),
        ),
        "sample": _magi1_sampler((1180, 40), 144, chunk_prompts=("chunks_3", 0)),
    }
    return finish(nodes, 1560, "motioncache/magi1_story", 24.0)


WORKFLOWS = {
    "Try MotionCache (no download)": tiny_world,
    "Compare cache settings": compare,
    "SkyReels-V2 text to video": lambda: skyreels(image=False),
    "SkyReels-V2 image to video": lambda: skyreels(image=True),
    "MAGI-1 text to video": magi1,
    "MAGI-1 image to video": lambda: magi1("image"),
    "MAGI-1 video to video": lambda: magi1("video"),
    "MAGI-1 several prompts": magi1_several_prompts,
    **storyboard_workflows.WORKFLOWS,
}


def saved(name: str, info: dict[str, Any]) -> dict[str, Any]:
    """A workflow as it ships, made with what the host serves at /object_info."""
    return to_saved(name, spread(WORKFLOWS[name]()), info)


def main() -> None:
    """Write all workflows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("object_info", type=Path, help="JSON that the host serves at /object_info")
    info = json.loads(parser.parse_args().object_info.read_text(encoding="utf-8"))
    for name in WORKFLOWS:
        text = json.dumps(saved(name, info), indent=2, ensure_ascii=False)
        (REPO / "workflows" / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
