"""LogiQA 2.0: four options, accuracy by letter."""

from __future__ import annotations

from igascale.evaluation.tasks._choice import MultipleChoice


class LogiQA2Task(MultipleChoice):
    """LogiQA 2.0.

    Differs from lm-evaluation-harness: its ``logiqa2`` compares the likelihoods of the option texts, and writes nothing;
    its ``logieval`` has one example before the problem and reads the first character.
    """

    name = "logiqa2"
