"""Paraphrases: how many of its sentence patterns a telling may use, and choosing one of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from igascale.errors import UserError
from igascale.isomers.kinds.vocabulary import Vocabulary

FULL = 1_000  # more patterns than any sentence has


@dataclass(frozen=True)
class Wording:
    """At most so many patterns per statement and per question; the first ones are used first.

    The default leaves the texts of the first six kinds as they have always been.
    """

    statements: int = 1
    questions: int = 2

    @classmethod
    def parse(cls, text: str) -> Wording:
        """`--paraphrase`: a number of patterns for statements and questions alike, or ``full``.

        Raises:
            UserError: neither.
        """
        if text == "full":
            return cls(FULL, FULL)
        if not text.isdecimal() or int(text) < 1:
            raise UserError(f"paraphrase is '{text}'; give a number of sentence patterns from 1, or 'full'")
        return cls(int(text), int(text))


PLAIN = Wording()


@dataclass(frozen=True)
class Teller:
    """Puts values and a domain's words into one of several patterns: ``"{0} {w.above} {1}."``."""

    words: Vocabulary
    rng: random.Random
    wording: Wording = PLAIN

    def state(self, patterns: Sequence[str], *values: object) -> str:
        """A sentence that gives a fact. Where only one pattern may be used, nothing is drawn."""
        few = patterns[: self.wording.statements]
        return (few[0] if len(few) == 1 else self.rng.choice(few)).format(*values, w=self.words)

    def ask(self, patterns: Sequence[str], *values: object) -> str:
        """The sentence that asks."""
        return self.rng.choice(patterns[: self.wording.questions]).format(*values, w=self.words)
