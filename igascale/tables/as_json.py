"""A table as JSON, with everything in it."""

from __future__ import annotations

import json
from dataclasses import asdict

from igascale.tables.table import Table


def to_json(table: Table) -> str:
    """``{"title", "columns": [{"name", "align"}], "rows": [[cell or null]], "notes"}``; a rule is an empty row.

    A cell has the attributes of :class:`~igascale.tables.Cell`; no NaN, since a cell holds none.
    """
    record = {
        "title": table.title,
        "columns": [asdict(column) for column in table.columns],
        "rows": [
            [None if told is None else asdict(cell) for told, cell in zip(row, cells)]
            for row, cells in zip(table.rows, table.grid())
        ],
        "notes": table.notes,
    }
    return json.dumps(record, indent=1, ensure_ascii=True, allow_nan=False) + "\n"
