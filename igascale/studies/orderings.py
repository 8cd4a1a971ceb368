"""Which orderings of the paper's rows were found again: for every two rows that it ranks, the difference here, and what it is worth.

An ordering of accuracies is *reproduced* (or *contradicted*) where two tests agree: over problems, an exact sign-flip test on groups of
problems with all seeds pooled, its p adjusted by Holm's method over all pairs of the same quantity; and over seeds, a 95% t interval of
the paired differences, which must not hold 0. Everything else *cannot be told*; with one seed nothing can, since how much one training
differs from the next is not known. LCS and gap have one figure per run, so that only the interval over seeds speaks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from igascale.evaluation.accuracy import _t_quantile
from igascale.evaluation.results import ISOMERS
from igascale.evaluation.significance import compare_paired, holm, over_seeds
from igascale.studies import results
from igascale.studies.paper import BENCHMARKS, Figure, Paper
from igascale.studies.results import RowFindings

REPRODUCED, CONTRADICTED, OPEN, MISSING = "reproduced", "contradicted", "cannot be told", "not measured"
_LEVEL = 0.05


@dataclass(frozen=True)
class Ordering:
    """Two rows that the paper ranks.

    Attributes:
        table: the paper's.
        quantity: what is ranked, as measured here.
        better, worse: rows of the study that stand for the paper's.
        paper: its better figure minus the worse one (or the reverse, where less is better): always positive.
        printed: where the two figures stand in the paper.
        doubt: what the paper's other cells say against them, or empty.
        difference: the same here, over shared seeds; negative where it is the other way round.
        low, high: its 95% interval over seeds; ``None`` with one seed.
        p: over problems, Holm-adjusted; ``None`` where there are no problems to pair.
        seeds: how many both have.
        verdict: :data:`REPRODUCED`, :data:`CONTRADICTED`, :data:`OPEN` or :data:`MISSING`.
        why: of the last two.
    """

    table: int
    quantity: str
    better: str
    worse: str
    paper: float
    printed: tuple[str, str]
    doubt: str = ""
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    seeds: int = 0
    verdict: str = MISSING
    why: str = ""


@dataclass(frozen=True)
class Quantity:
    """Something the paper ranks its rows by.

    Attributes:
        name: as it was measured here.
        column: of the paper's table.
        figure: of an evaluation.
        side: suite and side whose problems are paired; ``None`` for a figure per run.
        larger_is_better: or smaller.
        meaningless: of an evaluation, that the figure says nothing.
    """

    name: str
    column: str
    figure: results.Figure
    side: tuple[str, str] | None = None
    larger_is_better: bool = True
    meaningless: Callable[[results.EvaluationResult], bool] | None = None


def quantities(table: int, rows: Sequence[RowFindings]) -> list[Quantity]:
    """What of a table of the paper can be looked at in this study."""
    suites = results.suites_of(rows)
    found = []
    benchmarks = [name for name in suites if name in (BENCHMARKS if table == 1 else BENCHMARKS[:3])]
    if table in (1, 2):
        for name in benchmarks:
            found.append(Quantity(f"{name} OOD", f"{name} ood", results.accuracy(name, "ood"), (name, "ood")))
        if ISOMERS in suites:  # a stand-in for the paper's average
            column = "average ood" if table == 1 else "average delta"
            found.append(Quantity("isomers OOD", column, results.accuracy(ISOMERS, "ood"), (ISOMERS, "ood")))
        found.append(Quantity("LCS", "lcs", results.lcs(), None, False, results.lcs_means_nothing()))
    if table == 1:
        found.append(Quantity("gap", "gap", results.average_gap, None, False, results.gap_means_nothing))
    if table == 5:
        depths = results.paper_layers(rows)
        for layer in results.layers_of(rows):
            figure, nothing = results.lcs(layer), results.lcs_means_nothing(layer)
            found.append(Quantity(f"LCS, layer {layer}", str(depths.get(layer, "")), figure, None, False, nothing))
    return found


def orderings(paper: Paper, rows: Sequence[RowFindings], tables: Sequence[int], reference: str) -> list[Ordering]:
    """Every ordering of the paper between two rows of the study.

    Args:
        paper: its figures.
        rows: of the study; the first that stands for a row of the paper is taken for it.
        tables: which of the paper's; of Table 2 only what is said of the full method.
        reference: the study's row that Table 2 compares with.
    """
    found: list[Ordering] = []
    for table in tables:
        standing: dict[str, RowFindings] = {}
        for row in rows:
            if row.row.stands_for in paper.cells[table] and row.row.stands_for is not None:
                standing.setdefault(row.row.stands_for, row)
        for quantity in quantities(table, rows):
            pairs = _pairs(paper.cells[table], standing, quantity, table)
            if table == 2:
                pairs = [p for p in pairs if reference in (p[0].better, p[0].worse)]
            found += _judged(pairs, quantity)
    return found


def _pairs(
    cells: Mapping[str, Mapping[str, Figure]], standing: Mapping[str, RowFindings], quantity: Quantity, table: int
) -> list[tuple[Ordering, RowFindings, RowFindings]]:
    found = []
    for first, second in combinations(standing, 2):
        one, other = cells[first].get(quantity.column), cells[second].get(quantity.column)
        if one is None or other is None or math.isclose(one.value, other.value):
            continue
        if (one.value > other.value) != quantity.larger_is_better:
            first, second, one, other = second, first, other, one
        better, worse = standing[first], standing[second]
        doubt = "; ".join(f"{f.where}: {f.contradicted}" for f in (one, other) if f.contradicted)
        difference = abs(one.value - other.value)
        where = (one.where, other.where)
        found.append((Ordering(table, quantity.name, better.name, worse.name, difference, where, doubt), better, worse))
    return found


def _judged(pairs: Sequence[tuple[Ordering, RowFindings, RowFindings]], quantity: Quantity) -> Iterator[Ordering]:
    measured = [_measure(ordering, better, worse, quantity) for ordering, better, worse in pairs]
    tested = [i for i, ordering in enumerate(measured) if ordering.p is not None]
    for i, p in zip(tested, holm([measured[i].p or 0.0 for i in tested])):
        measured[i] = replace(measured[i], p=p)
    for (_, better, worse), ordering in zip(pairs, measured):
        yield _judge(ordering, better, worse, quantity)


def _measure(ordering: Ordering, better: RowFindings, worse: RowFindings, quantity: Quantity) -> Ordering:
    ours, theirs = better.values(quantity.figure), worse.values(quantity.figure)
    shared = [seed for seed in ours if seed in theirs]
    if not shared:
        return ordering
    sign = 1 if quantity.larger_is_better else -1
    found = over_seeds([sign * (ours[seed] - theirs[seed]) for seed in shared])
    low = high = None
    if found.std is not None:
        half = _t_quantile(found.n - 1, 0.95) * found.std / math.sqrt(found.n)
        low, high = found.mean - half, found.mean + half
    p = problems_p(better, worse, shared, quantity.side) if quantity.side else None
    return replace(ordering, difference=found.mean, low=low, high=high, p=p, seeds=found.n)


def problems_p(
    first: RowFindings, second: RowFindings, seeds: Sequence[int | None], side: tuple[str, str]
) -> float | None:
    """p that two rows answer a side's problems alike, all seeds of a group of problems together; ``None`` for other problems."""
    groups: dict[Hashable, list[tuple[bool, bool]]] = {}
    for seed in seeds:
        one, other = first.found[seed], second.found[seed]
        if side not in one.problems or one.problems[side] != other.problems.get(side):
            return None
        for group, answers in one.outcomes[side].items():
            theirs = other.outcomes[side][group]
            groups.setdefault(group, []).extend((right, theirs[problem]) for problem, right in answers.items())
    return compare_paired(groups).p if groups else None


def _judge(ordering: Ordering, better: RowFindings, worse: RowFindings, quantity: Quantity) -> Ordering:
    if ordering.difference is None:
        lacking = " and ".join(row.name for row in (better, worse) if not row.values(quantity.figure))
        return replace(ordering, why=f"nothing of {lacking}" if lacking else "no seed that both have")
    why = ""
    if quantity.meaningless is not None and (better.any(quantity.meaningless) or worse.any(quantity.meaningless)):
        why = "at an accuracy that is not above chance it means nothing, nor with collapsed states"
    elif quantity.side is not None and ordering.p is None:
        why = "the two were evaluated on other problems"
    elif ordering.low is None or ordering.high is None:
        why = "one seed does not tell how much one training differs from the next"
    elif ordering.p is not None and ordering.p > _LEVEL:
        why = f"the problems do not tell them apart (p = {ordering.p:.2g})"
    elif ordering.low <= 0 <= ordering.high:
        why = "the seeds do not tell them apart"
    if why:
        return replace(ordering, verdict=OPEN, why=why)
    return replace(ordering, verdict=REPRODUCED if ordering.difference > 0 else CONTRADICTED)


def statements(found: Sequence[Ordering]) -> list[str]:
    """What came of the paper's orderings, in plain sentences; a line per table and quantity, then those that were decided."""
    lines = []
    families: dict[tuple[int, str], list[Ordering]] = {}
    for ordering in found:
        families.setdefault((ordering.table, ordering.quantity), []).append(ordering)
    for (table, quantity), family in families.items():
        counts = {v: sum(o.verdict == v for o in family) for v in (REPRODUCED, CONTRADICTED, OPEN, MISSING)}
        told = f"{counts[REPRODUCED]} reproduced, {counts[CONTRADICTED]} contradicted, {counts[OPEN]} cannot be told"
        told += f", {counts[MISSING]} not measured" if counts[MISSING] else ""
        ranked = f"Table {table}, {quantity}: of {len(family)} ordering{'s' * (len(family) != 1)} of the paper {told}."
        decided = [_sentence(o) for v in (REPRODUCED, CONTRADICTED) for o in family if o.verdict == v]
        lines.append(" ".join([ranked, *decided]))
    return lines


def _sentence(o: Ordering) -> str:
    first, second = (o.better, o.worse) if o.verdict == REPRODUCED else (o.worse, o.better)
    assert o.difference is not None and o.low is not None and o.high is not None
    low, high = (o.low, o.high) if o.difference > 0 else (-o.high, -o.low)
    return f"{o.verdict.capitalize()}: {first} before {second} by {abs(o.difference):.3g} [{low:.3g}, {high:.3g}]."
