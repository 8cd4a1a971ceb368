"""What a task is: how a benchmark's problem is put to a model, and what an answer to it is worth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import ClassVar

from igascale.evaluation.answers import ANSWER_PREFIX
from igascale.evaluation.benchmarks.base import BenchmarkItem


class Task(ABC):
    """Zero-shot chain of thought on one benchmark.

    Attributes:
        name: of the benchmark.
        version: goes up whenever prompt, extraction or comparison change; stands in every result.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1

    @abstractmethod
    def prompt(self, item: BenchmarkItem) -> str:
        """The user's turn: the problem and how the answer must be given."""

    @abstractmethod
    def extract(self, text: str, item: BenchmarkItem) -> str | None:
        """The answer that a text gives; ``None``: it gives none, which is a parse failure and wrong."""

    @abstractmethod
    def is_correct(self, predicted: str | None, item: BenchmarkItem) -> bool:
        """Whether an extracted answer is right, by the reference scorer's semantics."""

    def left_out(self, item: BenchmarkItem) -> str | None:
        """Why no program can score this problem; ``None``: it can. Such problems are left out, counted and told."""
        if item.answer_kind == "proof":
            return "a proof, which no program here can judge"
        return "its answer is hidden" if item.answer is None else None

    def scorable(self, item: BenchmarkItem) -> bool:
        """Whether :meth:`left_out` has nothing against it."""
        return self.left_out(item) is None

    def chance(self, items: Sequence[BenchmarkItem]) -> float:
        """What always giving the most frequent answer would score on these problems.

        The most frequent one of each kind of answer, since a problem shows whether it asks for a letter or a number.
        Problems that are not :meth:`scorable` do not count; 0 without any.
        """
        by_kind: dict[str, Counter[str]] = defaultdict(Counter)
        for item in items:
            if self.scorable(item):
                by_kind[item.answer_kind][self.canonical(item)] += 1
        total = sum(counts.total() for counts in by_kind.values())
        return sum(max(counts.values()) for counts in by_kind.values()) / total if total else 0.0

    def canonical(self, item: BenchmarkItem) -> str:
        """The right answer in a spelling that equal answers share, as far as cheaply told; for :meth:`chance`."""
        assert item.answer is not None
        return item.answer


def with_instruction(problem: str, form: str, what: str) -> str:
    """A prompt: the problem, and the form of the last line, which is the one that extraction reads.

    Args:
        problem: its text.
        form: of the answer on that line, ``X`` for example.
        what: says what stands there: ``where X is the letter of the right option``.
    """
    return (
        f"{problem}\n\nThink step by step. Then end with a line of exactly this form, {what}:\n{ANSWER_PREFIX} {form}"
    )
