"""The shipped storyboards: videos as chains of nodes, for the tiny world, SkyReels-V2 and MAGI-1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tools.workflow_graph import Link, Node
from tools.workflow_sources import (
    PROMPT,
    PROMPT_2,
    PROMPT_3,
    TINY_NEGATIVE,
    TINY_PRESET,
    TINY_SAMPLING,
    magi1_cache,
    magi1_sources,
    magi1_text,
    skyreels_sources,
    tiny_sources,
)

Graph = dict[str, Node]
TINY_PROMPTS = (
    "red ball moves right.safetensors",
    "red ball moves down.safetensors",
    "red ball moves right.safetensors",
)
SKYREELS_GUIDANCE, TINY_GUIDANCE = 6.0, TINY_SAMPLING["guidance"]
WIDE, COLUMN = 340, 380


def chain(nodes: Graph, begin: Node, prompts: list[tuple[str, int]], x: int, **more: Any) -> Graph:
    """Begin video and a row of Generate chunks behind it.

    Args:
        prompts: (key of a prompt's node, chunks) for each of them.
        more: further inputs of all of them.
    """
    begin.pos, begin.size = (x, 40), (WIDE, 520)
    made, last = {**nodes, "begin": begin}, ("begin", 0)
    for number, (prompt, chunks) in enumerate(prompts, start=1):
        inputs = {"take": last, "positive": (prompt, 0), "chunks": chunks, **more}
        made[f"part_{number}"] = Node(
            "MotionCacheGenerateChunks", (x + number * COLUMN, 40), inputs, (WIDE, 520), f"Part {number}"
        )
        last = (f"part_{number}", 0)
    return made


def end(nodes: Graph, take: Link, pos: tuple[int, int], prefix: str, name: str = "") -> Graph:
    """Finish a take, and write its video while it is decoded."""
    x, y = pos
    finish, save = f"finish{name}", f"save{name}"
    saved = {"samples": (finish, 0), "vae": ("vae", 0), "filename_prefix": f"motioncache/{prefix}"}
    return {
        **nodes,
        finish: Node("MotionCacheFinishVideo", (x, y), {"take": take}, (WIDE, 420)),
        save: Node("MotionCacheSaveLongVideo", (x + COLUMN, y), saved, (400, 420)),
    }


def note(text: str, title: str) -> Node:
    return Node("MarkdownNote", (780, -270), {"text": text}, (720, 250), title)


def title_of(prompt: str) -> str:
    """What a prompt's node is called, of its key: ``prompt_2`` or ``ending_2``."""
    kind, _, number = prompt.partition("_")
    return f"Prompt of {'part' if kind == 'prompt' else kind} {number}"


STORY = (
    "**One video, three prompts.** *Begin video* says size and plan, every *Generate chunks* adds a part with its own "
    "prompt, *Finish video* ends it.\n\nChange the prompt of part 3 and press Run: parts 1 and 2 are not made again. "
    "Add a part by copying a node. *autosave* (Show Advanced) keeps what was made, *Load take* goes on from it."
)
LONG = (
    "**A long take from one picture.** Chunks follow one another without a cut and without going through the VAE; "
    "memory does not grow with *chunks*.\n\nWith *autosave* (Show Advanced) an interrupt keeps what was made: connect "
    "*Load take* to *Finish video* or to another *Generate chunks*."
)
CONTINUE = (
    "**Go on from a video.** The last *continue_frames* of the video are what the new ones follow; they are at the "
    "beginning of what is saved.\n\nUse a video of the size that is set in *Begin video*."
)
ENDINGS = (
    "**Two endings from one middle.** Both endings go on from the same *Part 1*, which is made once. Compare them, "
    "keep the better one, try others: the middle is not made again."
)


def tiny_storyboard() -> Graph:
    """Three prompts, with what ships."""
    sources = tiny_sources()
    del sources["positive"]
    for number, prompt in enumerate(TINY_PROMPTS, start=1):
        sources[f"prompt_{number}"] = Node(
            "MotionCacheLoadPrompt",
            (40, 340 + 130 * (number - 1)),
            {"prompt_name": prompt},
            (320, 90),
            title_of(f"prompt_{number}"),
        )
    sources["negative"] = Node(
        "MotionCacheLoadPrompt", (40, 730), {"prompt_name": TINY_NEGATIVE}, (320, 90), "Negative"
    )
    sources["cache"] = Node("MotionCacheApply", (400, 40), {"model": ("model", 0), "preset": TINY_PRESET}, (340, 200))
    sources["note"] = note(STORY, "Try a storyboard (no download)")
    names = ("width", "height", "steps", "shift", "seed", "chunk_size", "ar_step", "window")
    begin = {name: TINY_SAMPLING[name] for name in names if name in TINY_SAMPLING}
    node = Node("MotionCacheBeginVideo", (0, 0), {"model": ("cache", 0), **begin})
    parts = [("prompt_1", 2), ("prompt_2", 2), ("prompt_3", 2)]
    made = chain(sources, node, parts, 780, negative=("negative", 0), guidance=TINY_GUIDANCE)
    return end(made, ("part_3", 0), (2300, 40), "tiny_storyboard")


SKYREELS_TAKE = {"steps": 50, "ar_step": 10, "kv_precision": "fp8_e4m3fn", "keep": "finished chunks"}
"""So that keys and values of 1.3B at 544 x 960 take about 16 GiB, which a card of 24 GB holds; by default 49."""


def _skyreels(title: str, text: str, begin: dict[str, Any], *prompts: tuple[str, str]) -> tuple[Graph, Node]:
    """(sources with one encoded prompt for each (key, words), Begin video)."""
    nodes = skyreels_sources()
    del nodes["positive"]
    for number, (key, words) in enumerate(prompts):
        inputs = {"clip": ("clip", 0), "text": words}
        nodes[key] = Node("CLIPTextEncode", (420, 530 + 220 * number), inputs, (340, 160), title_of(key))
    nodes["cache"].pos, nodes["negative"].pos = (420, 40), (420, 350)
    nodes["explained"] = note(text, title)
    return nodes, Node("MotionCacheBeginVideo", (0, 0), {"model": ("cache", 0), "seed": 42, **SKYREELS_TAKE, **begin})


def _magi1(title: str, text: str, begin: dict[str, Any], *prompts: tuple[str, str]) -> tuple[Graph, Node]:
    nodes = magi1_sources()
    for number, (key, words) in enumerate(prompts):
        nodes[key] = magi1_text((420, 400 + 370 * number), words, title_of(key), duration=False)  # of an open take
    nodes["cache"] = magi1_cache((420, 40))
    nodes["explained"] = note(text, title)
    inputs = {"model": ("cache", 0), "vae": ("vae", 0), "steps": 16, "seed": 1234, **begin}
    return nodes, Node("MotionCacheBeginMagi1Video", (0, 0), inputs)


FAMILIES: dict[str, tuple[Callable[..., tuple[Graph, Node]], dict[str, Any], dict[str, Any]]] = {
    "skyreels_v2": (_skyreels, {"negative": ("negative", 0), "guidance": SKYREELS_GUIDANCE}, {"vae": ("vae", 0)}),
    "magi1": (_magi1, {}, {}),
}
"""Sources, inputs of Generate chunks, and what Begin video needs with a start."""


def storyboard(family: str) -> Graph:
    """Three prompts."""
    sources, more, _ = FAMILIES[family]
    words = [("prompt_1", PROMPT), ("prompt_2", PROMPT_2), ("prompt_3", PROMPT_3)]
    nodes, begin = sources("Storyboard", STORY, {}, *words)
    made = chain(nodes, begin, [("prompt_1", 3), ("prompt_2", 3), ("prompt_3", 3)], 780, **more)
    return end(made, ("part_3", 0), (2300, 40), f"{family}_storyboard")


def long_take(family: str) -> Graph:
    """A long take from an image."""
    sources, more, start = FAMILIES[family]
    nodes, begin = sources("Long take", LONG, {"start_image": ("image", 0), **start}, ("prompt_1", PROMPT))
    nodes["image"] = Node("LoadImage", (40, 500), {"image": "example.png"}, (340, 330), "First frame")
    made = chain(nodes, begin, [("prompt_1", 12)], 780, autosave=f"{family} long take", **more)
    return end(made, ("part_1", 0), (1540, 40), f"{family}_long_take")


def continuation(family: str) -> Graph:
    """Going on from a video."""
    sources, more, start = FAMILIES[family]
    nodes, begin = sources("Go on from a video", CONTINUE, {"start_video": ("given", 0), **start}, ("prompt_1", PROMPT))
    nodes["file"] = Node("LoadVideo", (40, 500), {"file": "example.mp4"}, (340, 330), "Video to go on from")
    nodes["given"] = Node("GetVideoComponents", (40, 880), {"video": ("file", 0)}, (340, 80))
    made = chain(nodes, begin, [("prompt_1", 4)], 780, **more)
    return end(made, ("part_1", 0), (1540, 40), f"{family}_continuation")


def two_endings(family: str) -> Graph:
    """Two endings from one middle."""
    sources, more, _ = FAMILIES[family]
    words = [("prompt_1", PROMPT), ("ending_1", PROMPT_2), ("ending_2", PROMPT_3)]
    nodes, begin = sources("Two endings", ENDINGS, {}, *words)
    made = chain(nodes, begin, [("prompt_1", 4)], 780, **more)
    for number in (1, 2):
        key, y = f"ending_{number}", 40 + 860 * (number - 1)
        inputs = {"take": ("part_1", 0), "positive": (key, 0), "chunks": 2, **more}
        made[f"part_2_{number}"] = Node("MotionCacheGenerateChunks", (1540, y), inputs, (WIDE, 520), f"Ending {number}")
        made = end(made, (f"part_2_{number}", 0), (1920, y), f"{family}_{key}", f"_{number}")
    return made


WORKFLOWS: dict[str, Callable[[], Graph]] = {
    "Try a storyboard (no download)": tiny_storyboard,
    **{
        f"{model} {name}": (lambda make=make, family=family: make(family))
        for model, family in (("SkyReels-V2", "skyreels_v2"), ("MAGI-1", "magi1"))
        for name, make in (
            ("storyboard", storyboard),
            ("long take from image", long_take),
            ("video continuation", continuation),
            ("two endings", two_endings),
        )
    },
}
