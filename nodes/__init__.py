"""The nodes an artist sees, one family a file."""

from comfy_api.latest import ComfyExtension, io

from . import (
    begin,
    cache,
    evaluate,
    loaders,
    long_video,
    magi1_loaders,
    magi1_prompts,
    magi1_sampling,
    magi1_text,
    magi1_vae,
    planning,
    preview,
    prompts,
    report,
    sampling,
    storyboard,
    takes,
)
from .host import routes

NODES: list[type[io.ComfyNode]] = [
    *loaders.NODES,
    *magi1_loaders.NODES,
    *magi1_vae.NODES,
    *magi1_text.NODES,
    *magi1_prompts.NODES,
    *cache.NODES,
    *sampling.NODES,
    *magi1_sampling.NODES,
    *begin.NODES,
    *storyboard.NODES,
    *takes.NODES,
    *prompts.NODES,
    *preview.NODES,
    *long_video.NODES,
    *report.NODES,
    *evaluate.NODES,
]


class MotionCacheExtension(ComfyExtension):
    """What ComfyUI asks for the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All node classes of the pack."""
        routes.register(planning.drawn_plan)  # here, since older cores never call on_load
        return NODES
