"""One description of a table, and a writer for each place it goes to: terminal, Markdown, LaTeX, CSV, HTML, JSON.

Whoever makes a table says what stands in it; how a ``|`` is kept from ending a cell is the writers' business alone.

Example:
    >>> table = Table("Methods", [Column("method", "left"), Column("OOD %")], [["iga", number(41.5, low=38.2, high=44.8)]])
    >>> print(to_markdown(table))
    **Methods**
    <BLANKLINE>
    | method | OOD % |
    | :-- | --: |
    | iga | 41.5 [38, 45] |
    <BLANKLINE>
"""

from igascale.tables.as_csv import to_csv
from igascale.tables.as_html import to_html
from igascale.tables.as_json import to_json
from igascale.tables.as_latex import to_latex
from igascale.tables.as_markdown import to_markdown
from igascale.tables.as_rich import to_rich
from igascale.tables.cells import emphasise_best, number
from igascale.tables.table import MISSING, Cell, Column, Table

__all__ = [
    "MISSING",
    "Cell",
    "Column",
    "Table",
    "emphasise_best",
    "number",
    "to_csv",
    "to_html",
    "to_json",
    "to_latex",
    "to_markdown",
    "to_rich",
]
