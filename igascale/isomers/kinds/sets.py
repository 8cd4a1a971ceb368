"""Sets: keep what another set has too, add it, or drop it, until one element is left."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable

from igascale.isomers.kinds.base import insert_at_random, listed
from igascale.isomers.kinds.factual import Fact, Factual, Puzzle, Step, other_labels
from igascale.isomers.kinds.vocabulary import LABELS, Vocabulary

OPERATIONS: dict[str, Callable[[set[int], set[int]], set[int]]] = {
    "keep": set.intersection,
    "add": set.union,
    "drop": set.difference,
}
SAYINGS = {"keep": "keep only those that {0} {w.has} too", "add": "add those that {0} {w.has}", "drop": "drop those that {0} {w.has}"}  # fmt: skip


STATEMENTS = {
    "holds": (
        "{0} {w.has} {w.units} {1}.",
        "The {w.units} that {0} {w.has} are {1}.",
        "As for {0}, it {w.has} {1}.",
        "It is {1} that {0} {w.has}.",
    )
}
QUESTIONS = {
    "left": (
        "Take the {w.units} of {0}; {1}. Which one is left?",
        "Start with the {w.units} of {0}; {1}. Name the one left.",
        "Of the {w.units} that {0} {w.has}, {1}. What is the only one then?",
        "Look at what {0} {w.has}; {1}. Which number is left?",
    )
}
LINES = {"keep": "keep {0}: {1}.", "add": "add {0}: {1}.", "drop": "drop {0}: {1}."}


class Sets(Factual):
    """One operation a step, each of which changes what is there."""

    name = "sets"
    deepest = 6
    statements = STATEMENTS
    questions = QUESTIONS
    lines = LINES
    names = 1

    def values(self, fact: Fact, words: Vocabulary) -> list[str]:
        """The elements are a list; the goal's operations are one sentence."""
        if fact[0] == "holds":
            return [fact[1], listed(fact[2:])]
        parts = [SAYINGS[name].format(other, w=words) for name, other in zip(fact[2::2], fact[3::2])]
        return [fact[1], "; ".join(parts)]

    def draw(self, rng: random.Random, steps: int, width: int = 0) -> Puzzle:
        """Sets of two to four digits, redrawn until every operation changes something and one digit is left."""
        labels = rng.sample(LABELS, steps + 1)
        while True:
            sets = [_some_digits(rng) for _ in labels]
            names = [rng.choice(list(OPERATIONS)) for _ in range(steps)]
            found = [sets[0]]
            for name, other in zip(names, sets[1:]):
                found.append(OPERATIONS[name](found[-1], other))
            if all(after and after != before for before, after in itertools.pairwise(found)) and len(found[-1]) == 1:
                break
        facts = [_holds(label, digits) for label, digits in zip(labels, sets)]
        taken = [
            Step(
                f"left={'|'.join(map(str, sorted(after)))}",
                (facts[number], *(facts[:1] if number == 1 else ())),
                (name, labels[number], listed([str(digit) for digit in sorted(after)])),
            )
            for number, (name, after) in enumerate(zip(names, found[1:]), start=1)
        ]
        order = list(facts)
        rng.shuffle(order)
        others = other_labels(rng, facts, width)
        insert_at_random(rng, order, [_holds(label, _some_digits(rng)) for label in others])
        asked = [part for pair in zip(names, labels[1:]) for part in pair]
        return Puzzle(tuple(order), ("left", labels[0], *asked), tuple(taken), str(*found[-1]))

    def most(self, steps: int) -> int:
        """Names, their order, digits, operations."""
        digits = sum(math.comb(10, size) for size in (2, 3, 4))
        orders = math.factorial(steps + 1)
        return math.perm(len(LABELS), steps + 1) * orders * digits ** (steps + 1) * 3**steps


def _some_digits(rng: random.Random) -> set[int]:
    return set(rng.sample(range(10), rng.randint(2, 4)))


def _holds(label: str, digits: set[int]) -> Fact:
    return ("holds", label, *(str(digit) for digit in sorted(digits)))
