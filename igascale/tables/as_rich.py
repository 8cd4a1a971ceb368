"""A table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from igascale.tables.table import Cell, Table, clean

if TYPE_CHECKING:
    import rich.table
    from rich.text import Text

_STYLES = {"none": "", "best": "bold", "dim": "dim", "bad": "red"}
#: Signs that stand for a verdict have a colour too; the sign alone is enough where there is none.
_SIGNS = {"▲": "green", "≈": "yellow", "▼": "red"}


def to_rich(table: Table, *, fold: bool = True) -> rich.table.Table:
    """For ``Console.print``. No text is read as rich's markup.

    Args:
        table: what to show.
        fold: break long cells over lines where the terminal is narrow; else they are cut off with an ellipsis.
    """
    import rich.table
    from rich.text import Text

    shown = rich.table.Table(
        title=Text(clean(table.title)) if table.title else None,
        caption=Text("\n".join(clean(note) for note in table.notes)) if table.notes else None,
        caption_justify="left",
    )
    for column in table.columns:
        shown.add_column(
            Text(clean(column.name)), justify=column.align, overflow="fold" if fold else "ellipsis", no_wrap=not fold
        )
    for row in table.grid():
        if row:
            shown.add_row(*(_styled(cell) for cell in row))
        else:
            shown.add_section()
    return shown


def _styled(cell: Cell) -> Text:
    from rich.text import Text

    text = Text(cell.shown, style=_STYLES[cell.emphasis])
    if cell.emphasis in ("none", "best"):
        if (style := _SIGNS.get(cell.text[:1])) is not None:
            text.stylize(style)
        text.highlight_regex(r" \[[^\[\]]*\]$", "dim")
    return text
