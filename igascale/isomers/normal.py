"""What of a text counts when problems are compared: words, numbers, symbols, sentences; not case, punctuation or blanks."""

from __future__ import annotations

import re
import unicodedata
from functools import cache, lru_cache
from hashlib import blake2b

#: Scripts written without blanks (Thai, Lao, Burmese, Khmer, kana, Han): a character is a word.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_MATHS = "\u00ac\u00b1\u2190-\u21ff\u2200-\u22ff\u27e8-\u27ff\u2a00-\u2aff"
_SAME_CHARACTER = str.maketrans(
    {
        **dict.fromkeys("\u2212\u2010\u2011\u2013", "-"),
        **dict.fromkeys("\u2018\u2019", "'"),
        **dict.fromkeys("\u22c5\u00b7\u00d7", "*"),
    }
)
_SAME_TEX = {
    r"\dfrac": r"\frac",
    r"\tfrac": r"\frac",
    r"\cdot": "*",
    r"\times": "*",
    r"\le": "\u2264",
    r"\leq": "\u2264",
    r"\ge": "\u2265",
    r"\geq": "\u2265",
    r"\ne": "\u2260",
    r"\neq": "\u2260",
    **dict.fromkeys((r"\left", r"\right", r"\displaystyle", r"\quad", r"\qquad", r"\text", r"\textbf", r"\mathrm"), ""),
}
_ONE_LETTER_WORDS = "ai"  # of English; any other Latin or Greek letter alone is a name or a variable
_BREAK = "."  # stands between sentences
_COUNT = re.compile(r"\s*\(?(?P<index>\d{1,4}|[a-z])\)(?=\s)")


def tokens(text: str) -> list[str]:
    """The words, numbers and symbols of a text in order: equal where only case, punctuation and blanks differ."""
    return [token for token in _pieces(text) if token != _BREAK]


def sentences(text: str) -> list[list[str]]:
    """The same, sentence by sentence. What only counts the problem, as in ``12) Find``, is a sentence by itself."""
    found: list[list[str]] = [[]]
    for token in _pieces(text):
        if token != _BREAK:
            found[-1].append(token)
        elif found[-1]:
            found.append([])
    return [sentence for sentence in found if sentence]


@lru_cache(maxsize=1 << 16)
def is_symbol(token: str) -> bool:
    """Whether a token is data rather than wording: a number, a letter alone, ``x1``, an operator, a TeX command."""
    if len(token) > 1:
        return token[0] == "\\" or any(character.isdigit() for character in token)
    if not token.isalpha():
        return True
    return token not in _ONE_LETTER_WORDS and (token.isascii() or "\u0370" <= token <= "\u03ff")


def hash_of(text: str) -> int:
    """64 bits that are the same on every machine and in every process."""
    return int.from_bytes(blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")


def _pieces(text: str) -> list[str]:
    """Tokens, with `_BREAK` between sentences."""
    text = unicodedata.normalize("NFKC", text).casefold().translate(_SAME_CHARACTER)
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)  # 1,000
    found = []
    start = 0
    if count := _COUNT.match(text):
        found += [count["index"], _BREAK]
        start = count.end()
    for match in _pattern().finditer(text, start):
        token = match.group()
        if match.lastgroup == "end":
            found.append(_BREAK)
        elif token := _SAME_TEX.get(token, token):
            found.append(token)
    return found


@cache
def _pattern() -> re.Pattern[str]:
    # `re` has no class for combining marks, without which a Hindi or an Arabic word falls apart.
    marks = "".join(chr(c) for c in range(0x300, 0x1F000) if unicodedata.category(chr(c)).startswith("M"))
    letter = rf"[^\W\d_{_UNSPACED}]"
    # An ASCII sign is an operator before a number, a letter alone, a bracket or TeX; elsewhere it is punctuation.
    operand = rf"\s*(?:[\d\\({{$]|{letter}(?!{letter}))"
    return re.compile(
        rf"""
        {letter}(?:{letter}|\d|[{marks}]|'(?={letter}))*
        |(?P<end>[.!?;:\u2026\u3002\u061f\u0964]+)
        |\d+(?:\.\d+)?
        |\\[a-z]+
        |[{_UNSPACED}][{marks}]*
        |[{_MATHS}]|[-+*/=<>^|!%](?={operand})
        """,
        re.VERBOSE,
    )
