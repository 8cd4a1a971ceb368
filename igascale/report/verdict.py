"""The result in a sentence per suite: who answers best out of distribution, and whether that is more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from igascale.evaluation.accuracy import Accuracy
from igascale.evaluation.results import ISOMERS
from igascale.report.collect import Collected
from igascale.report.pairs import Pair, Pairs


def verdicts(runs: Sequence[Collected], comparable: bool, pairs: Pairs | None = None) -> list[str]:
    """Sentences for the head of the page, with numbers between ``**``.

    Args:
        runs: what was collected.
        comparable: whether nothing is known that forbids to call one of them better.
        pairs: the runs compared problem by problem; where there is none, intervals must do.
    """
    suites = dict.fromkeys(s for run in runs for s in (run.evaluation.suites if run.evaluation else {}))
    found = [sentence for suite in suites for sentence in _of_suite(runs, suite, comparable, pairs)]
    if not found:
        return ["None of these runs was evaluated: what follows is how they trained, not how well they answer."]
    return found


def _of_suite(runs: Sequence[Collected], suite: str, comparable: bool, pairs: Pairs | None) -> list[str]:
    where = "out of distribution" if suite == ISOMERS else f"on {suite} out of distribution"
    known: list[tuple[Collected, Accuracy]] = []
    for run in runs:
        of = run.evaluation.suites.get(suite) if run.evaluation else None
        if of is not None and of.ood is not None:
            known.append((run, of.ood.accuracy))
    if not known:
        return []
    known.sort(key=lambda pair: -pair[1].value)
    best, accuracy = known[0]
    chance = (
        "above chance"
        if accuracy.low > accuracy.chance
        else "below chance"
        if accuracy.high < accuracy.chance
        else "not told from chance"
    )
    told = f"{best.name} answers {_shown(accuracy)} {where}, {chance} (**{100 * accuracy.chance:.1f}%**)"
    if len(known) == 1:
        return [told + "."]
    if not comparable:
        each = "; ".join(f"{run.name} {_shown(other)}" for run, other in known)
        return [
            f"{where[0].upper()}{where[1:]}: {each}. These may be figures of different things, and are not ranked: see below."
        ]
    others = "; ".join(f"{run.name} {_shown(other)}" for run, other in known[1:4])
    more = f"; {len(known) - 4} more in the table" if len(known) > 4 else ""
    names = [run.name for run, _ in known[1:]]
    tested = pairs.of.get((suite, "ood"), {}) if pairs else {}
    if pairs and all((best.name, name) in tested for name in names):
        end = _by_pairs(best.name, names, tested, pairs.tests)
    else:
        end = _by_intervals(accuracy, known[1:])
    return [f"{told}; {others}{more}. {end}"]


def _by_pairs(best: str, names: Sequence[str], tested: Mapping[tuple[str, str], Pair], tests: int) -> str:
    """The differences themselves: two intervals that overlap say nothing of them."""
    adjusted = f", p adjusted for {tests} comparisons" if tests > 1 else ""
    open_ = [name for name in names if not tested[best, name].established]
    if not open_:
        ahead = _names([f"{name} by {_difference(tested[best, name])}" for name in names[:3]])
        more = f", and of {len(names) - 3} more" if len(names) > 3 else ""
        return f"Problem by problem it is ahead of {ahead}{more}{adjusted}. Whether trainings with other seeds would be, these do not tell."
    told = _names([f"{name} ({_difference(tested[best, name])})" for name in open_[:3]])
    more = f" and {len(open_) - 3} more" if len(open_) > 3 else ""
    return f"No lead over {told}{more} is established, problem by problem{adjusted}."


def _difference(pair: Pair) -> str:
    of = pair.paired
    p = "p < 0.001" if pair.p_holm < 0.001 else f"p = {pair.p_holm:.3f}"
    return f"**{100 * of.difference:+.1f}** points [{100 * of.low:.1f}, {100 * of.high:.1f}], {p}"


def _by_intervals(accuracy: Accuracy, others: Sequence[tuple[Collected, Accuracy]]) -> str:
    ties = [run.name for run, other in others if other.high >= accuracy.low]
    if not ties:
        return "No other interval overlaps with it."
    return (
        f"The interval{'s' * (len(ties) > 1)} of {_names(ties)} overlap{'s' * (len(ties) == 1)} with it, and there are no "
        "samples to take problem by problem: the order is not established."
    )


def _shown(accuracy: Accuracy) -> str:
    return f"**{100 * accuracy.value:.1f}%** [{100 * accuracy.low:.1f}, {100 * accuracy.high:.1f}]"


def _names(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
