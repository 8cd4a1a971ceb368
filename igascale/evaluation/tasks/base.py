"""What a task is: how a benchmark's problem is put to a model, and what an answer to it is worth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

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

    def scorable(self, item: BenchmarkItem) -> bool:
        """Whether a program can tell; not so for proofs and hidden answers, which are left out, counted and told."""
        return item.answer is not None and item.answer_kind != "proof"

    @abstractmethod
    def chance(self, items: Sequence[BenchmarkItem]) -> float:
        """What always giving the most frequent answer would score on these problems."""
