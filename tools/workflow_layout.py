"""Room between the nodes of a graph: the front ends draw the same node in different heights."""

from __future__ import annotations

from dataclasses import replace

from tools.workflow_graph import Node

GAP = 60
"""Pixels from a node's lower edge to the next one's upper edge; half of it is the next one's title."""
TALLEST = {
    "CLIPLoader": 114,
    "LoadImage": 350,
    "MotionCacheApply": 250,
    "MotionCacheAutoregressiveSampler": 980,
    "MotionCacheChunkPrompt": 106,
    "MotionCacheDecisionMask": 114,
    "MotionCacheFinishVideo": 596,
    "MotionCacheGenerateChunks": 716,
    "MotionCacheLoadMagi1": 138,
    "MotionCacheLoadMagi1VAE": 86,
    "MotionCacheLoadPrompt": 106,
    "MotionCacheMagi1Sampler": 992,
    "MotionCacheSweep": 222,
    "VAELoader": 86,
}
"""Class -> height without its title in front end 1.58.1 with Nodes 2.0, where it is more than the saved one."""


def spread(nodes: dict[str, Node]) -> dict[str, Node]:
    """The same nodes, moved down where one would come nearer than :data:`GAP` to one above it, and no further."""
    placed: dict[str, Node] = {}
    for key, node in sorted(nodes.items(), key=lambda item: item[1].pos[1]):
        x, y = node.pos
        above = [other for other in placed.values() if other.pos[0] < x + node.size[0] and x < _right(other)]
        placed[key] = replace(node, pos=(x, max([y, *(_bottom(other) + GAP for other in above)])))
    return {key: placed[key] for key in nodes}


def _right(node: Node) -> int:
    return node.pos[0] + node.size[0]


def _bottom(node: Node) -> int:
    return node.pos[1] + max(node.size[1], TALLEST.get(node.kind, 0))
