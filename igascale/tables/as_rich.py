"""A table for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from igascale.tables.table import Cell, Table, clean

if TYPE_CHECKING:
    import rich.table
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.measure import Measurement
    from rich.text import Text

_ANY_WIDTH = 10_000
_STYLES = {"none": "", "best": "bold", "dim": "dim", "bad": "red"}
#: Signs that stand for a verdict have a colour too; the sign alone is enough where there is none.
_SIGNS = {"▲": "green", "≈": "yellow", "▼": "red"}


@dataclass(frozen=True)
class _Fitting:
    """The first of several drawings of a table that fits; the last one, its words broken, where none does."""

    drawings: tuple[rich.table.Table, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[rich.table.Table]:
        anything = options.update(width=_ANY_WIDTH)
        fitting = (d for d in self.drawings if console.measure(d, options=anything).maximum <= options.max_width)
        yield next(fitting, self.drawings[-1])

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        from rich.measure import Measurement

        least = console.measure(self.drawings[-1], options=options).minimum
        return Measurement(least, max(least, console.measure(self.drawings[0], options=options).maximum))


def to_rich(table: Table) -> RenderableType:
    """For ``Console.print``: headings over several lines, then fewer lines around it, where the terminal is narrow.

    No text is read as rich's markup.
    """
    names = [clean(column.name) for column in table.columns]
    broken = _broken(table, names)
    return _Fitting((_drawn(table, names), _drawn(table, broken), _drawn(table, broken, sparse=True)))


def _drawn(table: Table, names: Sequence[str], sparse: bool = False) -> rich.table.Table:
    import rich.box
    import rich.table
    from rich.text import Text

    drawn = rich.table.Table(
        box=rich.box.SIMPLE_HEAD if sparse else rich.box.HEAVY_HEAD,
        padding=(0, 1, 0, 0) if sparse else (0, 1),
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
        text.highlight_regex(r" \[[^\[\]]*\]$", "dim")
    return text
