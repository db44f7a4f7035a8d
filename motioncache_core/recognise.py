"""Saying what a foreign model file is, from its key names and shapes alone.

Only used to word errors; nothing is decided by it.
"""

from __future__ import annotations

from collections.abc import Mapping

Shape = tuple[int, ...]

_LORA_ENDINGS = (".lora_A.weight", ".lora_B.weight", ".lora_down.weight", ".lora_up.weight", ".lora.down.weight")

# Ordered: the first row of which all texts occur (anywhere in some key) wins.
_MARKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("a Wan VACE model", ("vace_blocks.", "patch_embedding")),
    ("a Wan Animate model", ("face_adapter.", "patch_embedding")),
    ("a Wan speech-to-video model", ("casual_audio_encoder.", "patch_embedding")),
    ("a HuMo (Wan) model", ("audio_proj.", "patch_embedding")),
    ("a Wan camera-control model", ("control_adapter.", "patch_embedding")),
    ("a Wan Fun model with a reference image", ("ref_conv.", "patch_embedding")),
    ("a MAGI-1 model", ("videodit_blocks.",)),
    ("a HunyuanVideo model", ("double_blocks.", "txt_in.individual_token_refiner.")),
    ("a Flux model", ("double_blocks.", "single_blocks.", "img_in.")),
    ("a Qwen-Image model", ("transformer_blocks.", "img_mlp", "txt_norm")),
    ("an LTX-Video model", ("transformer_blocks.", "patchify_proj")),
    ("an SD3 model", ("joint_blocks.", "x_embedder")),
    ("a Cosmos model", ("blocks.block", "x_embedder")),
    ("a Mochi model", ("blocks.", "t5_y_embedder")),
    ("a Stable Diffusion checkpoint (SDXL)", ("input_blocks.", "label_emb.")),
    ("a Stable Diffusion checkpoint", ("input_blocks.", "output_blocks.")),
    ("a diffusers UNet", ("down_blocks.", "up_blocks.", "time_embedding.")),
    ("a ControlNet", ("controlnet_",)),
    ("a Wan VAE", ("decoder.upsamples.", "encoder.downsamples.")),
    ("a VAE", ("encoder.", "decoder.up", "decoder.conv_in")),
    ("a tiny preview decoder (TAESD)", ("taesd",)),
    ("a text encoder (umt5)", ("token_embedding.", ".pos_embedding.")),
    ("a text encoder (T5)", ("shared.weight", "encoder.block.")),
    ("a text encoder (CLIP)", ("text_model.encoder.",)),
    ("a vision encoder (CLIP)", ("vision_model.encoder.",)),
    ("a language model used as a text encoder", ("embed_tokens.", "layers.")),
)


def describe(shapes: Mapping[str, Shape]) -> str:
    """A noun phrase for what this file is, e.g. ``a LoRA``; falls back to its first keys.

    Args:
        shapes: key -> shape, as the file spells them.
    """
    if not shapes:
        return "a file without tensors"
    if any(key.endswith(_LORA_ENDINGS) for key in shapes):
        return "a LoRA"
    for what, marks in _MARKS:
        if all(any(mark in key for key in shapes) for mark in marks):
            return _vae(shapes) if what == "a VAE" else what
    first = ", ".join(sorted(shapes)[:4])
    return f"an unknown model ({len(shapes)} tensors, first keys: {first})"


def _vae(shapes: Mapping[str, Shape]) -> str:
    first_conv = next((shape for key, shape in shapes.items() if key.endswith("decoder.conv_in.weight")), ())
    if len(first_conv) != 5:
        return "a VAE"
    return "a Wan VAE (diffusers)" if any(".time_conv." in key for key in shapes) else "a video VAE"
