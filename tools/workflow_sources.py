"""What the shipped workflows have in common: models, prompts, encoders, and what their files are called."""

from __future__ import annotations

from typing import Any

from tools.tinyworld import demo
from tools.workflow_graph import Node

TINY_MODEL = "tiny_world_skyreels_v2_df.safetensors"
TINY_VAE = "tiny_world_wan_vae.safetensors"
TINY_PROMPT = "red ball moves right.safetensors"
TINY_NEGATIVE = "empty.safetensors"
TINY_PRESET = "balanced (measured on the tiny world, 20 steps)"
TINY_SAMPLING: dict[str, Any] = {**demo.SAMPLING, "steps": demo.STEPS, "seed": 7}

MAGI1_MODEL = "4.5B_distill/inference_weight.distill/ (folder)"
MAGI1_VAE = "magi1_vae/ (folder)"
MAGI1_PRESET = "MotionCache, reuse stretched to the step (tiny world)"
MAGI1_TEXT = "t5xxl_fp16.safetensors"


PROMPT = (
    "A slow tracking shot of a red fox walking through fresh snow between birch trees at sunrise, its breath visible, "
    "soft golden light, shallow depth of field"
)
PROMPT_2 = (
    "A slow tracking shot of a red fox in fresh snow between birch trees at sunrise, it stops and raises its head, "
    "listening, soft golden light, shallow depth of field"
)
PROMPT_3 = (
    "A slow tracking shot of a red fox in fresh snow between birch trees at sunrise, it turns and leaps away, snow "
    "flying up behind it, soft golden light, shallow depth of field"
)
NEGATIVE = "blurry, distorted, flicker, watermark, text, static picture, extra limbs"


def tiny_sources() -> dict[str, Node]:
    """Model, VAE and prompts of the tiny world."""
    return {
        "model": Node("MotionCacheLoadSkyReelsV2", (40, 40), {"model_name": TINY_MODEL}, (320, 140)),
        "vae": Node("VAELoader", (40, 230), {"vae_name": TINY_VAE}, (320, 60)),
        "positive": Node("MotionCacheLoadPrompt", (40, 340), {"prompt_name": TINY_PROMPT}, (320, 90), "Prompt"),
        "negative": Node("MotionCacheLoadPrompt", (40, 480), {"prompt_name": TINY_NEGATIVE}, (320, 90), "Negative"),
    }


def skyreels_sources() -> dict[str, Node]:
    """Model with cache, text encoder with prompts, VAE, and a note which files they are."""
    note = (
        "**Files**\n\n- `models/diffusion_models/Wan2_1-SkyReels-V2-DF-1_3B-540P_fp32.safetensors` (or the official "
        "repository `SkyReels-V2-DF-1.3B-540P` as a folder)\n- `models/text_encoders/umt5_xxl_fp8_e4m3fn_scaled."
        "safetensors`\n- `models/vae/wan_2.1_vae.safetensors`\n\nThe preset holds the settings published with "
        "MotionCache for this model (50 steps, guidance 6, shift 8). Compare with preset *off*."
    )
    model = "Wan2_1-SkyReels-V2-DF-1_3B-540P_fp32.safetensors"
    clip = {"clip_name": "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "type": "wan"}
    return {
        "note": Node("MarkdownNote", (40, -270), {"text": note}, (700, 250), "SkyReels-V2 1.3B"),
        "model": Node("MotionCacheLoadSkyReelsV2", (40, 40), {"model_name": model}, (340, 140)),
        "clip": Node("CLIPLoader", (40, 230), clip, (340, 110)),
        "vae": Node("VAELoader", (40, 390), {"vae_name": "wan_2.1_vae.safetensors"}, (340, 60)),
        "positive": Node("CLIPTextEncode", (420, 40), {"clip": ("clip", 0), "text": PROMPT}, (340, 160), "Prompt"),
        "negative": Node("CLIPTextEncode", (420, 260), {"clip": ("clip", 0), "text": NEGATIVE}, (340, 120), "Negative"),
        "cache": Node("MotionCacheApply", (420, 440), {"model": ("model", 0)}, (340, 200)),
    }


def magi1_sources(more: str = "") -> dict[str, Node]:
    """Model, text encoder, VAE, and a note which files they are, with ``more`` at its end."""
    note = (
        "**Files**\n\n- `models/diffusion_models/4.5B_distill/inference_weight.distill/` and "
        "`models/vae/magi1_vae/` (`config.json`, `diffusion_pytorch_model.safetensors`): folders of the repository "
        "`sand-ai/MAGI-1`\n- `models/text_encoders/t5xxl_fp16.safetensors`\n- `models/magi1/special_tokens.npz` "
        "(optional, for the switches of the text node)\n\nThe preset is careful: what is reused grows with "
        "the steps. Published settings: *scaled*. Compare with preset *off*. "
        "About 1.7 GB of memory for every chunk that is kept." + more
    )
    return {
        "note": Node("MarkdownNote", (40, -270), {"text": note}, (700, 250), "MAGI-1 4.5B distilled"),
        "model": Node("MotionCacheLoadMagi1", (40, 40), {"model_name": MAGI1_MODEL}, (340, 90)),
        "clip": Node("CLIPLoader", (40, 190), {"clip_name": MAGI1_TEXT, "type": "pixart"}, (340, 110)),
        "vae": Node("MotionCacheLoadMagi1VAE", (40, 360), {"vae_name": MAGI1_VAE}, (340, 60)),
    }


def magi1_text(pos: tuple[int, int], text: str, title: str, **tokens: bool) -> Node:
    return Node("MotionCacheMagi1TextEncode", pos, {"clip": ("clip", 0), "text": text, **tokens}, (340, 300), title)


def magi1_cache(pos: tuple[int, int]) -> Node:
    inputs = {"model": ("model", 0), "preset": MAGI1_PRESET}
    return Node("MotionCacheApply", pos, inputs, (340, 200))
