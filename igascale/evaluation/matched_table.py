"""Runs at one in-distribution validation loss, as a table: what is left of a gain when all have fitted equally well."""

from __future__ import annotations

from igascale.evaluation.matched import AT_FIRST, Matched, MatchedRun
from igascale.evaluation.table_cells import accuracy_with_interval
from igascale.tables import Cell, Column, Table, number

_COLUMNS = (
    "step there",
    "OOD loss there",
    "ID loss at the end",
    "OOD loss at the end",
    "OOD % near",
    "evaluated at",
    "ID loss off by",
)
_NOTE = (
    "there: where the line through a run's validations first comes down to that loss, the lowest that all of them reach; means over "
    "domains, nats per token. One crossing has no error bar, so none is called best"
)


def matched_table(matched: Matched) -> Table:
    """A row per run; OOD at the end beside it."""
    loss = "none" if matched.loss is None else f"{matched.loss:.4f}"
    rows: list[list[Cell | str | None]] = [_row(run) for run in matched.runs]
    return Table(
        f"At matched in-distribution validation loss ({loss})",
        [Column("run", "left"), *map(Column, _COLUMNS)],
        rows,
        [_NOTE, *(f"{run.name}: {run.why_not}" for run in matched.runs if run.why_not)],
    )


def _row(run: MatchedRun) -> list[Cell | str | None]:
    crossing, end, near = run.crossing, run.end, run.nearest
    mark = "?" if AT_FIRST in run.why_not else ""
    there: list[Cell | None] = [None, None]
    if crossing is not None:
        there = [
            number(crossing.step, 0, mark=mark),
            number(crossing.ood, 4, mark=mark, emphasis="dim" if mark else "none"),
        ]
    return [
        run.name,
        *there,
        number(end.id if end else None, 4),
        number(end.ood if end else None, 4),
        accuracy_with_interval(near.accuracy if near else None),
        Cell(str(near.step), near.step) if near else None,
        number(near.distance if near else None, 4, sign=True),
    ]
