"""The nodes an artist sees, one family a file."""

from comfy_api.latest import ComfyExtension, io

from . import cache, loaders, preview, prompts, sampling

NODES: list[type[io.ComfyNode]] = [
    *loaders.NODES,
    *cache.NODES,
    *sampling.NODES,
    *prompts.NODES,
    *preview.NODES,
]


class MotionCacheExtension(ComfyExtension):
    """What ComfyUI asks for the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All node classes of the pack."""
        return NODES
