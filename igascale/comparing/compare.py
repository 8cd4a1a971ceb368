"""Several evaluations against one of them, on the same problems."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from igascale.comparing.reading import Evaluation, Key
from igascale.comparing.same_data import common_keys, what_differs, worth_saying
from igascale.errors import UserError
from igascale.evaluation.accuracy import Sample
from igascale.evaluation.bootstrap import RESAMPLES, Outcomes, estimate, outcomes
from igascale.evaluation.intervals import Choice, interval_of
from igascale.evaluation.results import ISOMERS
from igascale.evaluation.significance import Paired, compare_paired, holm


@dataclass(frozen=True)
class Figure:
    """A number with its 95% interval."""

    value: float
    low: float
    high: float
    interval: str


@dataclass(frozen=True)
class Entry:
    """One evaluation on one side of one suite.

    Attributes:
        evaluation: its name.
        accuracy: on the problems that are compared.
        no_answer: share of texts without an answer.
        unfinished: share of texts that ran into the token limit.
        paired: against the reference, as (this, reference); ``None`` for the reference itself.
        p_holm: ``paired.p``, adjusted for all the comparisons made at once.
    """

    evaluation: str
    accuracy: Figure
    no_answer: float
    unfinished: float
    paired: Paired | None = None
    p_holm: float | None = None


@dataclass(frozen=True)
class SideComparison:
    """One side of a suite. ``chance`` is ``None`` where not all of its problems are compared."""

    suite: str
    side: str
    samples: int
    groups: int
    chance: float | None
    entries: list[Entry]


@dataclass(frozen=True)
class Derived:
    """What is made of several sides: a gap, or an average over benchmarks.

    Attributes:
        name: of the figure.
        evaluation: whose it is.
        value: the figure itself.
        difference: it minus that of the reference, problem by problem; ``None`` for the reference itself.
    """

    name: str
    evaluation: str
    value: Figure
    difference: Figure | None


@dataclass(frozen=True)
class Comparison:
    """Everything that ``igascale compare`` finds.

    Attributes:
        reference: the name of the evaluation that the others are compared with.
        evaluations: all names, the reference first.
        sides: per side of each suite.
        derived: gaps and averages.
        different: what is not the same between the evaluations; not empty only where that was allowed.
        notes: other settings that differ.
        tests: how many p values the adjustment is for.
    """

    reference: str
    evaluations: list[str]
    sides: list[SideComparison]
    derived: list[Derived]
    different: list[str]
    notes: list[str]
    tests: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable, all numbers finite."""
        return asdict(self)


@dataclass(frozen=True)
class _How:
    choice: Choice
    resamples: int
    seed: int

    def figure(self, sets: Sequence[Outcomes], weights: Sequence[float], paired: bool = False) -> Figure:
        found = interval_of(sets, weights, paired=paired, choice=self.choice, resamples=self.resamples, seed=self.seed)
        return Figure(estimate(sets, weights), found.low, found.high, found.method)


def compare(
    evaluations: Sequence[Evaluation],
    *,
    choice: Choice = "score",
    allow_different_data: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare evaluations with the first of them.

    Args:
        evaluations: two or more; the first is the reference.
        choice: of the intervals.
        allow_different_data: compare what all have in common, and say what was different.
        resamples: of a bootstrap.
        seed: of a bootstrap.

    Raises:
        UserError: they are not of the same data, or have nothing in common.
    """
    reference, *others = evaluations
    different = [line for other in others for line in what_differs(reference, other)]
    if different and not allow_different_data:
        more = f"; and {len(different) - 3} more" if len(different) > 3 else ""
        raise UserError(
            f"the evaluations are not of the same data: {'; '.join(different[:3])}{more}. Evaluate them alike, or pass "
            "--allow-different-data to compare what they have in common"
        )
    keys = common_keys(evaluations)
    if not keys:
        raise UserError("the evaluations have no problem in common; nothing can be compared")
    how = _How(choice, resamples, seed)
    sides = [_side(evaluations, side, [key for key in keys if key[:2] == side], how) for side in _sides(keys)]
    sides, tests = _adjusted(sides)
    notes = [line for other in others for line in worth_saying(reference, other)]
    names = [evaluation.name for evaluation in evaluations]
    return Comparison(reference.name, names, sides, _derived(evaluations, keys, how), different, notes, tests)


def _sides(keys: Sequence[Key]) -> list[tuple[str, str]]:
    return list(dict.fromkeys(key[:2] for key in keys))


def _side(evaluations: Sequence[Evaluation], side: tuple[str, str], keys: Sequence[Key], how: _How) -> SideComparison:
    reference, (suite, split) = evaluations[0], side
    entries = []
    for evaluation in evaluations:
        samples = [evaluation.samples[key] for key in keys]
        paired = None
        if evaluation is not reference:
            pairs: dict[Hashable, list[tuple[bool, bool]]] = {}
            for key, sample in zip(keys, samples):
                pairs.setdefault(_group(sample), []).append((sample.correct, reference.samples[key].correct))
            paired = compare_paired(pairs, choice=how.choice, resamples=how.resamples, seed=how.seed)
        accuracy = how.figure([_outcomes(samples)], (1.0,))
        no_answer = sum(sample.predicted is None for sample in samples) / len(samples)
        unfinished = sum(not sample.finished for sample in samples) / len(samples)
        entries.append(Entry(evaluation.name, accuracy, no_answer, unfinished, paired))
    groups = len({reference.samples[key].group_id for key in keys})
    whole = reference.result.suites[suite].splits[split].accuracy
    chance = whole.chance if whole.samples == len(keys) else None
    return SideComparison(suite, split, len(keys), groups, chance, entries)


def _adjusted(sides: Sequence[SideComparison]) -> tuple[list[SideComparison], int]:
    """Holm over every p of the comparison: all of them were looked at."""
    p_values = [entry.paired.p for side in sides for entry in side.entries if entry.paired is not None]
    adjusted = iter(holm(p_values))
    return [
        replace(
            side,
            entries=[
                entry if entry.paired is None else replace(entry, p_holm=next(adjusted)) for entry in side.entries
            ],
        )
        for side in sides
    ], len(p_values)


def _derived(evaluations: Sequence[Evaluation], keys: Sequence[Key], how: _How) -> list[Derived]:
    """The gap of every suite with both sides; averages over benchmarks, which count alike whatever their size."""
    sides = _sides(keys)
    suites = list(dict.fromkeys(suite for suite, _ in sides))
    plans: list[tuple[str, list[tuple[str, str]], list[float]]] = []
    both = [suite for suite in suites if {(suite, "id"), (suite, "ood")} <= set(sides)]
    plans += [(f"{suite} ID − OOD", [(suite, "id"), (suite, "ood")], [1.0, -1.0]) for suite in both]
    benchmarks = [suite for suite in suites if suite != ISOMERS]
    for split in ("id", "ood", "all"):
        there = [(suite, split) for suite in benchmarks if (suite, split) in sides]
        if len(there) > 1:
            plans.append((f"average of {len(there)} benchmarks, {split.upper()}", there, [1 / len(there)] * len(there)))
    gaps = [suite for suite in both if suite != ISOMERS]
    if len(gaps) > 1:
        pairs = [(suite, split) for suite in gaps for split in ("id", "ood")]
        plans.append((f"average gap of {len(gaps)} benchmarks", pairs, [1 / len(gaps), -1 / len(gaps)] * len(gaps)))
    found = []
    for name, wanted, weights in plans:
        for evaluation in evaluations:
            sets = [_outcomes([evaluation.samples[key] for key in keys if key[:2] == side]) for side in wanted]
            difference = None
            if evaluation is not evaluations[0]:
                changes = [_changes(evaluation, evaluations[0], [k for k in keys if k[:2] == side]) for side in wanted]
                difference = how.figure(changes, weights, paired=True)
            found.append(Derived(name, evaluation.name, how.figure(sets, weights), difference))
    return found


def _group(sample: Sample) -> tuple[str, str]:
    """A group may be told on both sides of a suite; then it is one problem."""
    return sample.suite, sample.group_id


def _outcomes(samples: Sequence[Sample]) -> Outcomes:
    return outcomes((_group(sample), sample.correct) for sample in samples)


def _changes(evaluation: Evaluation, reference: Evaluation, keys: Sequence[Key]) -> Outcomes:
    return outcomes(
        (_group(evaluation.samples[key]), evaluation.samples[key].correct - reference.samples[key].correct)
        for key in keys
    )
