"""Encoding prompts for MAGI-1."""

from __future__ import annotations

import logging
from typing import Any

from comfy_api.latest import io

from ..motioncache_core.models.magi1 import text as magi1_text
from ..motioncache_core.models.magi1.captions import clean_caption, ideographs
from ..motioncache_core.models.magi1.text import fitted_ids, options_of, read_special_tokens
from .host.checked_inputs import wrong_value
from .host.latents import InputError
from .host.magi1_paths import special_tokens_file
from .host.model_paths import fingerprint
from .host.notify import notify, show
from .host.versions import advanced, search_aliases

logger = logging.getLogger(__name__)

T5_KEY = "t5xxl"
FROM_PROMPT = "from the prompt"
STARTS = {FROM_PROMPT: (), "still": ("STATIC",), "moving": ("DYNAMIC",)}
STYLES = {FROM_PROMPT: (), "3-D animation": ("3D",), "2-D animation": ("2D",)}
"""Choice in the node -> special tokens."""

T5_WANTED = "MAGI-1 reads prompts with t5-v1_1-xxl alone: load a t5xxl file with CLIPLoader, type 'pixart'"


class MotionCacheMagi1TextEncode(io.ComfyNode):
    """Prompt -> CONDITIONING for MAGI-1."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheMagi1TextEncode",
            display_name="MAGI-1 text encode",
            category="MotionCache",
            **search_aliases("MAGI", "prompt", "CLIP text encode"),
            description=(
                "Encodes a prompt as MAGI-1 knows them: cleaned, lower case, at most 800 tokens, behind switches "
                "of its own for quality, duration and style. MAGI-1 has no negative prompt."
            ),
            inputs=[
                io.Clip.Input("clip", tooltip="t5-v1_1-xxl: CLIPLoader with a t5xxl file, type pixart."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What happens in the video, in English. Brackets and links are taken out; weights like "
                    "(cat:1.3) are read as words.",
                ),
                io.Boolean.Input(
                    "high_quality", default=True, tooltip="Asks for high quality, as MAGI-1's own settings do."
                ),
                io.Boolean.Input(
                    "duration",
                    default=True,
                    tooltip="Tells every chunk how many are still to come, so that the action fits the video's length.",
                ),
                io.Combo.Input(
                    "start",
                    options=list(STARTS),
                    default=FROM_PROMPT,
                    tooltip="Whether the first frames stand still or move.",
                ),
                io.Combo.Input(
                    "style", options=list(STYLES), default=FROM_PROMPT, tooltip="Asks for an animated look."
                ),
                advanced(io.Boolean.Input("borders", default=False, tooltip="Asks for borders around the picture.")),
            ],
            outputs=[io.Conditioning.Output(display_name="CONDITIONING")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, start: str | None, style: str | None) -> bool | str:
        """Refuse unknown names when the graph is queued."""
        return wrong_value(cls, start=start, style=style) or True

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> Any:
        """Encode again when the file of special tokens has come, gone or been replaced."""
        path = special_tokens_file()
        return None if path is None else fingerprint(path)

    @classmethod
    def execute(
        cls, clip: Any, text: str, high_quality: bool, duration: bool, start: str, style: str, borders: bool
    ) -> io.NodeOutput:
        if clip is None:
            raise InputError(f"clip is empty: the checkpoint that it came from holds no text encoder. {T5_WANTED}.")
        node = cls.hidden.unique_id if cls.hidden is not None else None
        names = [*STARTS[start], *STYLES[style]]
        names += [name for name, on in (("BORDERNESS", borders), ("HQ", high_quality), ("DURATION", duration)) if on]
        options, notices = _special(names)
        caption = clean_caption(text)
        notices += _lost(text, caption)
        conditioning, left_out, count = _encode(clip, caption, options)
        if left_out:
            longest = magi1_text.MAX_TOKENS
            notices.append(f"The prompt is longer than MAGI-1's {longest} tokens; its last {left_out} are left out.")
        if notices:
            notify(node, "\n".join(notices))
        else:
            show(node, f"{count} tokens: {caption}")
        return io.NodeOutput(conditioning)


def _lost(text: str, caption: str) -> list[str]:
    """What to tell of a prompt that cleaning left little of."""
    signs = ideographs(text)
    if text.strip() and not caption:
        return ["MAGI-1 reads English; nothing of this prompt is left after cleaning. Write it in English words."]
    if signs:
        shown = signs if len(signs) <= 12 else signs[:12] + "…"
        return [f"MAGI-1 reads English; the characters {shown} are left out. What it gets: {caption}"]
    return []


def _special(names: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Options of the conditioning, and what to tell."""
    if not names:
        return {}, []
    path = special_tokens_file()
    if path is None:
        return {}, [
            "The switches have no effect yet: MAGI-1's special tokens are missing. "
            f"{magi1_text.WHERE_TO_GET}; put it into models/magi1 and run again."
        ]
    tokens = read_special_tokens(path)
    if tokens.width != magi1_text.TEXT_WIDTH:
        raise InputError(
            f"{path.name} holds tokens of width {tokens.width}; MAGI-1's have {magi1_text.TEXT_WIDTH}. "
            f"{magi1_text.WHERE_TO_GET}."
        )
    return options_of(names, tokens), []


def _encode(clip: Any, caption: str, options: dict[str, Any]) -> tuple[list[list[Any]], int, int]:
    """CONDITIONING of the caption's tokens alone, how many tokens were left out, how many there are.

    T5 is never given filling: without a mask it would be read as text.
    """
    tokens = clip.tokenize(caption)
    if T5_KEY not in tokens:
        raise InputError(f"clip is a text encoder of another kind ({', '.join(tokens) or 'unknown'}). {T5_WANTED}.")
    ids, left_out = fitted_ids([entry[0] for batch in tokens[T5_KEY] for entry in batch])
    tokens[T5_KEY] = [[(i, 1.0) for i in ids]]
    conditioning = clip.encode_from_tokens_scheduled(tokens, add_dict=options)
    for cond, values in conditioning:
        expected = [1, len(ids), magi1_text.TEXT_WIDTH]
        if list(cond.shape) != expected:
            raise InputError(f"clip gave an encoding of shape {list(cond.shape)} instead of {expected}. {T5_WANTED}.")
        values.pop("attention_mask", None)  # every token counts
    return conditioning, left_out, len(ids)


NODES = [MotionCacheMagi1TextEncode]
