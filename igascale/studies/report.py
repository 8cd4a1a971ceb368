"""A study's outputs: ``study.md``, ``study.json``, a CSV and a LaTeX file per table, and the same on the terminal."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.text import Text

from igascale.files import write_atomically
from igascale.studies import paper_tables, results
from igascale.studies.matrix import Row, shown
from igascale.studies.orderings import MISSING, Ordering, orderings, statements
from igascale.studies.paper import Paper, paper
from igascale.studies.remarks import Remarks, remarks
from igascale.studies.results import RowFindings, collect
from igascale.studies.schema import Study
from igascale.tables import Cell, Column, Table, number, to_csv, to_json, to_latex, to_markdown, to_rich
from igascale.tables.as_markdown import escape

ORDERINGS = "orderings"
_HOW = (
    "Decided where an exact sign-flip test over groups of problems (all seeds together, p by Holm over the pairs of a quantity) and a 95% t "
    "interval over seeds both exclude no difference; for LCS and gap by the interval alone. Positive: as in the paper"
)


def report(study: Study, rows: Sequence[Row], out: Path, console: Console) -> None:
    """Make everything of what is finished, write it, and show it.

    Raises:
        UserError: a finished evaluation cannot be read.
    """
    findings, printed = collect(rows), paper()
    told = remarks(findings)
    found = orderings(printed, findings, study.tables, study.reference)
    tables = _tables(study, findings, printed, told)
    if found:
        tables[ORDERINGS] = orderings_table(found)
    said = [*statements(found), *_stand_in(findings, found)]
    for name, table in tables.items():
        write_atomically(out / f"{name}.csv", to_csv(table))
        write_atomically(out / f"{name}.tex", to_latex(table, f"tab:{name}"))
    write_atomically(out / "study.md", _markdown(out.name, findings, said, told, tables))
    write_atomically(out / "study.json", _json(study, findings, found, said, told, tables))
    _show(console, said, told, {name: table for name, table in tables.items() if name != ORDERINGS})
    console.print(f"Written: {out / 'study.md'}, study.json and {', '.join(tables)} as .csv and .tex", soft_wrap=True)


def _tables(study: Study, findings: Sequence[RowFindings], printed: Paper, told: Remarks) -> dict[str, Table]:
    found: dict[str, Table] = {}
    if 1 in study.tables:
        found["table1"] = paper_tables.table1(findings, printed, told)
    if 2 in study.tables:
        found["table2"] = paper_tables.table2(findings, printed, told, study.reference)
    if 3 in study.tables:
        from igascale.studies.cost_table import table3

        found["table3"] = table3(findings, printed, told)
    if 5 in study.tables and (table := paper_tables.table5(findings, printed, told)) is not None:
        found["table5"] = table
    return found


def orderings_table(found: Sequence[Ordering]) -> Table:
    """Every ordering with its difference, tests and verdict."""
    names = ("paper", "here", "p over problems", "seeds")
    columns = [Column("quantity", "left"), Column("the paper has", "left"), *map(Column, names)]
    columns += [Column("verdict", "left"), Column("why", "left")]
    rows: list[list[Cell | str | None]] = []
    family = None
    for o in found:
        if family is not None and (o.table, o.quantity) != family:
            rows.append([])
        family = (o.table, o.quantity)
        here = number(o.difference, 2, low=o.low, high=o.high, bound_digits=2, sign=True)
        p = None if o.p is None else Cell(f"{o.p:.2g}", o.p)
        paper_ = number(o.paper, 2, sign=True, mark="†" if o.doubt else "", emphasis="dim")
        verdict = Cell(o.verdict, emphasis={"reproduced": "best", "contradicted": "bad"}.get(o.verdict, "dim"))  # type: ignore[arg-type]
        seeds = Cell(str(o.seeds), o.seeds) if o.verdict != MISSING else None
        rows.append(
            [f"Table {o.table}, {o.quantity}", f"{o.better} before {o.worse}", paper_, here, p, seeds, verdict, o.why]
        )
    notes = [_HOW, "† a printed figure that the paper's other cells contradict"]
    return Table("Orderings of the paper", columns, rows, notes)


def _stand_in(findings: Sequence[RowFindings], found: Sequence[Ordering]) -> list[str]:
    """That other problems stand in for the paper's, and another model for its model, wherever that is so."""
    if not any(o.quantity == "isomers OOD" for o in found):
        return []
    return [
        "isomers OOD stands for the paper's average over its benchmarks: other problems, and unless you took its model another one."
    ]


def _markdown(
    title: str, findings: Sequence[RowFindings], said: Sequence[str], told: Remarks, tables: dict[str, Table]
) -> str:
    done = sum(len(row.found) for row in findings)
    asked = sum(len(row.row.jobs) for row in findings)
    lines = [f"# {escape(title)}", "", f"{done} of {asked} jobs are finished, in {len(findings)} rows."]
    if told.claims:
        lines += ["", "## Before you believe a difference", "", *(f"- {escape(claim)}" for claim in told.claims)]
    if said:
        lines += ["", "## The paper's orderings", "", *(f"- {escape(line)}" for line in said)]
    shared, shortened = _notes_once(tables)
    for table in shortened.values():
        lines += ["", to_markdown(table).rstrip()]
    if shared:
        lines += ["", "## To all tables", "", *(f"- {escape(note)}" for note in shared)]
    return "\n".join(lines) + "\n"


def _notes_once(tables: dict[str, Table]) -> tuple[list[str], dict[str, Table]]:
    """Notes that stand under several tables, and the tables without them. A table's own files keep all of its notes."""
    counts = Counter(note for table in tables.values() for note in dict.fromkeys(table.notes))
    shared = [note for note, count in counts.items() if count > 1]
    return shared, {
        name: replace(table, notes=[note for note in table.notes if note not in shared])
        for name, table in tables.items()
    }


def _json(
    study: Study,
    findings: Sequence[RowFindings],
    found: Sequence[Ordering],
    said: Sequence[str],
    told: Remarks,
    tables: dict[str, Table],
) -> str:
    record: dict[str, Any] = {
        "study": yaml.safe_dump(study.model_dump(exclude_defaults=True), sort_keys=False),
        "rows": [_row(row, told) for row in findings],
        "claims": told.claims,
        "statements": list(said),
        "orderings": [asdict(ordering) for ordering in found],
        "tables": {name: json.loads(to_json(table)) for name, table in tables.items()},
    }
    return json.dumps(record, indent=1, allow_nan=False) + "\n"


def _row(row: RowFindings, told: Remarks) -> dict[str, Any]:
    figures: dict[str, dict[str, float]] = {}
    for suite in results.suites_of([row]):
        for side in ("id", "ood"):
            figures[f"{suite} {side} %"] = _by_seed(row, results.accuracy(suite, side))
    figures |= {"lcs x100": _by_seed(row, results.lcs()), "gap": _by_seed(row, results.average_gap)}
    return {
        "name": row.name,
        "method": row.row.method,
        "stands_for": row.row.stands_for,
        "set": shown(row.row.settings),
        "selected": told.selected.get(row.name),
        "signs": told.signs.get(row.name, ""),
        "missing": {str(seed): reason for seed, reason in row.missing.items()},
        "runs": {str(seed): str(finding.job.folder) for seed, finding in row.found.items()},
        "figures": {name: values for name, values in figures.items() if values},
    }


def _by_seed(row: RowFindings, figure: results.Figure) -> dict[str, float]:
    return {str(seed): value for seed, value in row.values(figure).items()}


def _show(console: Console, said: Sequence[str], told: Remarks, tables: dict[str, Table]) -> None:
    shared, shortened = _notes_once(tables)
    for table in shortened.values():
        console.print(to_rich(table))
    for note in shared:
        console.print(Text(note, "dim"), soft_wrap=True)
    for claim in told.claims:
        console.print(Text(claim, "bold yellow"), soft_wrap=True)
    for line in said:
        console.print(Text(line), soft_wrap=True)
