"""A table for a paper: booktabs."""

from __future__ import annotations

import re
import unicodedata

from igascale.tables.table import Cell, Table, clean, indent_of

# TeX's own characters; then those that begin an optional argument after `\\`, or join into another sign.
_TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "\N{WORD JOINER}": "{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    '"': r"\textquotedbl{}",
    "\n": " ",
}
_SIGNS = {
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "…": r"\dots{}",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "\N{NO-BREAK SPACE}": "~",
    "\N{NARROW NO-BREAK SPACE}": r"\,",
}
_MATHS = {
    "−": "-",
    "±": r"\pm",
    "×": r"\times",
    "·": r"\cdot",
    "≈": r"\approx",
    "≤": r"\leq",
    "≥": r"\geq",
    "≠": r"\neq",
    "→": r"\rightarrow",
    "↑": r"\uparrow",
    "↓": r"\downarrow",
    "▲": r"\blacktriangle",
    "▼": r"\blacktriangledown",
    "∞": r"\infty",
    "²": "^2",
    "³": "^3",
    "Δ": r"\Delta",
    "‖": r"\|",
    "λ": r"\lambda",  # LAMDA to Unicode
} | {letter: rf"\{unicodedata.name(letter).split()[-1].lower()}" for letter in "αβγδεζηθμπρστφχψω"}
_FONTS = {"best": r"\textbf", "dim": r"\textit"}
_MINUS = re.compile(r"(?<![^\s\[(+])-(?=[0-9.])")  # a sign, not a hyphen
_ESCAPES = str.maketrans(_TEX | _SIGNS | {sign: f"${maths}$" for sign, maths in _MATHS.items()})


def to_latex(table: Table, label: str = "") -> str:
    """A ``table`` with caption, ``tabular`` and notes below; the best of a column is bold.

    It needs the packages booktabs, amssymb (triangles) and, for straight quotes, textcomp with T1 fonts; a comment says so. Characters that
    have no name in TeX are kept, for LuaLaTeX or XeLaTeX and a font that has them.

    Args:
        table: what to write.
        label: for ``\\ref``.
    """
    lines = [
        r"% \usepackage{booktabs,amssymb,textcomp} \usepackage[T1]{fontenc}",
        r"\begin{table}",
        r"\centering",
    ]
    if table.title.strip():
        lines.append(rf"\caption{{{escape(table.title)}}}")
    if label:
        lines.append(rf"\label{{{label}}}")
    lines += [rf"\begin{{tabular}}{{{''.join(column.align[0] for column in table.columns)}}}", r"\toprule"]
    lines += [_row([escape(column.name) for column in table.columns]), r"\midrule"]
    lines += [_row([_cell(cell) for cell in row]) if row else r"\midrule" for row in _trimmed(list(table.grid()))]
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\smallskip{{\footnotesize {escape(note)}\par}}" for note in table.notes]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def escape(text: str) -> str:
    """Text that TeX sets as it is; an end of line becomes a blank, since the columns do not wrap.

    Example:
        >>> print(escape("50% of [a_1] & b ± 2"))
        50\\% of {[}a\\_1{]} \\& b $\\pm$ 2
    """
    text = _MINUS.sub("−", clean(text).strip())
    return text.replace("--", "-\N{WORD JOINER}-\N{WORD JOINER}").translate(_ESCAPES)


def _row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: Cell) -> str:
    text = escape(cell.shown)
    if text and cell.emphasis in _FONTS:
        text = rf"{_FONTS[cell.emphasis]}{{{text}}}"
    return "~" * indent_of(cell.text) + text


def _trimmed(rows: list[list[Cell]]) -> list[list[Cell]]:
    """Without rules at the ends, where booktabs has its own, and never two in a row."""
    kept: list[list[Cell]] = []
    for row in rows:
        if row or (kept and kept[-1]):
            kept.append(row)
    return kept[:-1] if kept and not kept[-1] else kept
