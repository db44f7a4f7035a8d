"""Saved workflows become the same prompts as in the front end."""

from __future__ import annotations

import json

import pytest

from tools.host.server import ComfyServer
from tools.host.workflow import WorkflowError, to_api_prompt

CAMERA = "WebcamCapture"  # the front end cannot make its prompt without a camera
OWN_BUTTONS = {"Load3D"}  # its 3D viewer saves buttons between the schema's values

ALL_NODES = """async (camera) => {
  const made = {};
  for (const type of Object.keys(LiteGraph.registered_node_types)) {
    if (!LiteGraph.registered_node_types[type].nodeData || type === camera) continue;
    app.graph.clear();
    const node = LiteGraph.createNode(type);
    app.graph.add(node);
    const saved = JSON.parse(JSON.stringify(app.graph.serialize()));
    made[type] = {saved, prompt: (await app.graphToPrompt()).output};
  }
  return made;
}"""

LOADED = """async (workflow) => {
  await app.loadGraphData(workflow);
  return {saved: JSON.parse(JSON.stringify(app.graph.serialize())), prompt: (await app.graphToPrompt()).output};
}"""


def bare(prompt: dict) -> dict:
    """A prompt without the titles, and with numbers as JSON sees them."""
    return json.loads(
        json.dumps({key: {k: v for k, v in node.items() if k != "_meta"} for key, node in prompt.items()})
    )


def node(
    key: int, kind: str, values: list | None = None, inputs: list | None = None, outputs: list | None = None, **more
):
    """A node as the front end saves it; `outputs` are (type, link ids)."""
    return {
        "id": key,
        "type": kind,
        "pos": [200 * key, 100],
        "size": [180, 100],
        "flags": {},
        "order": key,
        "mode": 0,
        "properties": {},
        "inputs": inputs or [],
        "outputs": [{"name": t, "type": t, "links": links} for t, links in outputs or []],
        "widgets_values": values or [],
        **more,
    }


def slot(name: str, kind: str, link: int | None, widget: bool = False) -> dict:
    return {"name": name, "type": kind, "link": link, **({"widget": {"name": name}} if widget else {})}


def everyday_graph() -> dict:
    """A graph with a primitive, reroutes, a bypassed and a muted node, a note, and a widget fed by a link."""
    return {
        "last_node_id": 10,
        "last_link_id": 9,
        "version": 0.4,
        "groups": [],
        "config": {},
        "extra": {},
        "nodes": [
            node(1, "PrimitiveNode", [96, "fixed"], outputs=[("INT", [1])]),
            node(
                2,
                "EmptyImage",
                [512, 64, 1, 255],
                inputs=[slot("width", "INT", 1, widget=True)],
                outputs=[("IMAGE", [2])],
            ),
            node(3, "Reroute", inputs=[{"name": "", "type": "*", "link": 2}], outputs=[("IMAGE", [3])]),
            node(4, "ImageInvert", inputs=[slot("image", "IMAGE", 3)], outputs=[("IMAGE", [4, 6])], mode=4),
            node(5, "PreviewImage", inputs=[slot("images", "IMAGE", 4)]),
            node(6, "Note", ["words"]),
            node(7, "ImageInvert", inputs=[slot("image", "IMAGE", 6)], outputs=[("IMAGE", [7])], mode=2),
            node(
                8,
                "ImageCompositeMasked",
                [3, 4, True],
                inputs=[
                    slot("destination", "IMAGE", 8),
                    slot("source", "IMAGE", 9),
                    slot("mask", "MASK", None),
                ],
                outputs=[("IMAGE", [])],
            ),
            node(9, "LoadImage", ["example.png", "image"], outputs=[("IMAGE", [8, 9]), ("MASK", [])]),
        ],
        "links": [
            [1, 1, 0, 2, 0, "INT"],
            [2, 2, 0, 3, 0, "IMAGE"],
            [3, 3, 0, 4, 0, "IMAGE"],
            [4, 4, 0, 5, 0, "IMAGE"],
            [6, 4, 0, 7, 0, "IMAGE"],
            [8, 9, 0, 8, 0, "IMAGE"],
            [9, 9, 0, 8, 1, "IMAGE"],
        ],
    }


def test_every_node_converts_as_in_the_front_end(comfy: ComfyServer, comfy_page):
    """But for inputs that the front end adds and no schema has, such as the text box of a preview."""
    made = comfy_page.evaluate(ALL_NODES, CAMERA)
    info = comfy.object_info()
    assert made.keys() == info.keys() - {CAMERA}
    differing = {}
    for kind in made.keys() - OWN_BUTTONS:
        declared = {name for group in info[kind]["input"].values() for name in group}
        (ours,) = bare(to_api_prompt(made[kind]["saved"], info)).values()
        (theirs,) = bare(made[kind]["prompt"]).values()
        if ours["inputs"] != {name: value for name, value in theirs["inputs"].items() if name in declared}:
            differing[kind] = (ours["inputs"], theirs["inputs"])
    assert differing == {}


def test_an_everyday_graph_converts_as_in_the_front_end(comfy: ComfyServer, comfy_page):
    graph = everyday_graph()
    theirs = comfy_page.evaluate(LOADED, graph)
    ours = bare(comfy.convert(graph))
    assert ours == bare(theirs["prompt"])
    assert bare(comfy.convert(theirs["saved"])) == ours, "saved by this front end and loaded again"


def test_primitives_reroutes_and_bypassed_nodes_are_followed_through(comfy: ComfyServer):
    prompt = comfy.convert(everyday_graph())
    assert sorted(prompt) == ["2", "5", "8", "9"]
    assert prompt["2"]["inputs"] == {"width": 96, "height": 64, "batch_size": 1, "color": 255}
    assert prompt["5"]["inputs"] == {"images": ["2", 0]}


def test_a_prompt_in_api_form_stays_as_it_is():
    prompt = {"1": {"class_type": "EmptyImage", "inputs": {}}}
    assert to_api_prompt(prompt, {}) is prompt


def test_what_cannot_be_converted_says_why(comfy: ComfyServer):
    with pytest.raises(WorkflowError, match="subgraphs"):
        comfy.convert({"nodes": [], "links": [], "definitions": {"subgraphs": [{}]}})
    with pytest.raises(WorkflowError, match="node 1 is of type NoSuchNode"):
        comfy.convert({"nodes": [node(1, "NoSuchNode")], "links": []})
    with pytest.raises(WorkflowError, match="1 widget values where its schema has 4: width, height, batch_size, color"):
        comfy.convert({"nodes": [node(1, "EmptyImage", [64])], "links": []})
