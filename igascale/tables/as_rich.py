"""A table for the terminal."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from igascale.tables.table import Cell, Table, as_cell, clean

if TYPE_CHECKING:
    import rich.table
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.measure import Measurement
    from rich.text import Text

_ANY_WIDTH = 10_000
_INTERVAL = re.compile(r" (\[[^\[\]]*\])$")
_STYLES = {"none": "", "best": "bold", "dim": "dim", "bad": "red"}
#: Signs that stand for a verdict have a colour too; the sign alone is enough where there is none.
_SIGNS = {"▲": "green", "≈": "yellow", "▼": "red"}


@dataclass(frozen=True)
class _Fitting:
    """The first of several drawings of a table that fits; the last one, its words broken, where none does.

    Attributes:
        drawings: the widest first.
        plain: each without the rows that hold but a heading: a heading goes over several lines, and makes no table too wide.
    """

    drawings: tuple[rich.table.Table, ...]
    plain: tuple[rich.table.Table, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[rich.table.Table]:
        anything = options.update(width=_ANY_WIDTH)
        for drawing, plain in zip(self.drawings, self.plain):
            if console.measure(plain, options=anything).maximum <= options.max_width:
                for column in drawing.columns[1:]:
                    column.no_wrap = True  # they have room; a long heading has to give way
                yield drawing
                return
        yield self.drawings[-1]

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        from rich.measure import Measurement

        least = console.measure(self.drawings[-1], options=options).minimum
        return Measurement(least, max(least, console.measure(self.drawings[0], options=options).maximum))


def to_rich(table: Table) -> RenderableType:
    """For ``Console.print``; where the terminal is narrow, headings over several lines, then fewer lines, then stacked intervals.

    No text is read as rich's markup.
    """
    names = [clean(column.name) for column in table.columns]
    broken = _broken(table, names)

    def drawings(table: Table) -> tuple[rich.table.Table, ...]:
        found = (_drawn(table, names), _drawn(table, broken), _drawn(table, broken, sparse=True))
        stacked = _stacked(table)
        return found if stacked is None else (*found, _drawn(stacked, _broken(stacked, names), sparse=True, tight=True))

    return _Fitting(drawings(table), drawings(replace(table, rows=[row for row in table.rows if not _heads(row)])))


def _heads(row: Sequence[Cell | str | None]) -> bool:
    """Whether a row is nothing but a heading of those below."""
    return len(row) > 1 and all(not as_cell(cell).shown.strip() for cell in row[1:])


def _stacked(table: Table) -> Table | None:
    """With each interval below its number; ``None`` where there is none."""

    def stack(cell: Cell | str | None) -> Cell | str | None:
        if not isinstance(cell, Cell) or cell.low is None:
            return cell
        return replace(cell, text=_INTERVAL.sub(r"\n\1", cell.text))

    rows = [[stack(cell) for cell in row] for row in table.rows]
    return replace(table, rows=rows) if rows != table.rows else None


def _drawn(table: Table, names: Sequence[str], sparse: bool = False, tight: bool = False) -> rich.table.Table:
    import rich.box
    import rich.table
    from rich.text import Text

    drawn = rich.table.Table(
        box=rich.box.SIMPLE_HEAD if sparse else rich.box.HEAVY_HEAD,
        padding=0 if tight else (0, 1, 0, 0) if sparse else (0, 1),
        pad_edge=not sparse,
        title=Text(clean(table.title)) if table.title else None,
        caption=Text("\n".join(clean(note) for note in table.notes)) if table.notes else None,
        caption_justify="left",
    )
    for name, column in zip(names, table.columns):
        drawn.add_column(Text(name), justify=column.align, overflow="fold")
    for row in table.grid():
        if row:
            drawn.add_row(*(_styled(cell) for cell in row))
        else:
            drawn.add_section()
    return drawn


def _broken(table: Table, names: Sequence[str]) -> list[str]:
    """The headings over lines as long as the longest cell below, or their longest word."""
    widths = [1] * len(names)
    for row in table.grid():
        for i, cell in enumerate(row):
            widths[i] = max([widths[i], *map(len, cell.shown.splitlines())])
    return ["\n".join(textwrap.wrap(name, width, break_long_words=False)) for name, width in zip(names, widths)]


def _styled(cell: Cell) -> Text:
    from rich.text import Text

    text = Text(cell.shown, style=_STYLES[cell.emphasis])
    if cell.emphasis in ("none", "best"):
        if (style := _SIGNS.get(cell.text[:1])) is not None:
            text.stylize(style)
        text.highlight_regex(r"\s\[[^\[\]]*\]$", "dim")
    return text
