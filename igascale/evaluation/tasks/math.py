r"""MATH: the last ``\boxed{}``, compared as the authors' code compares."""

from __future__ import annotations

import re

from igascale.evaluation.benchmarks.base import BenchmarkItem
from igascale.evaluation.benchmarks.math import last_boxed
from igascale.evaluation.tasks._equivalence import canonical, is_equivalent
from igascale.evaluation.tasks._reading import marked, said
from igascale.evaluation.tasks.base import Task, with_instruction


class MathTask(Task):
    r"""MATH.

    Differs from the authors' code: theirs has no prompt (it evaluates models fine-tuned to box), and takes nothing but a box; a text
    without one is read at its last ``Answer:`` line here. Escaped braces do not count in the box, as TeX has it.
    Differs from lm-evaluation-harness: its ``hendrycks_math`` never looks for a box in what the model wrote.
    """

    name = "math"

    def prompt(self, item: BenchmarkItem) -> str:
        """Problem and instruction."""
        return with_instruction(item.problem, r"\boxed{X}", "where X is the final answer in LaTeX, fully simplified")

    def extract(self, text: str, item: BenchmarkItem) -> str | None:
        """See :func:`given_answer`."""
        return given_answer(text)

    def is_correct(self, predicted: str | None, item: BenchmarkItem) -> bool:
        """By the reference's ``is_equiv``; no answer is wrong."""
        return predicted is not None and item.answer is not None and is_equivalent(predicted, item.answer)

    def canonical(self, item: BenchmarkItem) -> str:
        """As the reference's rules rewrite it."""
        assert item.answer is not None
        return canonical(item.answer)


def given_answer(text: str) -> str | None:
    r"""The content of the last ``\boxed{}`` or else ``\fbox{}``; without any the line behind the last ``Answer:``; or ``None``.

    A last box that is not closed or empty gives no answer, whatever else the text holds. Of a line, the formula between
    dollars is taken where it holds one; emphasis around it and a full stop behind it are not part of it.

    Example:
        >>> given_answer(r"So $x = \boxed{42}$."), given_answer("**Answer:** $\\frac12$."), given_answer("It is 42.")
        ('42', '\\frac12', None)
    """
    text = said(text)
    if re.search(r"\\(?:boxed|fbox)(?![A-Za-z])", text):
        return last_boxed(text) or None
    line = marked(text)
    if line is None:
        return None
    formulas = re.findall(r"(?<!\\)\$\$?((?:[^$\\]|\\.)+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", line)
    if len(formulas) == 1:
        return "".join(formulas[0]).strip() or None
    line = line.replace("**", "").strip(" \t`*_")
    return line.removesuffix(".").strip() or None
