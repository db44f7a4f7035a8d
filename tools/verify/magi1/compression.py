"""Cases of the choice of keys and values that stay."""

from __future__ import annotations

from torch import Tensor, int32

from motioncache_core.models.magi1.compression import Compression, importance, kept_tokens, redundancy, take

from ..check import Kind
from ..folder import Case

EMPHASES = {
    None: "even",
    "1": "even",
    "0.1 + 0.9 * p^power": "polynomial",
    "0.1 + 0.9 * (1 - exp(-2p)) / (1 - exp(-2))": "exponential",
    "2 * (1 - (1-p)^power)": "convex",
    "g = exp(-0.5 (i / (n/4))^2); 0.1 + 0.9 * (g - g_last) / (1 - g_last)": "early",
    "1, but 1e6 is subtracted from the first chunk's tokens": "not the first chunk",
}
"""The case's words for how a score depends on the place -> ours."""
_SCORE = (
    "lambda * maxpool(importance) - (1 - lambda) * redundancy; strategy token: minus its minimum per group, times "
    "position_weight, top budget tokens; frame, chunk: mean over the unit, top budget / unit units, tokens of a unit "
    "in order"
)
_QUERIES = {"all": "chunk", "last 50": "token", "last latent frame (h*w tokens)": "frame"}


def kept(case: Case) -> dict[str, Tensor]:
    """Indices, the two parts of the score, and the rows that stay."""
    s = case.settings
    keys, queries = case.input("key"), case.input("query")
    frame = s["tokens_h"] * s["tokens_w"]
    case.expect(
        position="p = i / (n - 1)",
        order="descending score",
        score=_SCORE,
        unit={"token": None, "frame": frame, "chunk": s["tokens_per_chunk"]}[s["strategy"]],
        tokens_per_chunk=s["latent_t"] * frame,
        chunks=keys.shape[0] // s["tokens_per_chunk"],
        heads=queries.shape[1],
        groups=keys.shape[1],
        head_dim=keys.shape[2],
    )
    settings = Compression(
        keep=s["strategy"],
        queries=_QUERIES[s["queries"]],
        importance_share=s["mix_lambda"],
        emphasis=EMPHASES[s["position_weight"]],
        power=s["power"],
        kernel=s["kernel"],
    )
    indices = kept_tokens(keys, queries, s["budget"], settings, frame, s["tokens_per_chunk"])
    counted = {"token": 50, "frame": frame, "chunk": len(queries)}[settings.queries]
    made = {
        "indices": indices.to(int32),
        "attn_importance": importance(keys, queries[-counted:]),
        "similarity": redundancy(keys),
        "key_out": take(keys, indices),
    }
    return made | ({"value_out": take(case.input("value"), indices)} if "value" in case.inputs else {})


KINDS = {"kv_compression": Kind(kept)}
