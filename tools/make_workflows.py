"""Writes the shipped workflows: `python -m tools.make_workflows OBJECT_INFO.json`.

A graph is written down here as nodes with their inputs; this turns it into the JSON that ComfyUI's front end saves,
with the widgets in the order that the host's `/object_info` tells. The files under `workflows/` are its output.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.host.environment import REPO
from tools.host.workflow import UPLOADS, WIDGET_TYPES

Link = tuple[str, int]
"""(key of a node, slot of its output)."""


@dataclass
class Node:
    """One node: class, place, inputs (values, or :data:`Link` to another node's output)."""

    kind: str
    pos: tuple[int, int]
    inputs: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] = (320, 120)
    title: str | None = None
    seed_control: str = "fixed"


def to_saved(nodes: dict[str, Node], info: dict[str, Any]) -> dict[str, Any]:
    """The front end's JSON (litegraph 0.4)."""
    ids = {key: number for number, key in enumerate(nodes, start=1)}
    links: list[list[Any]] = []
    saved = []
    for key, node in nodes.items():
        if node.kind == "MarkdownNote":
            saved.append(_note(ids[key], node))
            continue
        schema = info[node.kind]
        sockets, values = [], []
        for name, spec in _inputs(schema):
            value = node.inputs.get(name, spec[1].get("default") if len(spec) > 1 else None)
            socket_only = len(spec) > 1 and spec[1].get("forceInput")
            widget = (isinstance(spec[0], list) or spec[0] in WIDGET_TYPES) and not socket_only
            linked = isinstance(value, tuple)
            if widget:
                values.append(None if linked else _default(value, spec))
                if len(spec) > 1 and spec[1].get("control_after_generate"):
                    values.append(node.seed_control)
            if not widget or linked:
                kind = "COMBO" if isinstance(spec[0], list) else spec[0]
                socket = {"name": name, "type": kind, "link": None, **({"widget": {"name": name}} if widget else {})}
                if linked:
                    links.append([len(links) + 1, ids[value[0]], value[1], ids[key], len(sockets), kind])
                    socket["link"] = len(links)
                sockets.append(socket)
        if any(options.get(name) for _, spec in _inputs(schema) for options in spec[1:] for name in UPLOADS):
            values.append("image")  # what the front end saves for the upload button, of videos too
        unknown = set(node.inputs) - {name for name, _ in _inputs(schema)}
        if unknown:
            raise KeyError(f"{node.kind} has no input {', '.join(sorted(unknown))}")
        saved.append(_saved_node(ids[key], node, schema, sockets, values))
    _fill_outputs(saved, links)
    return {
        "last_node_id": len(ids),
        "last_link_id": len(links),
        "nodes": saved,
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def _inputs(schema: dict[str, Any]) -> list[tuple[str, list[Any]]]:
    parts = schema["input"]
    return [(name, spec) for part in ("required", "optional") for name, spec in parts.get(part, {}).items()]


def _default(value: Any, spec: list[Any]) -> Any:
    if value is not None:
        return value
    options = spec[0] if isinstance(spec[0], list) else spec[1].get("options", []) if len(spec) > 1 else []
    return options[0] if options else ""


def _saved_node(
    number: int, node: Node, schema: dict[str, Any], sockets: list[dict[str, Any]], values: list[Any]
) -> dict[str, Any]:
    outputs = [
        {"name": name, "type": kind, "links": []}
        for name, kind in zip(schema["output_name"], schema["output"], strict=True)
    ]
    return {
        "id": number,
        "type": node.kind,
        "pos": list(node.pos),
        "size": list(node.size),
        "flags": {},
        "order": number - 1,
        "mode": 0,
        "inputs": sockets,
        "outputs": outputs,
        "properties": {"Node name for S&R": node.kind},
        "widgets_values": values,
        **({"title": node.title} if node.title else {}),
    }


def _note(number: int, node: Node) -> dict[str, Any]:
    return {
        "id": number,
        "type": "MarkdownNote",
        "pos": list(node.pos),
        "size": list(node.size),
        "flags": {},
        "order": number - 1,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "title": node.title or "Note",
        "properties": {},
        "widgets_values": [node.inputs["text"]],
        "color": "#432",
        "bgcolor": "#653",
    }


def _fill_outputs(saved: list[dict[str, Any]], links: list[list[Any]]) -> None:
    by_id = {node["id"]: node for node in saved}
    for number, source, slot, *_ in links:
        by_id[source]["outputs"][slot]["links"].append(number)


PROMPT = (
    "A slow tracking shot of a red fox walking through fresh snow between birch trees at sunrise, its breath visible, "
    "soft golden light, shallow depth of field"
)
NEGATIVE = "blurry, distorted, flicker, watermark, text, static picture, extra limbs"


def _finish(nodes: dict[str, Node], x: int, prefix: str, fps: float) -> dict[str, Node]:
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
        "**Try MotionCache** with a tiny model that ships with the pack: nothing to download, about a minute on a "
        "CPU.\n\nIt knows only its own toy world. Choose other prompts in the two Load prompt nodes, turn the knobs "
        "of MotionCache, and compare *What was saved*."
    )
    nodes = {
        "note": Node("MarkdownNote", (40, -180), {"text": note}, (660, 170), "Tiny world"),
        **_tiny_sources(),
        "cache": Node(
            "MotionCacheApply", (400, 40), {"model": ("model", 0), "preset": "custom", **TINY_CACHE}, (340, 200)
        ),
        "sample": Node(
            "MotionCacheAutoregressiveSampler",
            (780, 40),
            {"model": ("cache", 0), "positive": ("positive", 0), "negative": ("negative", 0), **TINY_SAMPLING},
            (340, 480),
        ),
    }
    return _finish(nodes, 1160, "motioncache/tiny_world", 24.0)


def _tiny_sources() -> dict[str, Node]:
    """Model, VAE and prompts of the tiny world."""
    return {
        "model": Node("MotionCacheLoadSkyReelsV2", (40, 40), {"model_name": TINY_MODEL}, (320, 140)),
        "vae": Node("VAELoader", (40, 230), {"vae_name": TINY_VAE}, (320, 60)),
        "positive": Node("MotionCacheLoadPrompt", (40, 340), {"prompt_name": TINY_PROMPT}, (320, 90), "Prompt"),
        "negative": Node("MotionCacheLoadPrompt", (40, 480), {"prompt_name": TINY_NEGATIVE}, (320, 90), "Negative"),
    }


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
        "note": Node("MarkdownNote", (40, -180), {"text": note}, (700, 170), "Compare cache settings"),
        **_tiny_sources(),
        "cache": Node(
            "MotionCacheApply", (400, 40), {"model": ("model", 0), "preset": "custom", **TINY_CACHE}, (340, 200)
        ),
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
    note = (
        "**Files**\n\n- `models/diffusion_models/Wan2_1-SkyReels-V2-DF-1_3B-540P_fp32.safetensors` (or the official "
        "repository `SkyReels-V2-DF-1.3B-540P` as a folder)\n- `models/text_encoders/umt5_xxl_fp8_e4m3fn_scaled."
        "safetensors`\n- `models/vae/wan_2.1_vae.safetensors`\n\nThe preset holds the settings published with "
        "MotionCache for this model (50 steps, guidance 6, shift 8). Compare with preset *off*."
    )
    model = "Wan2_1-SkyReels-V2-DF-1_3B-540P_fp32.safetensors"
    clip = {"clip_name": "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "type": "wan"}
    start = {"start_image": ("image", 0), "vae": ("vae", 0)} if image else {}
    nodes = {
        "note": Node("MarkdownNote", (40, -260), {"text": note}, (700, 250), "SkyReels-V2 1.3B"),
        "model": Node("MotionCacheLoadSkyReelsV2", (40, 40), {"model_name": model}, (340, 140)),
        "clip": Node("CLIPLoader", (40, 230), clip, (340, 110)),
        "vae": Node("VAELoader", (40, 390), {"vae_name": "wan_2.1_vae.safetensors"}, (340, 60)),
        "positive": Node("CLIPTextEncode", (420, 40), {"clip": ("clip", 0), "text": PROMPT}, (340, 160), "Prompt"),
        "negative": Node("CLIPTextEncode", (420, 260), {"clip": ("clip", 0), "text": NEGATIVE}, (340, 120), "Negative"),
        "cache": Node("MotionCacheApply", (420, 440), {"model": ("model", 0)}, (340, 200)),
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
    return _finish(nodes, 1180, "motioncache/skyreels_v2", 24.0)


def magi1(start: str | None = None) -> dict[str, Node]:
    """Text, image or video (``start``) to video with MAGI-1 4.5B distilled."""
    note = (
        "**Files**\n\n- `models/diffusion_models/4.5B_distill/inference_weight.distill/` and "
        "`models/vae/magi1_vae/` (`config.json`, `diffusion_pytorch_model.safetensors`): folders of the repository "
        "`sand-ai/MAGI-1`\n- `models/text_encoders/t5xxl_fp16.safetensors`\n- `models/magi1/special_tokens.npz` "
        "(optional, for the switches of the text node)\n\nThe preset holds the settings published with MotionCache, "
        "scaled to 16 steps. Compare with preset *off*. About 1.7 GB of memory for every chunk that is kept."
    )
    nodes = {
        "note": Node("MarkdownNote", (40, -260), {"text": note}, (700, 250), "MAGI-1 4.5B distilled"),
        "model": Node("MotionCacheLoadMagi1", (40, 40), {"model_name": MAGI1_MODEL}, (340, 90)),
        "clip": Node("CLIPLoader", (40, 190), {"clip_name": MAGI1_TEXT, "type": "pixart"}, (340, 110)),
        "vae": Node("MotionCacheLoadMagi1VAE", (40, 360), {"vae_name": MAGI1_VAE}, (340, 60)),
        "positive": Node(
            "MotionCacheMagi1TextEncode", (420, 40), {"clip": ("clip", 0), "text": PROMPT}, (340, 300), "Prompt"
        ),
        "cache": Node(
            "MotionCacheApply",
            (420, 400),
            {"model": ("model", 0), "preset": "MotionCache (scaled to the steps)"},
            (340, 200),
        ),
        "sample": Node(
            "MotionCacheMagi1Sampler",
            (800, 40),
            {
                "model": ("cache", 0),
                "positive": ("positive", 0),
                "vae": ("vae", 0),
                "steps": 16,
                "frames": 96,
                "seed": 1234,
                **({f"start_{start}": ("given", 0)} if start else {}),
            },
            (340, 560),
        ),
    }
    if start == "image":
        nodes["given"] = Node("LoadImage", (40, 480), {"image": "example.png"}, (340, 330), "First frame")
    elif start == "video":
        nodes["file"] = Node("LoadVideo", (40, 480), {"file": "example.mp4"}, (340, 330), "Video to go on from")
        nodes["given"] = Node("GetVideoComponents", (40, 860), {"video": ("file", 0)}, (340, 80))
    return _finish(nodes, 1180, "motioncache/magi1", 24.0)


TINY_MODEL = "tiny_world_skyreels_v2_df.safetensors"
TINY_VAE = "tiny_world_wan_vae.safetensors"
TINY_PROMPT = "red ball moves right.safetensors"
TINY_NEGATIVE = "empty.safetensors"
TINY_CACHE: dict[str, Any] = {
    "warmup_steps": 3,
    "chunk_threshold": 0.1,
    "token_threshold": 0.2,
    "motion_floor": 0.4,
    "min_update_ratio": 0.0,
    "chunk_phase_updates": 2,
    "distance": "patch embedding",
    "vote": 1.0,
}
TINY_SAMPLING: dict[str, Any] = {
    "width": 96,
    "height": 96,
    "frames": 57,
    "window": 57,
    "steps": 20,
    "guidance": 2.0,
    "shift": 5.0,
    "seed": 7,
}

MAGI1_MODEL = "4.5B_distill/inference_weight.distill/model-00001-of-00002.safetensors"
MAGI1_VAE = "magi1_vae/ (folder)"
MAGI1_TEXT = "t5xxl_fp16.safetensors"

WORKFLOWS = {
    "tiny_world_demo": tiny_world,
    "compare_cache_settings": compare,
    "skyreels_v2_text_to_video": lambda: skyreels(image=False),
    "skyreels_v2_image_to_video": lambda: skyreels(image=True),
    "magi1_text_to_video": magi1,
    "magi1_image_to_video": lambda: magi1("image"),
    "magi1_video_to_video": lambda: magi1("video"),
}


def main() -> None:
    """Write all workflows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("object_info", type=Path, help="JSON that the host serves at /object_info")
    info = json.loads(parser.parse_args().object_info.read_text(encoding="utf-8"))
    for name, make in WORKFLOWS.items():
        text = json.dumps(to_saved(make(), info), indent=2, ensure_ascii=False)
        (REPO / "workflows" / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
