"""What a reader must know before believing the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from igascale import status
from igascale.errors import UserError
from igascale.evaluation.results import EvaluationResult
from igascale.evaluation.same_problems import differences
from igascale.report.collect import Collected
from igascale.report.figures.accuracy import side
from igascale.runs.reading import DIED, STALLED
from igascale.tuning.claims import Compared, claims

_TRUNCATED = 0.02
_NOT_COMPARABLE = "NOT COMPARABLE"
_NOT_KNOWN = "NOT KNOWN TO BE COMPARABLE"


@dataclass(frozen=True)
class Reservation:
    """One line.

    Attributes:
        grave: ``grave`` where figures do not mean what they seem to, ``note`` where they mean less.
    """

    text: str
    grave: Literal["grave", "note"] = "note"


def reservations(runs: Sequence[Collected], different: Sequence[Reservation] | None = None) -> list[Reservation]:
    """All of them, the grave ones first.

    Args:
        runs: what was collected.
        different: of :func:`what_differs`, where that was asked already.
    """
    found = [*(what_differs(runs) if different is None else different), *_comparison(runs)]
    for run in runs:
        found += [Reservation(f"{run.name}: {w.text}", w.grave) for w in _of_run(run)]
    return sorted(found, key=lambda w: w.grave != "grave")


def comparable(different: Sequence[Reservation]) -> bool:
    """Whether the runs' figures are of one thing, as far as their folders tell; not where that could not be found out."""
    return not any(r.text.startswith((_NOT_COMPARABLE, _NOT_KNOWN)) for r in different)


def what_differs(runs: Sequence[Collected]) -> list[Reservation]:
    """What is not the same in the runs: files, base model, problems of the evaluation, what shapes their figures."""
    return list(_different(runs))


def _different(runs: Sequence[Collected]) -> Iterator[Reservation]:
    configured = [run for run in runs if run.config]
    if len(runs) > 1 and (without := [run.name for run in runs if not run.config]):
        yield Reservation(f"{_NOT_KNOWN}: the configuration of {', '.join(without)} cannot be read", "grave")
    if len(configured) < 2:
        return
    try:
        found = differences([run.folder for run in configured], [run.name for run in configured])
    except UserError as error:
        yield Reservation(f"{_NOT_KNOWN}: {error}", "grave")
        return
    for difference in found:
        if difference.weight == "refuse":
            yield Reservation(f"{_NOT_COMPARABLE}: {difference}", "grave")
        else:
            yield Reservation(f"differs: {difference}" if difference.weight == "mark" else str(difference))


def _comparison(runs: Sequence[Collected]) -> Iterator[Reservation]:
    for text in claims([Compared.of(run.name, run.config) for run in runs if run.config]):
        yield Reservation(text, "grave" if text[:3].isupper() else "note")


def _of_run(run: Collected) -> Iterator[Reservation]:
    if run.run.state in (status.FAILED, DIED, STALLED):
        message = f": {run.run.message.splitlines()[0]}" if run.run.message else ""
        yield Reservation(f"{run.run.state}{message}", "grave")
    elif run.run.state == status.RUNNING:
        yield Reservation("still running; the figures are of the steps so far")
    elif run.run.state == status.INTERRUPTED:
        yield Reservation(f"interrupted at step {run.run.step}; the figures are of the steps so far")
    if run.metrics.skipped:
        count = run.metrics.skipped
        yield Reservation(f"{count} step{'s' * (count > 1)} skipped: a loss or gradient was not finite", "grave")
    if diverged := _diverged(run):
        yield Reservation(diverged, "grave")
    if run.setting("data.allow_leakage"):
        yield Reservation(
            "LEAKAGE: trained on the seed problems of its held-out files; its figures are inflated", "grave"
        )
    if run.evaluation:
        yield from _of_evaluation(run.evaluation)
    for note in run.notes:
        yield Reservation(note)


def _diverged(run: Collected) -> str | None:
    """The loss of the last tenth of training against that of the first tenth, as a whole."""
    known = run.metrics.train[("loss",)].known if ("loss",) in run.metrics.train else []
    tenth = max(1, len(known) // 10)
    first, last = (sum(part) / tenth for part in (known[:tenth], known[-tenth:])) if known else (0.0, 0.0)
    if len(known) >= 20 and last > 1.05 * first:
        return f"DIVERGED: the training loss ended at {last:.3g}, above the {first:.3g} where it began"
    return None


def _of_evaluation(result: EvaluationResult) -> Iterator[Reservation]:
    for suite, of in result.suites.items():
        for split, found in of.splits.items():
            name = side(suite, split)
            collapsed = [c for c in [found.consistency, *found.layers] if c is not None and c.collapsed]
            if collapsed:
                layers = ", ".join(str(layer) for layer in sorted({c.layer for c in collapsed}))
                why = next((c.alarm for c in collapsed if c.alarm), "different problems have nearly the same states")
                yield Reservation(
                    f"COLLAPSED: {name}, layer {layers}: {why}, so that LCS means nothing",
                    "grave",
                )
            if found.unfinished > _TRUNCATED:
                limit = result.settings.get("max_new_tokens")
                yield Reservation(
                    f"{name}: {100 * found.unfinished:.1f}% of the answers ran into the limit of {limit} new tokens"
                )
            if found.accuracy.parse_failures > _TRUNCATED:
                yield Reservation(
                    f"{name}: no answer was found in {100 * found.accuracy.parse_failures:.1f}% of the texts"
                )
    yield from _notes(str(result.settings.get("notes") or ""))


def _notes(notes: str) -> Iterator[Reservation]:
    """What the evaluation itself said, a line each, but what is told above or shown beside the figures."""
    told = ("(collapse)", "of it sampling noise", "GIR is mostly noise")
    yield from (Reservation(line) for line in notes.splitlines() if not any(part in line for part in told))
