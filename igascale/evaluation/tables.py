"""The tables of evaluations, for every format; and how they stand in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from igascale.evaluation.averages import average, average_gap
from igascale.evaluation.consistency_tables import consistency_tables
from igascale.evaluation.results import ISOMERS, EvaluationResult, SuiteResult
from igascale.evaluation.selection_marks import SelectionMark, legend
from igascale.evaluation.table_cells import (
    LEGEND,
    accuracy_cell,
    accuracy_with_interval,
    against_chance,
    average_cell,
    gap_cell,
    lcs_cells,
    no_answer,
    percent,
    splits,
    warnings,
)
from igascale.tables import Cell, Column, Table, number, to_rich

if TYPE_CHECKING:
    from rich.console import RenderableType

    from igascale.evaluation.accuracy import Accuracy

__all__ = [
    "LEGEND",
    "MethodResult",
    "against_chance",
    "comparison_table",
    "comparison_tables",
    "evaluation_table",
    "evaluation_tables",
    "warnings",
]

_SUITE_COLUMNS = ("ID %", "OOD %", "gap", "chance ID %", "chance OOD %", "no answer %")
_AVERAGED = (
    "average: of the benchmarks alike, its interval from theirs as a root of summed squares (independent problems)"
)


@dataclass(frozen=True)
class MethodResult:
    """One line of the comparison; what was not measured is ``None``.

    Attributes:
        method: what it is called.
        result: its evaluation.
        seconds_per_step: median.
        peak_memory_bytes: most that a rank held.
        selected: how its settings were chosen.
    """

    method: str
    result: EvaluationResult
    seconds_per_step: float | None = None
    peak_memory_bytes: float | None = None
    selected: SelectionMark | None = None


def evaluation_tables(result: EvaluationResult, title: str = "Evaluation") -> list[Table]:
    """One model: every side, domain and kind; the suites with their gaps; LCS, by layer and by pair of domains where measured."""
    return [_accuracy_table(result, title), *_suite_tables(result), *consistency_tables(result)]


def evaluation_table(result: EvaluationResult, title: str = "Evaluation") -> RenderableType:
    """The same for the terminal, with what should not be missed below; the gap of a single suite is a line there."""
    if len(result.suites) > 1:
        return _shown(evaluation_tables(result, title), warnings(result))
    gaps = [f"ID − OOD: {cell.text} points" for s in result.suites.values() if (cell := gap_cell(s)) is not None]
    tables = [_accuracy_table(result, title), *consistency_tables(result)]
    return _shown(tables, [*gaps, *warnings(result)])


def comparison_tables(rows: Sequence[MethodResult], title: str = "Methods") -> list[Table]:
    """One line per method: isomer groups with LCS, time and memory; benchmarks with their average."""
    tables = []
    if any(ISOMERS in row.result.suites for row in rows):
        tables.append(_isomer_comparison(rows, title))
    if names := _benchmarks(rows):
        tables.append(_benchmark_comparison(rows, names, title))
    return tables


def comparison_table(rows: Sequence[MethodResult], title: str = "Methods") -> RenderableType:
    """The same for the terminal, with what should not be missed below."""
    notes = [f"{row.method}: {note}" for row in rows for note in warnings(row.result)]
    return _shown(comparison_tables(rows, title), notes)


def _shown(tables: Sequence[Table], notes: Sequence[str]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    def style(note: str) -> str:
        return "bold red" if "collapsed" in note else "" if note.startswith("ID − OOD") else "yellow"

    return Group(*map(to_rich, tables), *(Text(note, style=style(note)) for note in notes))


def _accuracy_table(result: EvaluationResult, title: str) -> Table:
    names = ("accuracy %", "95% interval", "chance %", "no answer %", "samples")
    rows: list[list[Cell | str | None]] = []
    for name, split in splits(result):
        rows += [[], [name, *_accuracy_cells(split.accuracy)]]
        for part, accuracy in {**split.per_domain, **split.per_kind}.items():
            rows.append([f"  {part}", *_accuracy_cells(accuracy)])
    return Table(title, [Column("set", "left"), *map(Column, names)], rows[1:], [LEGEND])


def _accuracy_cells(accuracy: Accuracy) -> list[Cell | None]:
    return [
        accuracy_cell(accuracy),
        Cell(f"[{100 * accuracy.low:.1f}, {100 * accuracy.high:.1f}]"),
        percent(accuracy.chance),
        percent(accuracy.parse_failures),
        Cell(str(accuracy.samples), accuracy.samples),
    ]


def _suite_tables(result: EvaluationResult) -> list[Table]:
    """Suite by suite, where there is a gap to show."""
    if not any(suite.delta_gap is not None for suite in result.suites.values()) and len(result.suites) < 2:
        return []
    rows: list[list[Cell | str | None]] = []
    rows += [[name, *_suite_cells(suite)] for name, suite in result.suites.items()]
    means = [average(result, side) for side in ("id", "ood")]
    notes = []
    if any(means):
        gap = average_cell(average_gap(result), sign=True)
        rows += [[], ["average", *map(average_cell, means), gap, None, None, None]]
        notes.append(_AVERAGED)
        for side, mean in zip(("ID", "OOD"), means):
            if mean is not None and len(mean.over) < len(_names(result)):
                notes.append(f"average {side} is over {', '.join(mean.over)} only")
    columns = [Column("suite", "left"), *map(Column, _SUITE_COLUMNS)]
    return [Table("ID and OOD, and the gap between them in points", columns, rows, notes)]


def _suite_cells(suite: SuiteResult) -> list[Cell | None]:
    sides = [accuracy_with_interval(side.accuracy if side else None) for side in (suite.id, suite.ood)]
    chances = [percent(side.accuracy.chance) if side else None for side in (suite.id, suite.ood)]
    return [*sides, gap_cell(suite), *chances, no_answer(suite)]


def _names(result: EvaluationResult) -> list[str]:
    return [name for name in result.suites if name != ISOMERS]


def _benchmarks(rows: Sequence[MethodResult]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in _names(row.result)))


def _isomer_comparison(rows: Sequence[MethodResult], title: str) -> Table:
    names = ["ID %", "OOD %", "gap", "no answer %", "LCS ×10²", "relative LCS"]
    if timed := any(row.seconds_per_step is not None or row.peak_memory_bytes is not None for row in rows):
        names += ["s/step", "peak memory MiB"]
    marks = [row.selected for row in rows if row.selected is not None]
    if marks:
        names.append("selected by")
    cells: list[list[Cell | str | None]] = []
    for row in rows:
        suite = row.result.suites.get(ISOMERS)
        if suite is None:
            cells.append([row.method, *[None] * len(names)])
            continue
        id_, ood = suite.id, suite.ood
        line: list[Cell | str | None] = [
            row.method,
            accuracy_with_interval(id_.accuracy if id_ else None),
            accuracy_with_interval(ood.accuracy if ood else None),
            gap_cell(suite),
            no_answer(suite),
            *lcs_cells(id_.consistency if id_ else None, id_.accuracy if id_ else None),
        ]
        if timed:
            memory = None if row.peak_memory_bytes is None else row.peak_memory_bytes / 2**20
            line += [number(row.seconds_per_step, 3), None if memory is None else Cell(f"{memory:,.0f}", memory)]
        if marks:
            line.append(row.selected.mark if row.selected else None)
        cells.append(line)
    notes = [_chances(rows), *([legend(marks)] if marks else [])]
    return Table(title, [Column("method", "left"), *map(Column, names)], cells, notes)


def _chances(rows: Sequence[MethodResult]) -> str:
    told = []
    for side in ("id", "ood"):
        found = [row.result.suites[ISOMERS].splits.get(side) for row in rows if ISOMERS in row.result.suites]
        if values := {f"{100 * split.accuracy.chance:.1f}" for split in found if split}:
            told.append(f"{side.upper()} {' / '.join(sorted(values))}%")
    return f"chance: {', '.join(told)}. {LEGEND}. LCS of the ID groups; ? = not meaningful at that accuracy."


def _benchmark_comparison(rows: Sequence[MethodResult], names: Sequence[str], title: str) -> Table:
    """A block per benchmark and one of averages: a column for each would be too wide for a terminal, or a page."""
    cells: list[list[Cell | str | None]] = []
    for name in names:
        cells.append([])
        for row in rows:
            suite = row.result.suites.get(name)
            cells.append([name, row.method, *(_suite_cells(suite) if suite else [None] * len(_SUITE_COLUMNS))])
    averages: list[list[Cell | str | None]] = [[]]
    notes = [LEGEND, _AVERAGED]
    for row in rows:
        means = [average(row.result, side) for side in ("id", "ood")]
        gap = average_cell(average_gap(row.result), sign=True)
        averages.append(["average", row.method, *map(average_cell, means), gap, None, None, None])
        notes += [
            f"{row.method}: average {side} is over {', '.join(mean.over)} only"
            for side, mean in zip(("ID", "OOD"), means)
            if mean is not None and len(mean.over) < len(names)
        ]
    return Table(
        f"{title}: benchmarks",
        [Column("benchmark", "left"), Column("method", "left"), *map(Column, _SUITE_COLUMNS)],
        [*cells[1:], *(averages if len(names) > 1 else [])],
        notes if len(names) > 1 else [LEGEND],
    )
