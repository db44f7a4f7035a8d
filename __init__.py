"""MotionCache for ComfyUI: token-level feature caching for autoregressive video models.

ComfyUI imports this folder as one package; everything inside it is imported relatively.
"""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Called once by ComfyUI; the node classes are imported only then."""
    from .nodes import MotionCacheExtension

    return MotionCacheExtension()
