"""The nodes an artist sees, one family a file."""

from comfy_api.latest import ComfyExtension, io

NODES: list[type[io.ComfyNode]] = []


class MotionCacheExtension(ComfyExtension):
    """What ComfyUI asks for the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All node classes of the pack."""
        return NODES
