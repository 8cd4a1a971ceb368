r"""A formula as a model writes it, in LaTeX, Unicode or plain text, cut into tokens of one spelling."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from igascale.evaluation.benchmarks.math import last_boxed

MAX_CHARACTERS = 400
MAX_TOKENS = 200
#: Letters of a run that can still be a product (``GMmrt``); more are a word of English.
MAX_FACTORS = 5

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ", "0123456789+-()n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SIGNS = {
    **dict.fromkeys("−–—‐‑﹣", "-"),
    **dict.fromkeys("×·⋅∙∗•✕", "*"),
    **dict.fromkeys("÷∕⁄", "/"),
    **dict.fromkeys("\u00a0\u2002\u2003\u2009\u200a\u202f\u2062\ufeff", " "),
    "√": r"\sqrt ",
    "∞": r"\infty ",
    **dict.fromkeys("ℏħ", r"\hbar "),
    "º": "°",
    "′": "'",
}
_GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi chi psi omega"
_FUNCTIONS = (
    "sin cos tan cot sec csc arcsin arccos arctan asin acos atan sinh cosh tanh coth asinh acosh atanh arcsinh arccosh arctanh "
    "exp ln log sqrt abs"
)
FUNCTIONS = frozenset(_FUNCTIONS.split())
#: Names of more than one letter that a run of letters may be: what TeX has as commands.
NAMES = FUNCTIONS | set(_GREEK.split()) | {"hbar", "infty", "ell"} | {name.capitalize() for name in _GREEK.split()}
_OPERATIONS = {"frac", "sqrt", "binom"}
#: What a number may hold; all other words behind a number are its unit.
_OF_NUMBERS = FUNCTIONS | _OPERATIONS | {"pi", "e", "i", "infty"}
#: Of two letters, and so as likely two factors inside a longer run.
_WHOLE_ONLY = {"mu", "nu", "xi", "Mu", "Nu", "Xi", "Pi"}
_BY_LENGTH = sorted(NAMES - _WHOLE_ONLY, key=len, reverse=True)
_RENAMED = {
    "varepsilon": "epsilon",
    "vartheta": "theta",
    "varphi": "phi",
    "varrho": "rho",
    "varsigma": "sigma",
    "dfrac": "frac",
}
_RENAMED |= {
    "tfrac": "frac",
    "cfrac": "frac",
    "cdot": "*",
    "times": "*",
    "ast": "*",
    "div": "/",
    "lvert": "|",
    "rvert": "|",
    "vert": "|",
}
_RENAMED |= {
    "dbinom": "binom",
    "tbinom": "binom",
    "lbrack": "[",
    "rbrack": "]",
    "lbrace": "{",
    "rbrace": "}",
    "mid": "|",
}

#: Words that tell a sentence from a product of letters.
_ENGLISH = re.compile(
    r"(?<![A-Za-z\\_{])(?:the|are|for|and|not|where|with|twice|half|times)(?![A-Za-z}])|\s(?:of|or|if)\s"
)
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:,|\{,\}|\\,|[\u2009\u202f])\d{3})+(?!\d)")
_SPACING = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|limits|quad|qquad|thinspace|,|;|:|!|>| )(?![A-Za-z])|~|(?<!\\)\$"
)
_TEXT = re.compile(r"\\(?:text|textrm|mathrm|mathbf|mathit|mathsf|operatorname|mbox|boldsymbol|rm)\*?\s*\{([^{}]*)\}")
_TOKEN = re.compile(
    r"(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:\s?[eE][+-]?\d+(?![\d.]))?)"
    r"|\\(?P<command>[A-Za-z]+)|(?P<text>⟦[^⟧]*⟧)|(?P<word>[A-Za-z]+|[^\W\d_])|(?P<sign>\*\*|\\%|\\\$|.)",
    re.DOTALL,
)


class Unreadable(Exception):
    """A text that is no formula of the kind that is read here; the message says why."""


class Token(NamedTuple):
    """``kind`` is number, name, text (set as words), sign, or word (a run of letters that is no name); ``start`` its place."""

    kind: str
    value: str
    start: int


def plain_formula(text: str) -> str:
    r"""One spelling for what LaTeX, Unicode and markdown write in several; words in ``\text{}`` stand between ⟦ and ⟧.

    Raises:
        Unreadable: it is too long.
    """
    if len(text) > MAX_CHARACTERS:
        raise Unreadable(f"longer than {MAX_CHARACTERS} characters")
    if r"\boxed" in text or r"\fbox" in text:
        text = last_boxed(text) or ""
    text = _THOUSANDS.sub(lambda found: re.sub(r"\D", "", found[0]), text)
    text = re.sub("([⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ]+)", lambda found: f"^({found[0].translate(_SUPERSCRIPTS)})", text)
    text = re.sub("([₀-₉]+)", lambda found: f"_{{{found[0].translate(_SUBSCRIPTS)}}}", text)
    text = re.sub("[¼-¾⅐-⅞]", lambda found: _vulgar(found[0]), text)
    text = unicodedata.normalize("NFKC", "".join(_SIGNS.get(character, character) for character in text))
    text = re.sub(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ\b)", "°", text)
    text = re.sub(r"\\degree\b", "°", text)
    text = re.sub(r"\\[()\[\]]", " ", _SPACING.sub(" ", text))
    text = _TEXT.sub(lambda found: f" ⟦{found[1].strip()}⟧ ", text)
    return text.strip().strip("`").removeprefix("**").removesuffix("**").strip().rstrip(".,;").strip()


def _vulgar(fraction: str) -> str:
    r"""``\frac{1}{2}`` for ½."""
    above, below = unicodedata.normalize("NFKC", fraction).split("⁄")
    return rf"\frac{{{above}}}{{{below}}}"


def tokens(formula: str, *, letters: bool) -> list[Token]:
    """The tokens of a :func:`plain_formula`.

    Args:
        formula: its text.
        letters: whether variables are read: a run of letters that is no name is then a product of its letters (``mgh``). Else
            it is one word, a unit.

    Raises:
        Unreadable: too many, a command that is not known, or a run of more letters than a product has.
    """
    if letters and _ENGLISH.search(formula):
        raise Unreadable("words, not a formula")
    found: list[Token] = []
    for match in _TOKEN.finditer(formula):
        kind, value, start = str(match.lastgroup), match[0], match.start()
        if value.isspace():
            continue
        if kind == "word":
            subscript = bool(found) and found[-1].value == "_"
            found += _variables(value, start, subscript) if letters else [_word_or_name(value, start)]
            continue
        if kind == "command":
            value = _RENAMED.get(match["command"], match["command"])
            kind = "name" if value[0].isalpha() else "sign"
            if kind == "name" and letters and value not in NAMES | _OPERATIONS:
                raise Unreadable(f"\\{value} is not read here")
        elif kind == "text":
            value = value[1:-1]
            kind = "name" if value in FUNCTIONS or value == "e" else "text"
        elif kind == "sign":
            value = "^" if value == "**" else value
        if kind == "name" and not letters and value not in _OF_NUMBERS:
            kind = "word"
        found.append(Token(kind, value, start))
    if len(found) > MAX_TOKENS:
        raise Unreadable(f"more than {MAX_TOKENS} tokens")
    return found


def _variables(word: str, start: int, subscript: bool) -> list[Token]:
    """A run of letters as names and single letters; behind ``_`` three small letters and more are one (``v_max``)."""
    if subscript and len(word) >= 3 and word.isascii() and word.islower():
        return [Token("name", word, start)]
    if word in _WHOLE_ONLY:
        return [Token("name", word, start)]
    pieces, position = [], 0
    while position < len(word):
        piece = next((known for known in _BY_LENGTH if word.startswith(known, position)), word[position])
        pieces.append(Token("name", _latin(piece), start + position))
        position += len(piece)
    if sum(len(piece.value) == 1 for piece in pieces) > MAX_FACTORS:
        raise Unreadable(f"'{word}' is a word")
    return pieces


def _word_or_name(word: str, start: int) -> Token:
    name = _latin(word)
    return Token("name", name, start) if name in _OF_NUMBERS else Token("word", word, start)


def _latin(letters: str) -> str:
    """``alpha`` for α, ``Omega`` for Ω; anything else as it is."""
    if len(letters) != 1 or letters.isascii():
        return letters
    words = unicodedata.name(letters, "").split()
    if words[:1] != ["GREEK"] or "LETTER" not in words:
        return letters
    name = {"LAMDA": "lambda", "FINAL": "sigma"}.get(words[3], words[3].lower())
    return name.capitalize() if "CAPITAL" in words else name
