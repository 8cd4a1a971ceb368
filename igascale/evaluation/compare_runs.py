"""Runs side by side: what they reached, how they were selected, what they cost, and where they stand at one validation loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from igascale.errors import UserError
from igascale.evaluation.efficiency import efficiency
from igascale.evaluation.efficiency_table import Cost, efficiency_table
from igascale.evaluation.matched import match
from igascale.evaluation.matched_table import matched_table
from igascale.evaluation.results import RESULT_FILE, EvaluationResult, read_result
from igascale.evaluation.run_records import read_config
from igascale.evaluation.same_problems import differences
from igascale.evaluation.selection_marks import selection_mark
from igascale.evaluation.tables import MethodResult, comparison_tables, warnings
from igascale.tables import Table, to_rich
from igascale.tuning import Compared, claims

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class RunComparison:
    """Several runs in tables.

    Attributes:
        tables: accuracy and LCS where runs were evaluated; cost; matched validation loss.
        warnings: what a reader must know before believing a difference: other data, selection, collapse, texts cut off.
    """

    tables: list[Table]
    warnings: list[str]


def compare_runs(folders: Sequence[Path], *, allow_different_data: bool = False) -> RunComparison:
    """Put finished runs side by side; nothing is computed but what their folders hold.

    Args:
        folders: run folders; those without an evaluation have no accuracy.
        allow_different_data: mark runs whose figures are not of one thing, in place of refusing them.

    Raises:
        UserError: a folder is no run, one is named twice, or they cannot be compared.
    """
    names = [str(folder).rstrip("/") for folder in folders]
    for i, folder in enumerate(folders):
        if folder.resolve() in [other.resolve() for other in folders[:i]]:
            raise UserError(f"{names[i]} is named twice; name different runs")
    configs = [read_config(folder) for folder in folders]
    notes, grave = _differences(folders, names, allow_different_data)
    results = [_result(folder) for folder in folders]
    evaluated = [
        MethodResult(name, result, selected=selection_mark(config))
        for name, result, config in zip(names, results, configs)
        if result is not None
    ]
    tables = comparison_tables(evaluated, "What the runs reached") if evaluated else []
    costs = [Cost.of(name, efficiency(folder), result) for name, folder, result in zip(names, folders, results)]
    tables.append(efficiency_table(costs))
    if len(folders) > 1:
        tables.append(matched_table(match(folders, names)))
        notes += claims([Compared.of(name, config) for name, config in zip(names, configs)])
    if missing := [name for name, result in zip(names, results) if result is None]:
        notes.append(f"not evaluated: {', '.join(missing)} (igascale eval {missing[0]})")
    notes += [f"{row.method}: {note}" for row in evaluated for note in warnings(row.result)]
    marked = [replace(table, title=f"DIFFERENT DATA: {table.title}") for table in tables] if grave else tables
    return RunComparison(marked, notes)


def print_runs(console: Console, paths: Sequence[str]) -> None:
    """Below a comparison of their evaluations: the runs as wholes, where all of the paths are runs. What differs is marked."""
    folders = [Path(path) for path in paths]
    if not all((folder / "config.yaml").is_file() for folder in folders):
        return
    found = compare_runs(folders, allow_different_data=True)
    for table in found.tables:
        console.print(to_rich(table))
    for warning in found.warnings:
        console.print(warning, style="yellow", soft_wrap=True, highlight=False, markup=False)


def _differences(folders: Sequence[Path], names: Sequence[str], allow: bool) -> tuple[list[str], bool]:
    """What differs, in words, and whether the figures are not of one thing."""
    found = differences(folders, names)
    grave = [difference.text for difference in found if difference.weight == "refuse"]
    if grave and not allow:
        more = f" (and {len(grave) - 1} more)" if len(grave) > 1 else ""
        raise UserError(f"these runs cannot be compared: {grave[0]}{more}; --allow-different-data marks them instead")
    words = {"refuse": "NOT COMPARABLE: ", "mark": "differs: ", "unknown": ""}
    return [f"{words[difference.weight]}{difference.text}" for difference in found], bool(grave)


def _result(folder: Path) -> EvaluationResult | None:
    file = folder / "evaluation" / RESULT_FILE
    return read_result(file) if file.is_file() else None
