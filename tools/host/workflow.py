"""From a workflow as ComfyUI's front end saves it to the prompt that its server takes.

The front end does this in the browser; tests and the demo need it without one. Facts taken from front end 1.32.9 (a
test compares the result with the front end's own): widget values are saved in the schema's order, required before
optional; an integer called `seed` or `noise_seed`, or one that asks for it, is followed by the value of its "control
after generate" box; an input with an upload button is followed by one more value.
"""

from __future__ import annotations

from typing import Any

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
UPLOADS = ("image_upload", "video_upload", "audio_upload", "animated_image_upload")
MUTED, BYPASSED = 2, 4
DRAWN_ONLY = {"Note", "MarkdownNote"}


class WorkflowError(ValueError):
    """The workflow cannot be turned into a prompt."""


def to_api_prompt(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """Node id to `{"class_type", "inputs", "_meta"}`.

    Reroutes, primitives and bypassed nodes are followed through; muted nodes and notes are left out.

    Args:
        workflow: the saved JSON (a prompt in API form is returned as it is).
        object_info: the server's `/object_info`.

    Raises:
        WorkflowError: subgraphs, a node the server does not know, or fewer widget values than the schema has widgets.
    """
    if "nodes" not in workflow:
        return workflow
    if workflow.get("definitions", {}).get("subgraphs"):
        raise WorkflowError("the workflow has subgraphs; unpack them in ComfyUI and save it again")
    return _Graph(workflow, object_info).prompt()


class _Graph:
    def __init__(self, workflow: dict[str, Any], object_info: dict[str, Any]):
        self.info = object_info
        self.nodes = {node["id"]: node for node in workflow["nodes"]}
        # A link is a list [id, from node, from slot, to node, to slot, type], or in newer saves a dict.
        self.origin = {}
        for link in workflow.get("links", []):
            if isinstance(link, dict):
                self.origin[link["id"]] = (link["origin_id"], link["origin_slot"])
            else:
                self.origin[link[0]] = (link[1], link[2])

    def prompt(self) -> dict[str, Any]:
        live = {
            str(node["id"]): self._entry(node)
            for node in self.nodes.values()
            if node.get("mode", 0) not in (MUTED, BYPASSED) and not self._virtual(node)
        }
        for entry in live.values():
            missing = [name for name, v in entry["inputs"].items() if _is_link(v) and v[0] not in live]
            for name in missing:  # its source is muted: as unconnected
                del entry["inputs"][name]
        return live

    @staticmethod
    def _virtual(node: dict[str, Any]) -> bool:
        return node["type"] in DRAWN_ONLY | {"Reroute", "PrimitiveNode"}

    def _entry(self, node: dict[str, Any]) -> dict[str, Any]:
        if node["type"] not in self.info:
            raise WorkflowError(f"node {node['id']} is of type {node['type']}, which this ComfyUI does not have")
        inputs = self._widget_values(node)
        for entry in node.get("inputs", []):
            if entry.get("link") is not None:
                value = self._follow(entry["link"])
                if value is not None:
                    inputs[entry["name"]] = value
        title = node.get("title") or self.info[node["type"]].get("display_name") or node["type"]
        return {"inputs": inputs, "class_type": node["type"], "_meta": {"title": title}}

    def _widget_values(self, node: dict[str, Any]) -> dict[str, Any]:
        saved = node.get("widgets_values") or []
        names = widget_names(self.info[node["type"]])
        if isinstance(saved, dict):
            return {name: saved[name] for name in names if name is not None and name in saved}
        if len(saved) < len(names):
            raise WorkflowError(
                f"node {node['id']} ({node['type']}) has {len(saved)} widget values where its schema has {len(names)}: "
                f"{', '.join(name or '(front end)' for name in names)}"
            )
        # The front end saves a list as one widget's value wrapped, so that it is not taken for a link.
        wrap = {name: {"__value__": v} if isinstance(v, list) else v for name, v in zip(names, saved, strict=False)}
        wrap.pop(None, None)
        return wrap

    def _follow(self, link: int) -> Any:
        """What a link brings: `[node id, slot]`, a primitive's value, or None when nothing is at its other end."""
        if link not in self.origin:
            return None
        node_id, slot = self.origin[link]
        node = self.nodes[node_id]
        if node["type"] == "PrimitiveNode":
            return node["widgets_values"][0]
        if node["type"] == "Reroute":
            return self._through(node["inputs"][0])
        if node.get("mode", 0) == BYPASSED:
            return self._bypass(node, slot)
        return [str(node_id), slot]

    def _bypass(self, node: dict[str, Any], slot: int) -> Any:
        """A bypassed output is the input of its type: the one at the same place, else the first."""
        wanted, inputs = node["outputs"][slot]["type"], node.get("inputs", [])
        order = ([inputs[slot]] if slot < len(inputs) else []) + inputs
        return next((self._through(entry) for entry in order if entry["type"] == wanted), None)

    def _through(self, entry: dict[str, Any]) -> Any:
        return None if entry.get("link") is None else self._follow(entry["link"])


def widget_names(info: dict[str, Any]) -> list[str | None]:
    """The names of a node's saved widget values, in order; None stands for a value the front end adds of its own."""
    names: list[str | None] = []
    for group in ("required", "optional"):
        declared = info["input"].get(group, {})
        uploads = False
        for name in info["input_order"].get(group, declared):
            kind, options = declared[name][0], (declared[name][1:] or [{}])[0]
            if not (isinstance(kind, list) or kind in WIDGET_TYPES) or options.get("forceInput"):
                continue
            names.append(name)
            uploads = uploads or any(options.get(upload) for upload in UPLOADS)
            if options.get("control_after_generate", kind == "INT" and name in ("seed", "noise_seed")):
                names.append(None)
        if uploads:
            names.append(None)
    return names


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)
