"""Graphs written down as nodes with their inputs, turned into the JSON that ComfyUI's front end saves.

The widgets come in the order that the host's ``/object_info`` tells.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

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


def to_saved(title: str, nodes: dict[str, Node], info: dict[str, Any]) -> dict[str, Any]:
    """The front end's JSON (litegraph 0.4) of the graph that is called ``title``."""
    ids = {key: number for number, key in enumerate(nodes, start=1)}
    links: list[list[Any]] = []
    saved = []
    for key, node in nodes.items():
        if node.kind == "MarkdownNote":
            saved.append(_note(ids[key], node))
            continue
        schema = info[node.kind]
        sockets, values = [], []
        given = {**_of_preset(node, schema), **node.inputs}
        for name, spec in _inputs(schema):
            value = given.get(name, spec[1].get("default") if len(spec) > 1 else None)
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
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"motioncache/workflows/{title}")),  # stable: a page knows it again
        "revision": 0,
        "last_node_id": len(ids),
        "last_link_id": len(links),
        "nodes": saved,
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def _of_preset(node: Node, schema: dict[str, Any]) -> dict[str, Any]:
    """What the node's preset shows on its knobs, for a node that has presets."""
    options = schema["input"].get("required", {}).get("preset", [None, {}])[1]
    return options.get("motioncache_presets", {}).get(node.inputs.get("preset"), {})


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
