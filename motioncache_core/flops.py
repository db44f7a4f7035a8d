"""Floating-point operations of a diffusion transformer with cross-attention, counted from its sizes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TransformerSize:
    """What the count depends on.

    Args:
        width: channels of a token.
        ffn_width: inner channels of the feed-forward layer.
        layers: blocks.
        patch_values: latent values of a patch in, and of a patch out.
        text_tokens: prompt tokens that the cross-attention sees.
        text_width: channels of the prompt embedding.
        kv_width: channels of a token's keys where query heads share them, ``None``: ``width``.
        gated: the feed-forward layer makes its inner channels twice, to multiply them.
        text_hidden: inner channels of the prompt embedding's two linear layers, 0: it is one layer; ``None``:
            ``width``.
    """

    width: int
    ffn_width: int
    layers: int
    patch_values: int
    text_tokens: int
    text_width: int
    kv_width: int | None = None
    gated: bool = False
    text_hidden: int | None = None

    @property
    def keys(self) -> int:
        """Channels of a token's keys."""
        return self.width if self.kv_width is None else self.kv_width


def pass_flops(
    size: TransformerSize, computed: int, total: int, context: float, text_tokens: float | None = None
) -> float:
    """Operations of one branch's pass; a multiplication and an addition count as two.

    Per computed token and layer, with width C, feed-forward width M, m keys in its self-attention (the real number,
    ``context``) and T prompt tokens (``text_tokens``, else those of ``size``):

        4 C^2 + 4 C K (query, output; key, value of width K) + 4 m C (scores and sums)
        + 4 C^2 (cross query, output) + 4 T C (cross scores and sums) + 4 C M, gated 6 C M (feed-forward).

    Patch embedding and head (2 C * patch_values each) run for all ``total`` tokens. The prompt's own keys and values
    are counted by :func:`prompt_flops`; norms, modulation and rotary embedding are left out (below 1 %).
    """
    c = size.width
    text = size.text_tokens if text_tokens is None else text_tokens
    ffn = (6 if size.gated else 4) * c * size.ffn_width
    token = 8 * c * c + 4 * c * size.keys + ffn + 4 * c * (context + text)
    return size.layers * computed * token + 4.0 * total * c * size.patch_values


def prompt_flops(size: TransformerSize, text_tokens: int | None = None) -> float:
    """Operations of a prompt's embedding (one or two linear layers) and its keys and values in all layers.

    Args:
        text_tokens: else those of ``size``.
    """
    c = size.width
    text = size.text_tokens if text_tokens is None else text_tokens
    hidden = c if size.text_hidden is None else size.text_hidden
    embedding = hidden * (size.text_width + c) if hidden else size.text_width * c
    return 2.0 * text * embedding + 4.0 * text * c * size.keys * size.layers
