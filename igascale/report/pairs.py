"""The runs against each other, problem by problem: which order is established, and by how much."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from igascale.comparing.compare import Comparison, compare
from igascale.comparing.reading import Evaluation, read_evaluations
from igascale.errors import UserError
from igascale.evaluation.results import SplitResult
from igascale.evaluation.significance import Paired, compare_paired, holm
from igascale.report.collect import Collected

#: Below it a difference is called established.
LEVEL = 0.05
Side = tuple[str, str]  # suite, and id, ood or all


@dataclass(frozen=True)
class Pair:
    """A run minus another on one side of a suite; ``p_holm`` is adjusted for all pairs of runs on all sides."""

    paired: Paired
    p_holm: float

    @property
    def established(self) -> bool:
        """Whether the first answers better than the second, by more than chance would have it."""
        return self.p_holm < LEVEL and self.paired.difference > 0


@dataclass(frozen=True)
class Pairs:
    """All pairs of runs that were evaluated on the same problems.

    Attributes:
        comparison: with the first of them, as ``igascale compare`` makes it.
        of: side -> ``(run, other)`` -> the first minus the second; both ways round.
        tests: pairs that ``p_holm`` is adjusted for.
    """

    comparison: Comparison
    of: dict[Side, dict[tuple[str, str], Pair]]
    tests: int

    def ahead(self, side: Side, run: str, others: Sequence[str]) -> bool:
        """Whether a run is ahead of each of the others."""
        found = [self.of.get(side, {}).get((run, other)) for other in others]
        return bool(found) and all(pair is not None and pair.established for pair in found)


def pairs_of(runs: Sequence[Collected]) -> Pairs | None:
    """Compare every two runs; ``None`` where fewer than two have samples, of the same problems."""
    evaluated = [run for run in runs if run.evaluation and run.samples.is_file()]
    if len(evaluated) < 2:
        return None
    try:
        read = read_evaluations([str(run.folder / "evaluation") for run in evaluated])
        named = [replace(evaluation, name=run.name) for evaluation, run in zip(read, evaluated)]
        comparison = compare(named)
    except UserError:  # damaged, or not of the same problems: the warnings say so
        return None
    found: list[tuple[Side, str, str, Paired]] = []
    for side in dict.fromkeys((side.suite, side.side) for side in comparison.sides):
        for i, one in enumerate(named):
            found += [(side, one.name, other.name, _paired(one, other, side)) for other in named[i + 1 :]]
    of: dict[Side, dict[tuple[str, str], Pair]] = {}
    for (side, one_name, other_name, paired), p in zip(found, holm([paired.p for *_, paired in found])):
        of.setdefault(side, {})[one_name, other_name] = Pair(paired, p)
        of[side][other_name, one_name] = Pair(_turned(paired), p)
    return Pairs(comparison, of, len(found))


def leaders(runs: Sequence[Collected], pairs: Pairs | None) -> dict[Side, str]:
    """The run that is ahead of all others on a side, where one is; without samples, by intervals that do not overlap."""
    ahead = {}
    suites = dict.fromkeys(s for run in runs for s in (run.evaluation.suites if run.evaluation else {}))
    for side in [(suite, split) for suite in suites for split in ("id", "ood", "all")]:
        known = [(run.name, result.accuracy) for run in runs if (result := _result(run, side)) is not None]
        if len(known) < 2:
            continue
        (name, best), *others = sorted(known, key=lambda one: -one[1].value)
        tested = pairs is not None and all((name, other) in pairs.of.get(side, {}) for other, _ in others)
        if tested and pairs is not None:
            first = pairs.ahead(side, name, [other for other, _ in others])
        else:
            first = all(other.high < best.low for _, other in others)
        if first:
            ahead[side] = name
    return ahead


def _result(run: Collected, side: Side) -> SplitResult | None:
    suite = run.evaluation.suites.get(side[0]) if run.evaluation else None
    return suite.splits.get(side[1]) if suite else None


def _paired(one: Evaluation, other: Evaluation, side: Side) -> Paired:
    groups: dict[Hashable, list[tuple[bool, bool]]] = {}
    for key, sample in one.samples.items():
        if key[:2] == side:
            groups.setdefault(sample.group_id, []).append((sample.correct, other.samples[key].correct))
    return compare_paired(groups)


def _turned(paired: Paired) -> Paired:
    return replace(
        paired,
        difference=-paired.difference,
        low=-paired.high,
        high=-paired.low,
        first_only=paired.second_only,
        second_only=paired.first_only,
    )
