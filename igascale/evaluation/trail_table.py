"""The checkpoints of one run, a row each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from igascale.evaluation.results import ISOMERS, EvaluationResult, SplitResult
from igascale.tables import Cell, Column, Table, number


def trail_table(results: Mapping[int, EvaluationResult], title: str) -> Table:
    """Accuracy of every side of every suite, the gaps, answers that gave none, and the relative LCS, by step.

    Args:
        results: by step.
        title: above the table.
    """
    sides = {
        (name, side): None for result in results.values() for name, s in result.suites.items() for side in s.splits
    }
    suites = {name: None for name, _ in sides if {(name, "id"), (name, "ood")} <= sides.keys()}
    columns = [Column("step")]
    for name, side in sides:
        columns += [Column(f"{_prefix(name)}{side.upper()} %"), Column("no answer %")]
    columns += [Column(f"{_prefix(name)}gap") for name in suites]
    lcs = (ISOMERS, "id") in sides
    columns += [Column("relative LCS")] if lcs else []
    rows: list[list[Cell | str | None]] = []
    for step, result in results.items():
        row: list[Cell | str | None] = [str(step)]
        for name, side in sides:
            row += _accuracy(_split(result, name, side))
        for name in suites:
            suite = result.suites.get(name)
            row.append(
                None
                if suite is None or suite.delta_gap is None
                else number(
                    100 * suite.delta_gap,
                    low=_percent(suite.delta_gap_low),
                    high=_percent(suite.delta_gap_high),
                    sign=True,
                )
            )
        if lcs:
            measured = getattr(_split(result, ISOMERS, "id"), "consistency", None)
            relative = None if measured is None or measured.relative is None else measured.relative
            row.append(None if relative is None else Cell(f"{relative:.4g}", relative))
        rows.append(row)
    notes = [f"chance: {', '.join(_chances(results, sides))}; 95% intervals"]
    notes += ["LCS of the ID prompts: lower is more consistent, where the accuracy is above chance"] if lcs else []
    return Table(title, columns, rows, notes)


def _chances(results: Mapping[int, EvaluationResult], sides: Iterable[tuple[str, str]]) -> list[str]:
    """The problems of all rows are the same, and so is chance."""
    last = list(results.values())[-1:]
    found = [(name, side, _split(result, name, side)) for result in last for name, side in sides]
    return [f"{_prefix(n)}{side.upper()} {100 * s.accuracy.chance:.1f}%" for n, side, s in found if s is not None]


def _split(result: EvaluationResult, name: str, side: str) -> SplitResult | None:
    suite = result.suites.get(name)
    return None if suite is None else suite.splits.get(side)


def _accuracy(split: SplitResult | None) -> list[Cell | str | None]:
    if split is None:
        return [None, None]
    a = split.accuracy
    return [number(100 * a.value, low=100 * a.low, high=100 * a.high), number(100 * a.parse_failures)]


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _prefix(suite: str) -> str:
    return "" if suite == ISOMERS else f"{suite} "
