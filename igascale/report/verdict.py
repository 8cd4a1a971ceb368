"""The result in a sentence per suite: who answers best out of distribution, and whether that is more than chance."""

from __future__ import annotations

from collections.abc import Sequence

from igascale.evaluation.accuracy import Accuracy
from igascale.evaluation.results import ISOMERS
from igascale.report.collect import Collected


def verdicts(runs: Sequence[Collected], comparable: bool) -> list[str]:
    """Sentences for the head of the page, with numbers between ``**`` and commands between backticks; a ranking only where ``comparable``."""
    suites = dict.fromkeys(s for run in runs for s in (run.evaluation.suites if run.evaluation else {}))
    found = [sentence for suite in suites for sentence in _of_suite(runs, suite, comparable)]
    if not found:
        return ["None of these runs was evaluated: what follows is how they trained, not how well they answer."]
    return found


def _of_suite(runs: Sequence[Collected], suite: str, comparable: bool) -> list[str]:
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
            f"{where[0].upper()}{where[1:]}: {each}. These are figures of different things and not ranked: see below."
        ]
    ties = [run.name for run, other in known[1:] if other.high >= accuracy.low]
    others = "; ".join(f"{run.name} {_shown(other)}" for run, other in known[1:4])
    end = (
        f" The interval{'s' * (len(ties) > 1)} of {_names(ties)} overlap{'s' * (len(ties) == 1)} with it: the order is not established (`igascale compare` tests the same problems in pairs)."
        if ties
        else " No other interval overlaps with it."
    )
    return [f"{told}; {others}.{end}"]


def _shown(accuracy: Accuracy) -> str:
    return f"**{100 * accuracy.value:.1f}%** [{100 * accuracy.low:.1f}, {100 * accuracy.high:.1f}]"


def _names(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
