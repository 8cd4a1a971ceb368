"""A table for a spreadsheet or a program."""

from __future__ import annotations

import csv
import io

from igascale.tables.table import MISSING, Cell, Table, clean

_FORMULA = "=+-@＝＋－＠"


def to_csv(table: Table) -> str:
    """Values in full precision; beside them, where the column has any, ``NAME low``, ``NAME high``, ``NAME std`` and ``NAME mark``.

    A cell without a number gives its text, and nothing where that is a dash. Text that a spreadsheet would run as a formula gets an
    apostrophe before it, as spreadsheets themselves do. Title, notes and rules are left out: a comment is no CSV. UTF-8, a
    line feed after each line.
    """
    grid = [row for row in table.grid() if row]
    extras = [_extras([row[i] for row in grid]) for i in range(len(table.columns))]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        [
            name
            for column, more in zip(table.columns, extras)
            for name in (_text(column.name), *(_text(f"{column.name} {extra}") for extra in more))
        ]
    )
    for row in grid:
        writer.writerow([value for cell, more in zip(row, extras) for value in (_main(cell), *_more(cell, more))])
    return file.getvalue()


def _extras(cells: list[Cell]) -> list[str]:
    return [name for name in ("low", "high", "std", "mark") if any(getattr(c, name) not in (None, "") for c in cells)]


def _main(cell: Cell) -> str:
    if cell.value is not None:
        return _number(cell.value)
    return "" if cell.text == MISSING else _text(cell.text)


def _more(cell: Cell, names: list[str]) -> list[str]:
    found = [getattr(cell, name) for name in names]
    return [_text(value) if isinstance(value, str) else "" if value is None else _number(value) for value in found]


def _number(value: float) -> str:
    """The shortest decimal that is read back as the same number."""
    return repr(value) if isinstance(value, int) else repr(float(value))


def _text(text: str) -> str:
    text = clean(text)
    start = text.lstrip()[:1]
    if not start or start not in _FORMULA:
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text
