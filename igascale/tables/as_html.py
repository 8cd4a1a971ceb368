"""A table for a page."""

from __future__ import annotations

import html

from igascale.tables.table import Cell, Column, Table, clean, indent_of


def to_html(table: Table) -> str:
    """A ``<figure class="table">`` with classes for a style sheet of yours: no inline style, no script.

    Cells have the class of their column (``left``, ``right``) and of their emphasis (``best``, ``dim``, ``bad``), and
    ``data-value`` where there is a number, to sort by. Rules between rows begin another ``<tbody>``.
    """
    lines = ['<figure class="table">', "<table>"]
    if table.title.strip():
        lines.append(f"<caption>{escape(table.title)}</caption>")
    heads = "".join(f'<th scope="col" class="{c.align}">{escape(c.name)}</th>' for c in table.columns)
    lines += [f"<thead><tr>{heads}</tr></thead>", "<tbody>"]
    for row in table.grid():
        if row:
            lines.append(f"<tr>{''.join(_cell(cell, column) for cell, column in zip(row, table.columns))}</tr>")
        elif lines[-1] != "<tbody>":
            lines += ["</tbody>", "<tbody>"]
    lines += ["</tbody>", "</table>"]
    if table.notes:
        notes = "".join(f"<p>{escape(note)}</p>" for note in table.notes)
        lines.append(f'<figcaption class="notes">{notes}</figcaption>')
    return "\n".join([*lines, "</figure>"]) + "\n"


def escape(text: str) -> str:
    """Text that HTML shows as it is; an end of line becomes ``<br>``.

    Example:
        >>> escape('<b> & "c"')
        '&lt;b&gt; &amp; &quot;c&quot;'
    """
    return html.escape(clean(text)).replace("\n", "<br>")


def _cell(cell: Cell, column: Column) -> str:
    classes = column.align if cell.emphasis == "none" else f"{column.align} {cell.emphasis}"
    value = "" if cell.value is None else f' data-value="{float(cell.value)!r}"'
    return f'<td class="{classes}"{value}>{"&nbsp;" * indent_of(cell.text)}{escape(cell.shown.lstrip(" "))}</td>'
