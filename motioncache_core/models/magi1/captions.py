"""Captions as MAGI-1 was trained on them: lower case, without links, brackets, file names, Chinese characters, ids.

The rules are those that captions of the training set went through (they come from DeepFloyd IF and are widespread);
only their outcome matters here, so they are told as a table. `ftfy`, where it is installed, repairs wrongly decoded
text as in the original; without it only typography is made plain, which differs for broken encodings alone.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from html import unescape
from html.entities import html5
from html.parser import HTMLParser

PASSES = 2
"""The original cleans twice; what the first pass joins may be something to remove."""

Rule = tuple[re.Pattern[str], str]

_PERCENT = re.compile("(?:%[0-9a-fA-F]{2})+")

_SITE = r"[a-zA-Z0-9.\-]+\.(?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@)"
_FILE = "(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)"
_DASHES = (
    r"\-\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030\u30a0"
    r"\ufe31\ufe32\ufe58\ufe63\uff0d"
)


def _rules(*rules: tuple[str, str]) -> tuple[Rule, ...]:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in rules)


_LINKS = _rules(
    (rf"\b(?:https?:(?:/{{1,3}}|[a-zA-Z0-9%])|{_SITE})", ""),
    (rf"\b(?:www:(?:/{{1,3}}|[a-zA-Z0-9%])|{_SITE})", ""),
)
_IDEOGRAPHS = r"[\u31c0-\u9fff]+"
"""With strokes, enclosed and compatibility signs."""
_SIGNS = _rules(
    (r"@\w+\b", ""),  # nicknames
    (_IDEOGRAPHS, ""),
    (rf"[{_DASHES}]+", "-"),
    (r"[`´«»“”¨]", '"'),
    (r"[‘’]", "'"),
    (r"&quot;?|&amp", ""),
    (r"\d{1,3}(?:\.\d{1,3}){3}", " "),  # addresses of computers
    (r"\d:\d\d\s+$", ""),  # numbers of articles
    (r"\\n", " "),
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"\S+\.{_FILE}", ""),
    (r"[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    (r"[#®•©™&@·º½¾¿¡§~)(\]\[}{|\\/*]+", " "),
    (r"\s+\.\s+", " "),
)
_JOINERS = re.compile(r"[-_]")
_MOST_JOINERS = 3
_WORDS = _rules(
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),  # ids of letters and digits, of three forms
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
    (r"\b\d+[a-zA-Z]+\d+\b", ""),
    (r"(?:worldwide\s+)?(?:free\s+)?shipping", ""),
    (r"(?:free\s)?download(?:\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b{_FILE}(?:\simages?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    (r"\b\d+\.?\d*[xх×]\d+\.?\d*\b", ""),  # sizes; the second x is Cyrillic
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
)
_ENDS = _rules(
    (r"^[\"']([\w\W]+)[\"']$", r"\1"),
    (r"^['_,\-:;]", ""),
    (r"['_,\-:+]$", ""),
    (r"^\.\S+$", ""),
)


def clean_caption(prompt: str, passes: int = PASSES, repair: Callable[[str], str] | None = None) -> str:
    """The prompt as the model knows captions.

    Args:
        passes: how often.
        repair: of wrongly decoded text; ``None``: ftfy's where it is installed, else :func:`plain_repair`.
    """
    repair = repair or _installed_repair()
    for _ in range(passes):
        prompt = _clean(prompt, repair)
    return prompt


def ideographs(prompt: str) -> str:
    """The Chinese characters of a prompt, which cleaning takes out."""
    return "".join(re.findall(_IDEOGRAPHS, without_percent_codes(prompt)))


def without_percent_codes(text: str) -> str:
    """``+`` as a space and runs of ``%XX`` as the UTF-8 text that they stand for, as in web addresses."""
    return _PERCENT.sub(
        lambda run: bytes.fromhex(run[0].replace("%", "")).decode("utf-8", "replace"), text.replace("+", " ")
    )


def _clean(text: str, repair: Callable[[str], str]) -> str:
    text = without_percent_codes(text).strip().lower().replace("<person>", "person")
    text = _apply(_LINKS, text)
    text = _apply(_SIGNS, without_markup(text))
    if len(_JOINERS.findall(text)) > _MOST_JOINERS:
        text = _JOINERS.sub(" ", text)
    text = unescape(unescape(repair(text))).strip()
    return _apply(_ENDS, _apply(_WORDS, text)).strip()


def _apply(rules: tuple[Rule, ...], text: str) -> str:
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text


def _installed_repair() -> Callable[[str], str]:
    try:
        from ftfy import fix_text
    except ImportError:
        return plain_repair
    return fix_text


_PLAIN_SIGNS = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛", "'"),
        **dict.fromkeys("“”„‟", '"'),
        **{code: unicodedata.normalize("NFKC", chr(code)) for code in (0x3000, *range(0xFB00, 0xFB07))},
        **{code: unicodedata.normalize("NFKC", chr(code)) for code in range(0xFF01, 0xFFF0)},
        **dict.fromkeys((0x0085, 0x2028, 0x2029), "\n"),
        **dict.fromkeys((*range(9), 0x0B, *range(0x0E, 0x20), 0x7F, *range(0x206A, 0x2070), 0xFEFF), None),
    }
)


def plain_repair(text: str) -> str:
    """Straight quotes, no ligatures, no wide forms, no control characters, composed accents."""
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n").translate(_PLAIN_SIGNS))


def without_markup(text: str) -> str:
    """HTML's words without its tags, comments, scripts and styles; entities become what they stand for."""
    if "<" not in text and "&" not in text:
        return text
    words = _Words()
    words.feed(text)
    words.close()
    return "".join(words.kept)


class _Words(HTMLParser):
    _HIDDEN = frozenset({"script", "style", "template", "rt", "rp"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.kept: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if self._HIDDEN.isdisjoint(self._open):
            self.kept.append(data)

    def handle_entityref(self, name: str) -> None:
        self.handle_data(html5.get(f"{name};", f"&{name}"))

    def handle_charref(self, name: str) -> None:
        self.handle_data(unescape(f"&#{name};"))

    def unknown_decl(self, data: str) -> None:
        if data.upper().startswith("CDATA["):
            self.handle_data(data[len("CDATA[") :])
