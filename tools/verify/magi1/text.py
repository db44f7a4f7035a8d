"""Cases of the text: cleaned captions, special tokens in front of prompts, and the text encoder."""

from __future__ import annotations

import re
from typing import Any

import torch

from motioncache_core.models.magi1.architecture import NULL_CAPTION, NULL_TEXT_TOKENS
from motioncache_core.models.magi1.captions import PASSES, clean_caption
from motioncache_core.models.magi1.text import (
    END_TOKEN,
    MAX_TOKENS,
    PAD_TOKEN,
    PREPENDED,
    options_of,
    special_tokens_from,
)

from ..check import Kind
from ..compare import Restricted
from ..folder import Case, CaseError
from .texts import run_texts

INSIDE_MASK = "only positions inside the mask"
KNOWN_TAIL = "y_tail of row 0: only the last of the 4 positions"


_RULES = {
    "tokens_file": "sampling/special_tokens.npz, used as float16",
    "prepend_rule": "one after the other, each in front of what is there, cut at 800; the mask gets a 1 per token",
    "duration_index": "other_tokens[7 + min(chunks still to come, 7)]",
    "null_mask_rule": "the first 50, whatever is prepended",
    "prefix_chunk_rule": "chunks of the prefix carry the null text with mask 0",
    "empty_mask_rule": "if the input mask is empty both rows are the null text with its mask",
}


def captions(case: Case) -> dict[str, list[dict[str, str]]]:
    """Rows of prompts, cleaned once and twice."""
    prompts = [row["prompt"] for row in case.input("prompts")]
    case.expect(
        passes=PASSES,
        rows=len(prompts),
        fields="prompt, once (one pass), cleaned (two passes)",
        html="entities unescaped twice, tags removed by an HTML parser",
    )
    rows = [{"prompt": p, "once": clean_caption(p, passes=1), "cleaned": clean_caption(p)} for p in prompts]
    return {"once": rows, "cleaned": rows}


def padded(case: Case) -> dict[str, Any]:
    """Texts and masks of all chunks, row 0 with prompt, row 1 without; first and last positions of them."""
    s = case.settings
    head = case.input("caption_head")[0, 0]
    behind = case.input("caption_tail").shape[2] if "caption_tail" in case.inputs else 0
    case.expect(
        caption_length=MAX_TOKENS,
        caption_positions_stored=f"first {len(head)}" + (f" and last {behind}" if behind else ""),
        null_tokens=NULL_TEXT_TOKENS,
        prepend_order=list(PREPENDED),
        **_RULES,
    )
    caption = torch.zeros(MAX_TOKENS, head.shape[1])
    caption[: len(head)] = head
    if "caption_tail" in case.inputs:
        tail = case.input("caption_tail")[0, 0]
        caption[-len(tail) :] = tail
    valid = int(case.input("caption_mask").sum()) if "caption_mask" in case.inputs else s["caption_mask_ones"]
    if valid != s["caption_mask_ones"]:
        raise CaseError(f"the mask counts {valid} tokens, the settings {s['caption_mask_ones']}")
    tokens = special_tokens_from(case.input("tokens"))
    texts = run_texts(
        caption,
        options_of(s["prepend"], tokens),
        case.weights()[NULL_CAPTION],
        s["chunks"],
        prefix_chunks=s["prefix_chunks"],
        valid=valid,
        before_null=[tokens.vectors[name] for name in s["prepend_to_null"]],
    )
    y = torch.stack([torch.stack([text for text, _ in row]) for row in (texts.text, texts.null)])
    counts = torch.tensor([[count for _, count in row] for row in (texts.text, texts.null)])
    stored = re.match(r"first (\d+)(?: and last (\d+))?", s["y_positions_stored"])
    if stored is None:
        raise CaseError(f"setting y_positions_stored is {s['y_positions_stored']!r}")
    made: dict[str, Any] = {
        "y_head": y[:, :, : int(stored[1])],
        "mask": (torch.arange(MAX_TOKENS) < counts.unsqueeze(-1)).to(torch.uint8),
    }
    if stored[2]:
        made["y_tail"] = y[:, :, -int(stored[2]) :]
    if case.compare:
        known = torch.ones(2, 1, made["y_tail"].shape[2], 1, dtype=torch.bool)
        known[0, :, :-1] = False
        made["y_tail"] = Restricted(made["y_tail"], known)
    return made


def t5(case: Case) -> dict[str, Restricted]:
    """ComfyUI's T5 on the tokens alone, without padding and without a mask."""
    import comfy.ops
    from comfy.text_encoders.t5 import T5

    config = {
        **case.config,
        "dense_act_fn": {"gated-gelu": "gelu_pytorch_tanh"}[case.config["feed_forward_proj"]],
        "is_gated_act": True,
        "model_type": "t5",
    }
    ids = case.input("input_ids")
    case.expect(
        length=ids.shape[1],
        pad_id=PAD_TOKEN,
        eos_id=END_TOKEN,
        tied="encoder.embed_tokens.weight = shared.weight",
    )
    network = T5(config, torch.float32, "cpu", comfy.ops.disable_weight_init)
    network.load_state_dict(case.weights())
    inside = case.input("mask").bool()
    valid = int(inside.sum())
    if valid != case.settings["valid"] or not inside[0, :valid].all():
        raise CaseError(f"the mask counts {valid} tokens, the settings {case.settings['valid']} in front")
    encoded, _ = network(ids[:, :valid].long(), None)
    positions = case.settings["out_positions_stored"]
    out = torch.zeros(1, max(positions, valid), encoded.shape[2])
    out[:, :valid] = encoded
    return {"out": Restricted(out[:, :positions], inside[:, :positions, None])}


KINDS = {
    "text.clean_caption": Kind(captions, told=frozenset({"ftfy"})),
    "text.pad": Kind(padded, restrictions=(KNOWN_TAIL,), told=frozenset({"num_frames", "chunk_width"})),
    "text.t5": Kind(t5, restrictions=(INSIDE_MASK,)),
}
