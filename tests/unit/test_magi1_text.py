"""MAGI-1's text: captions, special tokens in front, lengths."""

from __future__ import annotations

import builtins
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from motioncache_core.models.magi1.captions import clean_caption, plain_repair, without_markup
from motioncache_core.models.magi1.text import (
    MAX_TOKENS,
    PREPENDED,
    TOKENS_KEY,
    VECTORS_KEY,
    SpecialTokens,
    SpecialTokensError,
    chunk_text,
    fitted_ids,
    options_of,
    read_special_tokens,
    special_tokens_from,
)
from motioncache_core.prompts import load_prompt, save_prompt

WIDTH = 6


# Captions


@pytest.mark.parametrize(
    ("prompt", "cleaned"),
    [
        ("A Cat", "a cat"),
        ("  two   spaces\n", "two spaces"),
        ("a <person> waves", "a person waves"),
        ("see https://example.com/a/b for more", "see for more"),
        ("mail a@b.org or @someone", "mail a or"),
        ("a (big:1.3) [red] {ball}", "a big:1.3 red ball"),
        ("wild—horses – “run”", 'wild-horses - "run"'),
        ("红色 lantern", "lantern"),
        ("call 12345678 or 10.0.0.1", "call or"),
        ("photo.jpg of a dog", "of a dog"),
        ("one_two_three_four_five", "one two three four five"),
        ("high-res, half-open", "high-res, half-open"),
        ("fish &amp; chips &lt;3", "fish chips <3"),
        ("<b>bold</b> and <i>slanted</i>", "bold and slanted"),
        ("1920x1080 frame", "frame"),
        ("left,right.up/down", "left, right. up down"),
        ("'all of it in quotes'", "all of it in quotes"),
        ("ends here:", "ends here"),
        ("%41 cat+dog", "a cat dog"),
        ("", ""),
    ],
)
def test_captions_are_cleaned(prompt, cleaned):
    assert clean_caption(prompt) == cleaned
    assert clean_caption(prompt, repair=plain_repair) == cleaned


def test_the_second_pass_removes_what_the_first_joined():
    assert clean_caption("big sale worldwide,", passes=1) == "big sale worldwide"
    prompt = "*** SALE *** free shipping worldwide, click on here"
    assert clean_caption(prompt, passes=1) == "sale worldwide,"
    assert clean_caption(prompt) == "sale worldwide"


def test_the_recorded_captions_come_out(reference_dir: Path):
    """Also without ftfy: none of them needs a broken encoding repaired."""
    file = reference_dir / "magi1" / "text" / "clean_caption.json"
    if not file.is_file():
        pytest.skip("the golden captions are not here")
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert len(rows) > 30
    for row in rows:
        assert clean_caption(row["prompt"], passes=1, repair=plain_repair) == row["once"]
        assert clean_caption(row["prompt"], repair=plain_repair) == row["cleaned"]


def test_ftfy_repairs_where_it_is_installed():
    ftfy = pytest.importorskip("ftfy")
    broken = "naã¯ve ‚open‛"
    assert clean_caption(broken) == clean_caption(broken, repair=ftfy.fix_text)
    assert clean_caption("ﬁne Ｗide") == "fine wide"
    wrong = "wait... a dog".replace("...", "â€¦")
    assert clean_caption(wrong) == "wait… a dog" != clean_caption(wrong, repair=plain_repair)


def test_without_ftfy_typography_is_plain(monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def refuse(name: str, *args, **kwargs):
        if name == "ftfy":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert clean_caption("ﬁne  „Ｗide” e\u0301") == 'fine "wide" é'


def test_plain_repair():
    assert plain_repair("ﬂat ’s “x” Ａ１\u3000b\ufeff\x07 a\u2028b e\u0301") == 'flat \'s "x" A1 b a\nb é'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no markup at all; a > b", "no markup at all; a > b"),
        ("<p>one<br>two</p>", "onetwo"),
        ("a<!-- not this -->b", "ab"),
        ("a<script>var x = '<b>';</script>b<style>p {}</style>c", "abc"),
        ("<template>x<b>y</b></template>z", "z"),
        ("a</b>c", "ac"),
        ("&eacute;&#233;&#xe9;&unknown;", "ééé&unknown"),
        ("<![CDATA[kept]]>", "kept"),
    ],
)
def test_markup_is_taken_out(text, words):
    assert without_markup(text) == words


# Special tokens


@pytest.fixture(scope="module")
def arrays() -> dict[str, Tensor]:
    """The official arrays in small: row r of other_tokens holds r."""
    rows = torch.arange(100, dtype=torch.float64).unsqueeze(1).expand(100, WIDTH).contiguous()
    return {
        "other_tokens": rows,
        "caption_token": torch.full((1, WIDTH), -1.0, dtype=torch.float64),
        "logo_token": torch.full((1, WIDTH), -2.0, dtype=torch.float64),
    }


@pytest.fixture(scope="module")
def tokens(arrays: dict[str, Tensor]) -> SpecialTokens:
    return special_tokens_from(arrays)


def numbers(text: Tensor) -> list[float]:
    """The first value of each token."""
    return text[:, 0].tolist()


def test_every_token_has_its_row(tokens: SpecialTokens):
    rows = {name: numbers(vectors) for name, vectors in tokens.vectors.items()}
    assert rows == {
        "TRANS": [0],
        "HQ": [1],
        "STATIC": [2],
        "DYNAMIC": [3],
        "BORDERNESS": [4],
        "DURATION": [7, 8, 9, 10, 11, 12, 13, 14],
        "3D": [15],
        "2D": [16],
        "CAPTION": [-1],
        "LOGO": [-2],
    }
    assert tokens.width == WIDTH


def test_values_are_rounded_to_float16(arrays: dict[str, Tensor]):
    fine = {**arrays, "other_tokens": arrays["other_tokens"] + 1e-4}
    assert options_of(["HQ"], special_tokens_from(fine))[VECTORS_KEY][0, 0] == torch.tensor(1 + 1e-4).half().float()


def test_files_are_read(tmp_path: Path, arrays: dict[str, Tensor], tokens: SpecialTokens):
    np.savez(tmp_path / "special_tokens.npz", **{name: array.numpy() for name, array in arrays.items()})
    save_file(arrays, tmp_path / "special_tokens.safetensors")
    used = {"other_tokens_0_16": arrays["other_tokens"][:17].half()}
    save_file(used, tmp_path / "used.safetensors")
    for name in ("special_tokens.npz", "special_tokens.safetensors", "used.safetensors"):
        read = read_special_tokens(tmp_path / name)
        assert all(torch.equal(read.vectors[key], tokens.vectors[key]) for key in PREPENDED)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"weights": torch.zeros(3, 3)}, "there is no array other_tokens, only weights"),
        ({"other_tokens": torch.zeros(5, 3)}, r"shape \[5, 3\]; expected at least 17"),
        ({"other_tokens": torch.zeros(100, dtype=torch.int64)}, "int64"),
        ({"other_tokens": torch.zeros(17, 3), "logo_token": torch.zeros(1, 4)}, r"logo_token has shape \[1, 4\]"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, arrays, message):
    save_file(arrays, tmp_path / "special_tokens.safetensors")
    with pytest.raises(SpecialTokensError, match=message):
        read_special_tokens(tmp_path / "special_tokens.safetensors")


@pytest.mark.parametrize("name", ["special_tokens.npz", "special_tokens.safetensors"])
@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"PK\x03\x04 and no more"])
def test_damaged_files_are_refused(tmp_path: Path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SpecialTokensError, match="special_tokens"):
        read_special_tokens(tmp_path / name)


def test_nothing_is_unpickled(tmp_path: Path):
    np.savez(tmp_path / "special_tokens.npz", other_tokens=np.array([{"a": 1}], dtype=object))
    with pytest.raises(SpecialTokensError, match="damaged or no npz file"):
        read_special_tokens(tmp_path / "special_tokens.npz")


def test_options_are_in_order_and_plain(tokens: SpecialTokens):
    options = options_of(["DURATION", "HQ", "STATIC"], tokens)
    assert options[TOKENS_KEY] == ["STATIC", "HQ", "DURATION"]
    assert numbers(options[VECTORS_KEY]) == [2, 1, 7, 8, 9, 10, 11, 12, 13, 14]
    assert options[VECTORS_KEY].dtype == torch.float32
    assert options_of([], tokens) == {}
    with pytest.raises(ValueError, match="special token 'LOGO' is unknown; legal are STATIC, DYNAMIC"):
        options_of(["LOGO"], tokens)


def test_options_survive_a_saved_prompt(tmp_path: Path, tokens: SpecialTokens):
    options = options_of(["HQ", "DURATION"], tokens)
    cond = torch.randn(1, 5, WIDTH)
    save_prompt(tmp_path / "p.safetensors", [[cond, {"pooled_output": None, **options}]], "a cat")
    loaded, values = load_prompt(tmp_path / "p.safetensors")[0][0]
    assert torch.equal(loaded, cond)
    for chunk in (0, 3, 9):
        assert torch.equal(chunk_text(loaded, values, chunk)[0], chunk_text(cond, options, chunk)[0])


# Texts of chunks


@pytest.fixture
def cond() -> Tensor:
    """Five tokens that hold 100 to 104."""
    return torch.arange(100.0, 105.0).view(1, 5, 1).expand(1, 5, WIDTH).clone()


def test_the_last_token_put_in_front_stands_first(cond: Tensor, tokens: SpecialTokens):
    text, count = chunk_text(cond, options_of(PREPENDED, tokens), 2)
    assert numbers(text) == [9, 16, 15, 1, 4, 3, 2, 100, 101, 102, 103, 104]
    assert count == 12


def test_duration_says_how_many_chunks_are_to_come(cond: Tensor, tokens: SpecialTokens):
    options = options_of(["HQ", "DURATION"], tokens)
    firsts = [numbers(chunk_text(cond, options, to_come)[0])[:2] for to_come in range(10)]
    assert firsts == [[7 + min(to_come, 7), 1] for to_come in range(10)]


def test_without_special_tokens_the_text_stays(cond: Tensor):
    text, count = chunk_text(cond, {"pooled_output": None}, 3)
    assert torch.equal(text, cond[0])
    assert count == 5


def test_a_full_text_loses_its_end(tokens: SpecialTokens):
    cond = torch.arange(float(MAX_TOKENS)).view(1, -1, 1).expand(1, -1, WIDTH)
    text, count = chunk_text(cond, options_of(["HQ", "DURATION"], tokens), 0)
    assert count == len(text) == MAX_TOKENS
    assert numbers(text)[:3] == [7, 1, 0]
    assert numbers(text)[-1] == MAX_TOKENS - 3
    assert chunk_text(torch.zeros(1, 900, WIDTH), {}, 0)[1] == MAX_TOKENS


def test_the_text_keeps_its_precision(cond: Tensor, tokens: SpecialTokens):
    assert chunk_text(cond.bfloat16(), options_of(["HQ"], tokens), 0)[0].dtype == torch.bfloat16


def test_a_padded_text_counts_its_tokens(cond: Tensor, tokens: SpecialTokens):
    text, count = chunk_text(cond, options_of(["HQ"], tokens), 0, valid=2)
    assert (len(text), count) == (6, 3)


# Lengths


def test_ids_lose_their_filling():
    assert fitted_ids([71, 1712, 1, 0, 0, 0]) == ([71, 1712, 1], 0)
    assert fitted_ids([1]) == ([1], 0)
    assert fitted_ids([]) == ([1], 0)
    assert fitted_ids([5, 1, 6, 1]) == ([5, 6, 1], 0)


def test_long_prompts_are_cut_not_split():
    ids, left_out = fitted_ids([*range(2, 2000), 1])
    assert len(ids) == MAX_TOKENS
    assert ids == [*range(2, 801), 1]
    assert left_out == 1998 - 799
    assert fitted_ids([*range(2, 801), 1])[1] == 0
