"""What a table is."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

#: What every format prints for a cell that is ``None``: not measured, not applicable.
MISSING = "–"
#: Embeddings, overrides and isolates of direction: one of them turns what stands beside it in the terminal too.
_TURNS = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))

Align = Literal["left", "right"]
Emphasis = Literal["none", "best", "dim", "bad"]


@dataclass(frozen=True)
class Column:
    """A column's heading, and the side its cells lean to.

    Attributes:
        name: the heading, with the unit of its values where they have one (``"OOD %"``).
    """

    name: str
    align: Align = "right"


@dataclass(frozen=True)
class Cell:
    """One cell: what is printed, and what it stands for.

    Attributes:
        text: what every format but CSV prints; no markup.
        value: the number behind it in full precision and in the unit of the column's name; CSV writes this one.
            What is not finite counts as no number.
        low, high: an interval around it.
        std: its standard deviation, where ``text`` says ±.
        mark: a sign after the text that a note explains (``"?"``, ``"†"``); a column of its own in CSV.
        emphasis: ``best`` (bold), ``dim`` (not to be leant on), ``bad`` (red).
    """

    text: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    mark: str = ""
    emphasis: Emphasis = "none"
    std: float | None = None

    def __post_init__(self) -> None:
        for name in ("value", "low", "high", "std"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                object.__setattr__(self, name, None)

    @property
    def shown(self) -> str:
        """Text and mark, without control characters."""
        return clean(self.text + self.mark)


@dataclass(frozen=True)
class Table:
    """A table. An empty row is a rule between the rows before it and those after.

    Attributes:
        title: above it; may be empty.
        rows: as many cells as columns each; a ``str`` is a cell of that text, ``None`` one that was not measured.
        notes: below it, a paragraph each.
    """

    title: str
    columns: list[Column]
    rows: list[list[Cell | str | None]]
    notes: list[str] = field(default_factory=list)

    def grid(self) -> Iterator[list[Cell]]:
        """The rows with every cell a :class:`Cell`; rules are empty lists.

        Raises:
            ValueError: a row has another number of cells than there are columns.
        """
        for number, row in enumerate(self.rows, 1):
            if row and len(row) != len(self.columns):
                raise ValueError(
                    f"table '{self.title}': row {number} has {len(row)} cells for {len(self.columns)} columns"
                )
            yield [as_cell(cell) for cell in row]


def as_cell(cell: Cell | str | None) -> Cell:
    """What may stand in a row, as a :class:`Cell`."""
    if cell is None:
        return Cell(MISSING)
    return Cell(cell) if isinstance(cell, str) else cell


def indent_of(text: str) -> int:
    """Blanks before the text: parts of the row above stand a little to the right in formats that drop blanks too."""
    return len(text) - len(text.lstrip(" ")) if text.strip() else 0


def clean(text: str) -> str:
    """Text that may stand in any file and on any terminal: control characters, lone surrogates and marks that turn the direction of all
    that follows become U+FFFD.

    Ends of lines stay, all of them as ``\\n``.

    Example:
        >>> clean("a\\r\\nb\\x1b[31m")
        'a\\nb�[31m'
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\t", " ")
    return "".join(
        c if c == "\n" or (unicodedata.category(c) not in ("Cc", "Cs") and c not in _TURNS) else "\ufffd" for c in text
    )
