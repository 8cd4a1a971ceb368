"""Agreement with lm-evaluation-harness on the terminal."""

from __future__ import annotations

from igascale.comparing.examples import shown
from igascale.comparing.lm_eval_samples import LmEvalComparison, Rescored, differs
from igascale.tables import Cell, Column, Table, number


def agreement_table(found: LmEvalComparison) -> Table:
    """A line per kind of verdict and metric."""
    columns = [Column(name, "left") for name in ("our scorer on", "their metric")]
    columns += [
        Column(name) for name in ("documents", "theirs %", "ours %", "agree %", "only theirs right", "only ours right")
    ]
    rows: list[list[Cell | str | None]] = [
        [
            each.of,
            each.metric,
            Cell(f"{each.documents:,}", each.documents),
            number(100 * (each.both + each.theirs_only) / each.documents),
            number(100 * (each.both + each.ours_only) / each.documents),
            number(100 * each.agree),
            Cell(f"{each.theirs_only:,}", each.theirs_only),
            Cell(f"{each.ours_only:,}", each.ours_only),
        ]
        for each in found.agreements
    ]
    return Table(f"igascale and lm-evaluation-harness on {found.task}", columns, rows, found.notes)


def differing(found: LmEvalComparison, count: int) -> list[str]:
    """Documents on which the verdicts differ, as text."""
    return [_told(each) for each in found.rescored if differs(each)][:count]


def _told(each: Rescored) -> str:
    document = each.document
    theirs = ", ".join(f"{metric} {'right' if verdict else 'wrong'}" for metric, verdict in document.verdicts.items())
    lines = [
        f"{document.where}: {theirs}",
        shown(document.item.problem),
        f"expected: {shown(str(document.item.answer))}",
    ]
    if document.text is not None:
        verdict = "right" if each.correct else "wrong"
        read = "no answer" if each.predicted is None else f"'{shown(each.predicted)}'"
        lines += [f"text: {shown(document.text)}", f"ours: {verdict}, read as {read}"]
    elif each.own is not None:
        lines.append(
            f"our own answer: {'right' if each.own.correct else 'wrong'} ({each.own.predicted or 'no answer'})"
        )
    return "\n".join(lines)
