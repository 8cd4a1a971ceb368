"""ReClor: four options, accuracy by letter; the labels of its test are hidden."""

from __future__ import annotations

from igascale.evaluation.benchmarks.base import BenchmarkItem
from igascale.evaluation.tasks._choice import MultipleChoice


class ReClorTask(MultipleChoice):
    """ReClor.

    Differs from the authors' code: theirs is a classifier over the options, which puts each into the blank of a question
    that has one (``_``). Here the question says what the blank is for.
    """

    name = "reclor"

    def prompt(self, item: BenchmarkItem) -> str:
        """As of any multiple choice; a question with a blank says so."""
        prompt = super().prompt(item)
        return prompt.replace("\n\nThink step by step.", _BLANK, 1) if item.meta.get("cloze") else prompt


_BLANK = "\n\nThe right option is the one that fills the blank (_). Think step by step."
