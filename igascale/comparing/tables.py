"""A comparison as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from igascale.comparing.compare import Comparison, Entry, Figure, SideComparison
from igascale.comparing.reading import Evaluation, Key
from igascale.tables import Cell, Column, Table, number
from igascale.tables.table import Align, Emphasis

_TEXT: Align = "left"


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Accuracy and differences, then gaps and averages where there are any."""
    tables = [_accuracies(comparison)]
    if comparison.derived:
        tables.append(_derived(comparison))
    return tables


def _accuracies(comparison: Comparison) -> Table:
    columns = [Column("evaluation", _TEXT), Column("accuracy %"), Column("no answer %")]
    columns += [Column(name) for name in ("difference", "p", "p (Holm)", "gained", "lost")]
    rows: list[list[Cell | str | None]] = []
    for side in comparison.sides:
        if rows:
            rows.append([])
        rows.append([Cell(_heading(side)), *[Cell("")] * (len(columns) - 1)])
        rows += [_row(entry, comparison.reference) for entry in side.entries]
    return Table(_title(comparison), columns, rows, _notes(comparison))


def _title(comparison: Comparison) -> str:
    marked = "DIFFERENT DATA: " if comparison.different else ""
    return f"{marked}Compared with {comparison.reference}, problem by problem"


def _heading(side: SideComparison) -> str:
    chance = "" if side.chance is None else f", chance {100 * side.chance:.1f}%"
    groups = "" if side.groups == side.samples else f" in {side.groups:,} groups"
    return f"{side.suite} {side.side.upper()}: {side.samples:,} problems{groups}{chance}"


def _row(entry: Entry, reference: str) -> list[Cell | str | None]:
    mark = " (reference)" if entry.evaluation == reference else ""
    cells = [Cell(f"  {entry.evaluation}{mark}"), _percent(entry.accuracy), number(100 * entry.no_answer)]
    paired = entry.paired
    if paired is None or entry.p_holm is None:
        return [*cells, *[Cell("")] * 5]
    sure: Emphasis = "none" if entry.p_holm >= 0.05 else "best" if paired.difference > 0 else "bad"
    difference = number(
        100 * paired.difference,
        low=100 * paired.low,
        high=100 * paired.high,
        bound_digits=1,
        sign=True,
        emphasis=sure,
    )
    counts = [Cell(f"{count:,}", count) for count in (paired.first_only, paired.second_only)]
    return [*cells, difference, _p(paired.p), _p(entry.p_holm), *counts]


def _derived(comparison: Comparison) -> Table:
    rows: list[list[Cell | str | None]] = []
    for name in dict.fromkeys(figure.name for figure in comparison.derived):
        if rows:
            rows.append([])
        for figure in comparison.derived:
            if figure.name == name:
                difference = None if figure.difference is None else _percent(figure.difference, sign=True)
                rows.append(
                    [name, figure.evaluation, _percent(figure.value, sign="−" in name or "gap" in name), difference]
                )
    columns = [Column("figure", _TEXT), Column("evaluation", _TEXT), Column("points"), Column("difference")]
    parts = [d.value for d in comparison.derived] + [d.difference for d in comparison.derived if d.difference]
    notes = [
        f"intervals: {'; '.join(sorted({part.interval for part in parts}))}",
        "no p here, and nothing is adjusted: of twenty such intervals of differences that are none, one leaves out 0",
    ]
    return Table("Gaps and averages", columns, rows, notes)


def differing_table(reference: Evaluation, other: Evaluation, keys: Sequence[Key]) -> Table:
    """Which answers differ, by suite, side and domain (or subject)."""
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    for key in keys:
        mine, yours = reference.samples[key], other.samples[key]
        counter = counts.setdefault((mine.suite, mine.split, mine.domain), Counter())
        counter[f"{mine.correct} {yours.correct}"] += 1
        counter["other"] += not mine.correct and not yours.correct and mine.predicted != yours.predicted
        counter["text"] += mine.generated != yours.generated
    rows: list[list[Cell | str | None]] = []
    last = None
    for (suite, split, domain), counter in counts.items():
        if last not in (None, (suite, split)):
            rows.append([])
        last = (suite, split)
        figures = [counter[name] for name in ("True True", "False True", "True False", "False False", "other", "text")]
        rows.append(
            [f"{suite} {split.upper()}", domain or "–", *(Cell(f"{n:,}", n) for n in (sum(figures[:4]), *figures))]
        )
    names = ["both right", "gained", "lost", "none right", "other wrong answers", "other text"]
    columns = [Column("set", _TEXT), Column("domain", _TEXT), Column("problems"), *(Column(name) for name in names)]
    return Table(f"Answers of {other.name} against {reference.name}", columns, rows)


def _percent(figure: Figure, sign: bool = False) -> Cell | None:
    return number(100 * figure.value, low=100 * figure.low, high=100 * figure.high, bound_digits=1, sign=sign)


def _p(p: float) -> Cell:
    return Cell("<0.001" if p < 0.001 else f"{p:.3f}", p)


def _notes(comparison: Comparison) -> list[str]:
    notes = []
    if comparison.different:
        notes.append(
            f"DIFFERENT DATA ({'; '.join(comparison.different)}): only problems that all have alike are compared; what "
            "else differed may be the reason for a difference"
        )
    methods = {entry.accuracy.interval for side in comparison.sides for entry in side.entries}
    methods |= {e.paired.interval for side in comparison.sides for e in side.entries if e.paired is not None}
    notes.append(
        f"intervals: {'; '.join(sorted(methods))}; gained, lost: problems that only it, only the reference has right"
    )
    tests = f", adjusted for the {comparison.tests} comparisons above" if comparison.tests > 1 else ""
    notes.append(f"p: exact sign-flip test by group (McNemar's where groups hold one problem), two-sided; Holm{tests}")
    notes.append(
        "this is about these very models on problems like these; whether trainings with other seeds would differ likewise, "
        "only other seeds tell"
    )
    notes += [
        f"{entry.evaluation}, {side.suite} {side.side.upper()}: {100 * entry.unfinished:.1f}% of the texts ran into the token limit"
        for side in comparison.sides
        for entry in side.entries
        if entry.unfinished > 0.02
    ]
    return notes + [f"not the same, but no other data: {note}" for note in comparison.notes]
