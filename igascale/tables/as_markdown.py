"""A table as GitHub-flavoured Markdown."""

from __future__ import annotations

import re

from igascale.tables.table import Cell, Table, clean, indent_of

_SPECIAL = re.compile(r"[\\`*_~$|]")
_LINK = re.compile(r"\[(?=\^)|\](?=[(\[:])|!(?=\[)")
_ENTITIES = {"[": "&#91;", "]": "&#93;", "!": "&#33;"}


def to_markdown(table: Table) -> str:
    """Title in bold, the table, then a paragraph per note. Rules between rows have no counterpart.

    Nothing in a cell, title or note is taken for Markdown, HTML or mathematics; ends of lines become ``<br>``.
    """
    lines = [f"**{escape(table.title)}**", ""] if table.title.strip() else []
    lines.append(_row([escape(column.name) for column in table.columns]))
    lines.append(_row([":--" if column.align == "left" else "--:" for column in table.columns]))
    lines += [_row([_cell(cell) for cell in row]) for row in table.grid() if row]
    for note in table.notes:
        lines += ["", _not_a_block(escape(note))]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Text that Markdown shows as it is.

    Example:
        >>> escape("a|b <i> *c* [63, 77]")
        'a\\\\|b &lt;i&gt; \\\\*c\\\\* [63, 77]'
    """
    text = clean(text).strip().replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _SPECIAL.sub(lambda found: "\\" + found[0], text)
    text = _LINK.sub(lambda found: _ENTITIES[found[0]], text)
    return text.replace("\n", "<br>")


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    text = escape(cell.shown)
    return "&nbsp;" * indent_of(cell.text) + (f"**{text}**" if text and cell.emphasis == "best" else text)


def _not_a_block(paragraph: str) -> str:
    """A paragraph that begins like a heading, a list or a rule, kept from being one."""
    paragraph = re.sub(r"^([#+=-])", r"\\\1", paragraph)
    return re.sub(r"^(\d+)([.)])", r"\1\\\2", paragraph)
