"""ARB: options by letter, numbers within 1%, expressions by equivalence; proofs are left out."""

from __future__ import annotations

import warnings
from fractions import Fraction

from igascale.evaluation.benchmarks.base import BenchmarkItem
from igascale.evaluation.tasks._choice import MultipleChoice
from igascale.evaluation.tasks._formulas import expression
from igascale.evaluation.tasks._numbers import number, within
from igascale.evaluation.tasks._reading import marked, said
from igascale.evaluation.tasks._symbolic import equivalent
from igascale.evaluation.tasks._tokens import Unreadable
from igascale.evaluation.tasks.base import with_instruction

#: The relative error below which a number is right (Sawada et al., 2023).
TOLERANCE = Fraction(1, 100)
_READERS = {"numeric": number, "symbolic": expression}
_FORMS = {
    "numeric": "where X is the final answer as one number",
    "symbolic": "where X is the final answer as one expression in LaTeX, in the symbols of the problem",
}


class ARBTask(MultipleChoice):
    """ARB: law and MCAT as multiple choice, mathematics and physics as numbers or expressions.

    Differs from the paper: formulas are read by a parser of our own, as no text of a model's is evaluated; what it cannot read is
    a parse failure. SymPy compares expressions at points; the paper had people judge them.
    """

    name = "arb"

    def prompt(self, item: BenchmarkItem) -> str:
        """Problem, the publisher's format instructions where there are such, and ours."""
        if item.answer_kind == "choice":
            return super().prompt(item)
        own = str(item.meta.get("output_format_instructions") or "").strip()
        problem = f"{item.problem}\n\n{own}" if own else item.problem
        return with_instruction(problem, "X", _FORMS.get(item.answer_kind, "where X is the final answer"))

    def extract(self, text: str, item: BenchmarkItem) -> str | None:
        """The option's letter; or the line behind the last ``Answer:``, where it is a number or an expression."""
        if item.answer_kind == "choice":
            return super().extract(text, item)
        line = marked(said(text))
        return line if line and _reads(line, item.answer_kind) is None else None

    def is_correct(self, predicted: str | None, item: BenchmarkItem) -> bool:
        """By letter; within 1% of the number; or by equivalence. An equivalence that cannot be told in time is wrong, with a warning."""
        if predicted is None or item.answer is None:
            return False
        if item.answer_kind == "choice":
            return super().is_correct(predicted, item)
        if _reads(predicted, item.answer_kind) or _reads(item.answer, item.answer_kind):
            return False
        if item.answer_kind == "numeric":
            return within(number(predicted), number(item.answer), TOLERANCE)
        verdict = equivalent(expression(predicted), expression(item.answer))
        if verdict is None:
            what = f"whether '{predicted[:60]}' is '{item.answer[:60]}' could not be told in time"
            warnings.warn(f"igascale: arb {item.id}: {what}; it counts as wrong", stacklevel=2)
        return verdict is True

    def left_out(self, item: BenchmarkItem) -> str | None:
        """Proofs, hidden answers, and answers that are no number or no expression."""
        reason = super().left_out(item)
        if reason or item.answer is None or item.answer_kind == "choice":
            return reason
        problem = _reads(item.answer, item.answer_kind)
        kind = "number" if item.answer_kind == "numeric" else "expression"
        return f"its answer is not read as one {kind}" if problem else None

    def canonical(self, item: BenchmarkItem) -> str:
        """Numbers that are equal share a spelling; expressions only where their trees do."""
        assert item.answer is not None
        if item.answer_kind not in _READERS or _reads(item.answer, item.answer_kind):
            return item.answer
        if item.answer_kind == "numeric":
            return f"{complex(number(item.answer)):.9g}"
        return str(expression(item.answer))


def _reads(text: str, kind: str) -> str | None:
    """Why a text is not of its kind; ``None``: it is."""
    if kind not in _READERS:
        return f"answers of kind '{kind}' are not compared"
    try:
        _READERS[kind](text)
    except Unreadable as error:
        return str(error)
    return None
