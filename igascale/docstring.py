"""The docstrings of hooks, for a terminal: option texts from the ``Args`` section, the rest without markup.

>>> terminal(r"with :math:`\\bar g_n = \\tfrac1D \\sum_n g_n` and ``tau``")
'with ḡ_n = 1/D Σ_n g_n and tau'
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

_SECTION = re.compile(r"(Args|Raises|Example|Examples|Returns|Attributes):$")


@dataclass(frozen=True)
class Block:
    """A piece of a docstring.

    Attributes:
        kind: ``text``, ``item`` (of a list) or ``math``.
        text: without markup; ``math`` keeps its lines.
    """

    kind: str
    text: str


def summary(cls: type) -> str:
    """The first line of a class's own docstring, without markup; "" without one."""
    return terminal((cls.__doc__ or "").strip().split("\n")[0])


def option_texts(cls: type) -> dict[str, str]:
    """Option -> what the ``Args`` section of the class's docstring says; else the nearest base class that documents it."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        texts |= _arguments(inspect.cleandoc(base.__doc__ or ""))
    return {name: terminal(text) for name, text in texts.items()}


def blocks(cls: type) -> list[Block]:
    """What a class's docstring says beside its summary, options, errors and examples."""
    lines, found = _without_sections(inspect.cleandoc(cls.__doc__ or "").split("\n")[1:]), []
    for piece in _pieces(lines):
        first, *rest = piece
        if first.lstrip().startswith(".. math::"):
            formula = [first.lstrip().removeprefix(".. math::"), *rest]
            found.append(Block("math", "\n".join(_unicode(line.strip()) for line in formula if line.strip())))
        else:
            words = " ".join(line.strip() for line in piece)
            is_item = words.startswith("* ")
            found.append(Block("item" if is_item else "text", terminal(words.removeprefix("* "))))
    return found


def terminal(text: str) -> str:
    """A line or paragraph of reStructuredText without its markup."""
    text = re.sub(r":math:`([^`]*)`", lambda m: _unicode(m[1]), text)
    text = re.sub(r"`([^`<]+?) <([^`>]+)>`_+", r"\1 (\2)", text)
    text = re.sub(r":\w+:`~?([^`]*)`", r"\1", text)
    return re.sub(r"``(.+?)``|`([^`]+)`", lambda m: m[1] or m[2], text)


def _arguments(doc: str) -> dict[str, str]:
    match = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)*)", doc, re.MULTILINE)
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.cleandoc("\n" + match[1]).split("\n") if match else ():
        start = re.match(r"\*{0,2}(\w+(?:, \w+)*)(?: \([^)]*\))?:\s*(.*)", line)
        if start:
            names = start[1].split(", ")
            texts |= dict.fromkeys(names, start[2])
        else:
            texts |= {name: f"{texts[name]} {line.strip()}".strip() for name in names}
    return texts


def _without_sections(lines: list[str]) -> list[str]:
    kept, inside = [], False
    for line in lines:
        if _SECTION.match(line):
            inside = True
        elif line and not line[0].isspace():
            inside = False
        if not inside:
            kept.append(line)
    return kept


def _pieces(lines: list[str]) -> list[list[str]]:
    """Paragraphs, list items and formulas, each a list of lines."""
    pieces: list[list[str]] = [[]]
    for line in lines:
        starts = line.lstrip().startswith(("* ", ".. math::"))
        in_math = bool(pieces[-1]) and pieces[-1][0].lstrip().startswith(".. math::")
        ends = not line.strip() or (in_math and not line[0].isspace())
        if starts or ends:
            pieces.append([])
        if line.strip():
            pieces[-1].append(line)
    return [piece for piece in pieces if piece]


_SYMBOLS = {
    "alpha": "α", "beta": "β", "lambda": "λ", "rho": "ρ", "sigma": "σ", "tau": "τ", "eta": "η", "mu": "μ", "nabla": "∇",
    "sum": "Σ", "prod": "Π", "odot": "⊙", "cdot": "·", "times": "×", "top": "ᵀ", "mapsto": "↦", "to": "→",
    "Rightarrow": "⇒", "in": "∈", "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥", "ne": "≠", "neq": "≠", "sim": "~",
    "langle": "⟨", "rangle": "⟩", "infty": "∞", "circ": "∘", "ell": "ℓ", "Delta": "Δ", "epsilon": "ε", "varepsilon": "ε",
    "gamma": "γ", "theta": "θ", "pi": "π", "mid": "|", "vert": "|", "lVert": "‖", "rVert": "‖", "Vert": "‖", "pm": "±",
    "propto": "∝", "approx": "≈", "perp": "⊥", "dots": "…", "ldots": "…", "quad": "  ", "qquad": "    ", "min": "min",
    "max": "max", "exp": "exp", "log": "log", "tanh": "tanh", "sign": "sign", "argmin": "argmin", "arg": "arg",
}  # fmt: skip
_ACCENTS = {"hat": "\u0302", "bar": "\u0304", "tilde": "\u0303"}
_PRECOMPOSED = {"g\u0304": "ḡ", "a\u0304": "ā", "g\u0302": "ĝ"}


_BRACED = r"\{((?:[^{}]|\{[^{}]*\})*)\}"


def _unicode(formula: str) -> str:
    """LaTeX as a terminal can show it; what is not known stays as it is."""
    text = re.sub(r"\\(?:left|right|[bB]ig+[lrm]?|textstyle|displaystyle)(?![a-zA-Z])", "", formula)
    for _ in range(3):  # one in another
        text = re.sub(r"\\(?:mathrm|mathbb|mathbf|mathit|text|operatorname\*?)" + _BRACED, r"\1", text)
        text = re.sub(r"\\[td]?frac" + _BRACED * 2, lambda m: f"{_grouped(m[1])}/{_grouped(m[2])}", text)
        text = re.sub(r"\\[td]?frac\s*([A-Za-z0-9])\s*([A-Za-z0-9])", r"\1/\2", text)
        text = re.sub(r"\\sqrt" + _BRACED, r"√(\1)", text)
    text = re.sub(r"\\(?:mathrm|mathbb|mathbf)\s*(\w)", r"\1", text)
    text = re.sub(r"\\(hat|bar|tilde)\s*\{?(\w)\}?", lambda m: m[2] + _ACCENTS[m[1]], text)
    text = re.sub(r"\\\|", "‖", re.sub(r"\\[,;:! ]|&", " ", text.replace("\\\\", " ")))
    text = re.sub(r"\\([A-Za-z]+)", lambda m: _SYMBOLS.get(m[1], m[0]), text)
    text = re.sub(r"\^(ᵀ|\{ᵀ\})", "ᵀ", text).replace("\\{", "{").replace("\\}", "}")
    for pair, single in _PRECOMPOSED.items():
        text = text.replace(pair, single)
    return re.sub(r"(?<=\S) {3,}", "  ", text).strip()


def _grouped(text: str) -> str:
    """In brackets, if it is more than one symbol and its index."""
    return text if re.fullmatch(r"\\?\w+(\^\w|_\w)*", text.strip()) else f"({text.strip()})"
