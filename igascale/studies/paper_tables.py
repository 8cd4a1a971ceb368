"""Tables 1, 2 and 5 of the paper from a study's rows, the paper's own figures below the rows that stand for its own.

Table 3 is in :mod:`igascale.studies.cost_table`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from igascale.evaluation.results import ISOMERS, EvaluationResult
from igascale.evaluation.significance import STD_OF, over_seeds
from igascale.studies import results
from igascale.studies.paper import BENCHMARKS, Figure, Paper
from igascale.studies.remarks import Remarks
from igascale.studies.results import RowFindings
from igascale.tables import Cell, Column, Table, emphasise_best, number

Cells = list[Cell | str | None]
CONTRADICTED = "†"
_PAPERS = "the paper's own figures stand below the rows that stand for its rows; they are its model's, on its data"
_CHANCE = "≈ not told from chance, or below it, at one seed or more; ? LCS means nothing there"


def table1(rows: Sequence[RowFindings], paper: Paper, told: Remarks) -> Table:
    """Accuracy in and out of distribution, LCS and gap of every method."""
    chosen = [row for row in rows if in_table1(row, paper)]
    suites = results.suites_of(chosen)
    columns = [Column("method", "left")]
    columns += [Column(f"{_prefix(suite)}{side} %") for suite in suites for side in ("ID", "OOD")]
    columns += [
        Column("LCS ×10²"),
        Column("relative LCS"),
        Column("gap"),
        Column("seeds"),
        Column("selected by", "left"),
    ]
    cells: list[Cells] = []
    shown: set[str] = set()
    for row in chosen:
        measured: Cells = [_accuracy(row, suite, side) for suite in suites for side in ("id", "ood")]
        measured += [*_lcs_cells(row), _cell(row, results.average_gap, sign=True)]
        cells.append([name_cell(row, told), *measured, seeds_cell(row), told.selected.get(row.name)])
        printed = paper.row(1, row.row.stands_for)
        if printed and row.row.stands_for and row.row.stands_for not in shown:
            shown.add(row.row.stands_for)
            of_suites = [paper_cell(printed.get(f"{suite} {side}")) for suite in suites for side in ("id", "ood")]
            last = [paper_cell(printed["lcs"], 2), None, paper_cell(printed["gap"], 2, sign=True), None, None]
            cells.append([paper_name(paper, 1, row.row.stands_for), *of_suites, *last])
    notes = [f"{STD_OF}.", _CHANCE, _gap_note(suites), *_paper_notes(paper, 1, shown), *told.notes]
    table = Table("Table 1: in and out of distribution", columns, cells, notes)
    return _best(table, [f"{_prefix(suite)}{side} %" for suite in suites for side in ("ID", "OOD")])


def table2(rows: Sequence[RowFindings], paper: Paper, told: Remarks, reference: str) -> Table:
    """Variants, each with its difference to the full method on the same seeds."""
    full = next((row for row in rows if row.name == reference), None)
    chosen = [row for row in rows if row is full or in_table2(row, paper)]
    suites = [
        suite for suite in results.suites_of(chosen) if suite == ISOMERS or suite in BENCHMARKS
    ] or results.suites_of(chosen)
    columns = [Column("variant", "left")]
    for suite in suites:
        columns += [Column(f"{_prefix(suite)}OOD %"), Column(f"{_prefix(suite)}Δ")]
    columns += [Column("LCS ×10²"), Column("average Δ"), Column("seeds")]
    cells: list[Cells] = []
    shown: set[str] = set()
    for row in chosen:
        measured: Cells = []
        for suite in suites:
            measured += [_accuracy(row, suite, "ood"), difference_cell(row, full, results.accuracy(suite, "ood"))]
        measured += [_lcs_cells(row)[0], difference_cell(row, full, results.average_ood), seeds_cell(row)]
        cells.append([name_cell(row, told), *measured])
        printed = paper.row(2, row.row.stands_for)
        if printed and row.row.stands_for and row.row.stands_for not in shown:
            shown.add(row.row.stands_for)
            of_suites: Cells = []
            for suite in suites:
                delta = paper_cell(printed.get(f"{suite} delta"), sign=True)
                of_suites += [paper_cell(printed.get(f"{suite} ood")), delta]
            average = paper_cell(printed["average delta"], 2, sign=True)
            cells.append(
                [paper_name(paper, 2, row.row.stands_for), *of_suites, paper_cell(printed["lcs"], 2), average, None]
            )
    note = f"Δ: in points against {reference}, seed by seed; mean ± standard deviation of the differences"
    if full is None or not full.found:
        note = f"Δ cannot be shown: nothing of {reference}, the row to compare with"
    over = list(dict.fromkeys(s for row in chosen for f in row.found.values() for s in results.averaged(f.result)))
    of = f"average Δ: of {', '.join(over)}" + ("; the paper's is of arb, logiqa2, reclor" if shown else "")
    notes = [note, *([of] if over else []), f"{STD_OF}.", _CHANCE, *_paper_notes(paper, 2, shown), *told.notes]
    return Table("Table 2: ablations", columns, cells, notes)


def table5(rows: Sequence[RowFindings], paper: Paper, told: Remarks) -> Table | None:
    """LCS by layer; ``None`` where no layers were asked for."""
    layers, depths = results.layers_of(rows), results.paper_layers(rows)
    if not layers:
        return None
    columns = [Column("method", "left"), *(Column(f"layer {layer}") for layer in layers), Column("seeds")]
    cells: list[Cells] = []
    shown: set[str] = set()
    for row in rows:
        measured = [_cell(row, results.lcs(layer), 3, nothing=results.lcs_means_nothing(layer)) for layer in layers]
        cells.append([name_cell(row, told), *measured, seeds_cell(row)])
        printed = paper.row(5, row.row.stands_for)
        if printed and row.row.stands_for and row.row.stands_for not in shown:
            shown.add(row.row.stands_for)
            of_layers = [paper_cell(printed.get(str(depths.get(layer))), 2) for layer in layers]
            if any(of_layers):
                cells.append([paper_name(paper, 5, row.row.stands_for), *of_layers, None])
    cells += _ratios(rows, paper, layers, depths)
    all_ = {m: "; ".join(f"layer {c} {f.value:.2f}" for c, f in paper.row(5, m).items()) for m in paper.cells[5]}
    whole = " | ".join(f"{method}: {text}" for method, text in all_.items())
    notes = [
        "LCS ×10² of the held-out groups of the training domains, lower is more consistent; ? where it means nothing. Compare rows, not layers",
        f"the paper's figures are of a model of 32 layers and stand here at layers that lie as deep; all of them: {whole}",
        f"{STD_OF}.",
        *told.notes,
    ]
    return Table("Table 5: LCS by layer", columns, cells, notes)


def _ratios(rows: Sequence[RowFindings], paper: Paper, layers: Sequence[int], depths: Mapping[int, int]) -> list[Cells]:
    iga, erm = (next((r for r in rows if r.row.stands_for == name), None) for name in ("iga", "erm-sft"))
    if iga is None or erm is None:
        return []
    ours: Cells = []
    for layer in layers:
        first, second = iga.values(results.lcs(layer)), erm.values(results.lcs(layer))
        ratios = [first[seed] / second[seed] for seed in first if second.get(seed)]
        found = over_seeds(ratios) if ratios else None
        nothing = results.lcs_means_nothing(layer)
        doubtful = iga.any(nothing) or erm.any(nothing)
        mark = {"mark": "?", "emphasis": "dim"} if doubtful else {}
        ours.append(number(found.mean, 2, std=found.std, **mark) if found else None)  # type: ignore[arg-type]
    theirs = [paper_cell(paper.row(5, "ratio").get(str(depths.get(layer))), 2) for layer in layers]
    printed: list[Cells] = [[_dim("  the paper: IGA / ERM ratio"), *theirs, None]] if any(theirs) else []
    return [[], [f"{iga.name} / {erm.name}", *ours, None], *printed]


def in_table1(row: RowFindings, paper: Paper) -> bool:
    """Methods; what only ablates another stands in Table 2, and points of an axis do."""
    stands_for = row.row.stands_for
    return not row.row.varied and (stands_for in paper.cells[1] or stands_for not in paper.cells[2])


def in_table2(row: RowFindings, paper: Paper) -> bool:
    """Ablations of the paper and of this study, and the controls that stand in neither table."""
    stands_for = row.row.stands_for
    if not row.row.jobs or None in row.row.jobs:  # the base model
        return False
    return bool(row.row.varied) or stands_for in paper.cells[2] or stands_for not in paper.cells[1]


def name_cell(row: RowFindings, told: Remarks) -> Cell:
    """The row's name with its signs; red where nothing of it was found."""
    return Cell(row.name, mark=told.signs.get(row.name, ""), emphasis="none" if row.found else "bad")


def seeds_cell(row: RowFindings) -> Cell:
    """How many seeds a row's figures are of; ``2 of 3`` in red where some are missing."""
    found, asked = len(row.found), len(row.row.jobs)
    if not found:
        reasons = {"failed" if reason.startswith("failed") else reason for reason in row.missing.values()}
        return Cell(" / ".join(sorted(reasons)), emphasis="bad")
    if found < asked:
        return Cell(f"{found} of {asked}", found, emphasis="bad")
    return Cell(str(found), found)


def difference_cell(row: RowFindings, full: RowFindings | None, figure: results.Figure) -> Cell | None:
    """A figure minus that of the full method, over the seeds that both have."""
    if full is None:
        return None
    ours, theirs = row.values(figure), full.values(figure)
    differences = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    if not differences:
        return None
    found = over_seeds(differences)
    return number(found.mean, std=None if row is full else found.std, sign=True)


def paper_cell(figure: Figure | None, digits: int = 1, sign: bool = False) -> Cell | None:
    """A figure of the paper, dim, with a sign where its own cells contradict it."""
    if figure is None:
        return None
    mark = CONTRADICTED if figure.contradicted else ""
    return number(figure.value, digits, std=figure.std, sign=sign, mark=mark, emphasis="dim")


def paper_name(paper: Paper, table: int, method: str) -> Cell:
    """The name of a row of the paper's."""
    return _dim(f"  the paper: {paper.label(table, method)}")


def _dim(text: str) -> Cell:
    return Cell(text, emphasis="dim")


def _accuracy(row: RowFindings, suite: str, side: str) -> Cell | None:
    at_chance = row.any(results.at_chance(suite, side))
    cell = _cell(row, results.accuracy(suite, side), before="≈ " if at_chance else "")
    return replace(cell, emphasis="dim") if cell is not None and at_chance else cell


def _lcs_cells(row: RowFindings) -> tuple[Cell | None, Cell | None]:
    nothing = results.lcs_means_nothing()
    return _cell(row, results.lcs(), 3, nothing=nothing), _cell(row, results.lcs(relative=True), 4, nothing=nothing)


def _cell(
    row: RowFindings,
    figure: results.Figure,
    digits: int = 1,
    sign: bool = False,
    before: str = "",
    nothing: Callable[[EvaluationResult], bool] | None = None,
) -> Cell | None:
    found = row.over_seeds(figure)
    if found is None:
        return None
    doubtful = nothing is not None and row.any(nothing)
    mark, emphasis = ("?", "dim") if doubtful else ("", "none")
    return number(found.mean, digits, std=found.std, sign=sign, before=before, mark=mark, emphasis=emphasis)  # type: ignore[arg-type]


def _best(table: Table, columns: Sequence[str]) -> Table:
    for column in columns:
        table = emphasise_best(table, column)
    return table


def _prefix(suite: str) -> str:
    return "" if suite == ISOMERS else f"{suite} "


def _gap_note(suites: Sequence[str]) -> str:
    over = [suite for suite in suites if suite != ISOMERS]
    return f"gap: ID minus OOD in points, {'mean over ' + ', '.join(over) if over else 'of the isomer groups; the paper has the mean over its four benchmarks'}"


def _paper_notes(paper: Paper, table: int, shown: set[str]) -> list[str]:
    if not shown:
        return []
    wrong: Mapping[str, str] = {
        f"{figure.where} ({figure.value:g}): {figure.contradicted}": ""
        for method in paper.cells[table]
        if method in shown
        for figure in paper.row(table, method).values()
        if figure.contradicted
    }
    notes = (
        [f"{CONTRADICTED} printed figures that the paper's other cells contradict: {'; '.join(wrong)}"] if wrong else []
    )
    return [_PAPERS, *notes, *paper.remarks.get(table, [])]
