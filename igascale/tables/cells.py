"""Cells of numbers, written alike in every table."""

from __future__ import annotations

import math
from dataclasses import replace

from igascale.tables.table import Cell, Emphasis, Table, as_cell


def number(
    value: float | None,
    digits: int = 1,
    *,
    low: float | None = None,
    high: float | None = None,
    std: float | None = None,
    bound_digits: int = 0,
    sign: bool = False,
    before: str = "",
    mark: str = "",
    emphasis: Emphasis = "none",
) -> Cell | None:
    """A number as a cell: ``41.5``, ``41.5 ± 0.8``, ``41.5 [38, 45]``.

    Args:
        value: in the unit of the column; ``None`` gives ``None``, a cell that was not measured.
        digits: after the point, of ``value`` and ``std``.
        low, high: an interval, printed where both are there.
        std: a standard deviation.
        bound_digits: after the point, of ``low`` and ``high``.
        sign: also print a plus.
        before: printed before the number.
        mark: as of :class:`Cell`.
        emphasis: as of :class:`Cell`.

    Example:
        >>> number(0.4149, 2, std=0.008).text, number(-0.01, sign=True, low=-3.2, high=3).text
        ('0.41 ± 0.01', '+0.0 [-3, 3]')
    """
    if value is None:
        return None
    if not math.isfinite(value):
        return Cell("not finite", emphasis="bad")
    text = before + figure(value, digits, sign)
    if std is not None and math.isfinite(std):
        text += f" ± {figure(std, digits)}"
    if low is not None and high is not None and math.isfinite(low) and math.isfinite(high):
        text += f" [{figure(low, bound_digits)}, {figure(high, bound_digits)}]"
    return Cell(text, value, low, high, mark, emphasis, std)


def figure(value: float, digits: int, sign: bool = False) -> str:
    """A number with so many digits after the point; never ``-0.0``."""
    rounded = round(value, digits) + 0.0
    return f"{rounded:+.{digits}f}" if sign else f"{rounded:.{digits}f}"


def emphasise_best(table: Table, column: str, largest: bool = True) -> Table:
    """The same table with the best value of a column emphasised, and all that are printed like it.

    Cells that are dim or bad already, and those without a value, cannot win. Where all are printed alike, none is the best of anything.

    Args:
        table: is not changed.
        column: its name.
        largest: whether more is better.

    Raises:
        ValueError: there is no such column.
    """
    names = [c.name for c in table.columns]
    if column not in names:
        raise ValueError(f"table '{table.title}' has no column '{column}'; it has {', '.join(names)}")
    at = names.index(column)
    cells = [(i, as_cell(row[at])) for i, row in enumerate(table.rows) if row]
    able = [(i, cell) for i, cell in cells if cell.value is not None and cell.emphasis in ("none", "best")]
    if len({cell.text for _, cell in able}) < 2:
        return table
    choose = max if largest else min
    best = choose(able, key=lambda one: one[1].value or 0.0)[1]
    rows = [list(row) for row in table.rows]
    for i, cell in able:
        if best.value == cell.value or best.text == cell.text:
            rows[i][at] = replace(cell, emphasis="best")
    return replace(table, rows=rows)
