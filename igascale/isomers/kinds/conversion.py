"""Unit conversion: so many of a large measure in small ones, or the other way round, by a chain of rates."""

from __future__ import annotations

import math
import random

from igascale.isomers.kinds.base import WIDEST, insert_at_random
from igascale.isomers.kinds.factual import Fact, Factual, Puzzle, Step, other_labels
from igascale.isomers.kinds.vocabulary import LABELS

MEASURES = 5
LARGEST_AMOUNT, LARGEST_RATE = 9, 5


TYPES = {"rate": "CONSTRAINT"}
STATEMENTS = {
    "rate": (
        "One {0} is {1} {2}s.",
        "Each {0} makes {1} {2}s.",
        "There are {1} {2}s to a {0}.",
        "It takes {1} {2}s to make one {0}.",
    ),
    "amount": (
        "{0} amounts to {1} {2}s.",
        "The {w.noun} {0} amounts to {1} {2}s.",
        "We put {0} at {1} {2}s.",
        "For {0} we count {1} {2}s.",
    ),
}
QUESTIONS = {
    "convert": (
        "How many {1}s is {0}?",
        "Give {0} in {1}s.",
        "To how many {1}s does {0} amount?",
        "Find the number of {1}s for {0}.",
    )
}
LINES = {"times": "{0} x {1} = {2} {3}s.", "by": "{0} / {1} = {2} {3}s."}


class Conversion(Factual):
    """One multiplication or exact division a step."""

    name = "conversion"
    deepest = MEASURES - 1
    types = TYPES
    statements = STATEMENTS
    questions = QUESTIONS
    lines = LINES
    names = 1

    def widest(self, steps: int) -> int:
        """One name for each distractor, and one for the subject."""
        return WIDEST

    def draw(self, rng: random.Random, steps: int, width: int = 0) -> Puzzle:
        """Down to the smallest of `steps` + 1 measures or up to the largest; distractors are others' amounts."""
        measures = [f"u{index}" for index in sorted(rng.sample(range(MEASURES), steps + 1))]
        rates = [rng.randint(2, LARGEST_RATE) for _ in range(steps)]
        down, large, subject = rng.random() < 0.5, rng.randint(2, LARGEST_AMOUNT), rng.choice(LABELS)
        links: list[Fact] = [("rate", a, str(n), b) for a, n, b in zip(measures, rates, measures[1:])]
        way = list(zip(links, rates, measures[1:] if down else measures[:-1]))
        number = large if down else large * math.prod(rates)
        amount: Fact = ("amount", subject, str(number), measures[0 if down else -1])
        taken: list[Step] = []
        for link, rate, measure in way if down else reversed(way):
            after = number * rate if down else number // rate
            said = ("times" if down else "by", str(number), str(rate), str(after), measure)
            uses = (*(() if taken else (amount,)), link)
            taken.append(Step(f"amount({subject},{measure})={after}", uses, said))
            number = after
        facts = [amount, *links]
        rng.shuffle(facts)
        for label in other_labels(rng, facts, width):
            extra = ("amount", label, str(rng.randint(2, 99)), rng.choice(measures))
            insert_at_random(rng, facts, [extra])
        goal = ("convert", subject, measures[-1 if down else 0])
        return Puzzle(tuple(facts), goal, tuple(taken), str(number))

    def most(self, steps: int) -> int:
        """Measures, rates, directions, amounts, the name, the order of the facts."""
        numbers = (LARGEST_RATE - 1) ** steps * (LARGEST_AMOUNT - 1) * 2
        return math.comb(MEASURES, steps + 1) * numbers * len(LABELS) * math.factorial(steps + 1)
