"""What an accuracy, a gap or an LCS looks like in every table: chance beside every accuracy, and doubt beside every LCS."""

from __future__ import annotations

from igascale.evaluation.accuracy import Accuracy
from igascale.evaluation.averages import Average
from igascale.evaluation.results import ISOMERS, Consistency, EvaluationResult, SplitResult, SuiteResult
from igascale.tables import Cell, number

#: Sign of an accuracy against chance; it carries the meaning where there is no colour.
_VERDICTS = {"above": "▲", "at": "≈", "below": "▼"}
LEGEND = "▲ above, ≈ not told from, ▼ below chance (always the most frequent answer); 95% intervals"
NOT_FINITE = Cell("not finite", emphasis="bad")


def against_chance(accuracy: Accuracy) -> str:
    """``above``, ``at`` or ``below``: where the whole interval lies."""
    if accuracy.low > accuracy.chance:
        return "above"
    return "below" if accuracy.high < accuracy.chance else "at"


def accuracy_cell(accuracy: Accuracy) -> Cell:
    """``▲ 70.5``, in percent; its interval is in the cell, but not in its text."""
    text = f"{_VERDICTS[against_chance(accuracy)]} {100 * accuracy.value:.1f}"
    return Cell(text, 100 * accuracy.value, 100 * accuracy.low, 100 * accuracy.high)


def accuracy_with_interval(accuracy: Accuracy | None) -> Cell | None:
    """``▲ 70.5 [63, 77]``, in percent."""
    if accuracy is None:
        return None
    sign = _VERDICTS[against_chance(accuracy)]
    return number(100 * accuracy.value, low=100 * accuracy.low, high=100 * accuracy.high, before=f"{sign} ")


def percent(share: float) -> Cell | None:
    """A share, in percent."""
    return number(100 * share)


def gap_cell(suite: SuiteResult) -> Cell | None:
    """``+1.8 [-4, 8]``, in percentage points."""
    if suite.delta_gap is None or suite.delta_gap_low is None or suite.delta_gap_high is None:
        return None
    return number(100 * suite.delta_gap, low=100 * suite.delta_gap_low, high=100 * suite.delta_gap_high, sign=True)


def average_cell(average: Average | None, sign: bool = False) -> Cell | None:
    """A mean over benchmarks, in percent or points."""
    if average is None:
        return None
    return number(100 * average.value, low=100 * average.low, high=100 * average.high, sign=sign)


def no_answer(suite: SuiteResult) -> Cell | None:
    """Share of all the suite's texts from which no answer could be read, in percent."""
    found = [split.accuracy for split in suite.splits.values()]
    samples = sum(accuracy.samples for accuracy in found)
    if not samples:
        return None
    return percent(sum(accuracy.parse_failures * accuracy.samples for accuracy in found) / samples)


def lcs_cells(lcs: Consistency | None, accuracy: Accuracy | None) -> tuple[Cell | None, Cell | None]:
    """Raw times 100, as the paper prints it, and relative; dim and marked where accuracy or the states say that they mean nothing.

    Args:
        lcs: of a set of groups.
        accuracy: on the same groups; without one the LCS is doubtful too.
    """
    if lcs is None:
        return None, None
    if lcs.lcs is None or lcs.relative is None:
        return NOT_FINITE, NOT_FINITE
    doubt = doubtful(lcs, accuracy)
    return short(100 * lcs.lcs, doubt), short(lcs.relative, doubt)


def doubtful(lcs: Consistency | None, accuracy: Accuracy | None) -> bool:
    """Whether a low LCS would mean nothing: collapsed states, or an accuracy that is not above chance, or unknown."""
    return lcs is None or lcs.collapsed or accuracy is None or against_chance(accuracy) != "above"


def short(value: float | None, doubt: bool = False) -> Cell | None:
    """Four figures, or whole numbers with their thousands set apart; ``?`` where it means nothing."""
    if value is None:
        return None
    text = f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"
    return Cell(text, value, mark="?" if doubt else "", emphasis="dim" if doubt else "none")


def splits(result: EvaluationResult) -> list[tuple[str, SplitResult]]:
    """Every side of every suite, by the name that the tables give it."""
    return [
        (f"{prefix(name)}{side.upper()}", split)
        for name, suite in result.suites.items()
        for side, split in suite.splits.items()
    ]


def prefix(suite: str) -> str:
    """What is evaluated by default goes without a name."""
    return "" if suite == ISOMERS else f"{suite} "


def warnings(result: EvaluationResult) -> list[str]:
    """What a reader should not miss: collapsed states, texts that were cut off, answers that could not be read."""
    notes = []
    for name, split in splits(result):
        collapsed = [lcs for lcs in (split.consistency, *split.layers) if lcs is not None and lcs.collapsed]
        if collapsed:
            layers = ", ".join(map(str, sorted({lcs.layer for lcs in collapsed})))
            why = next((lcs.alarm for lcs in collapsed if lcs.alarm), "hidden states hardly differ between problems")
            notes.append(f"{name}: {why}: collapsed, LCS means nothing (layer {layers})")
        if split.unfinished > 0.02:
            limit = result.settings.get("max_new_tokens")
            notes.append(f"{name}: {100 * split.unfinished:.1f}% of the texts ran into the limit of {limit} new tokens")
        if split.accuracy.parse_failures > 0.05:
            notes.append(
                f"{name}: no answer could be read from {100 * split.accuracy.parse_failures:.1f}% of the texts"
            )
    return notes
