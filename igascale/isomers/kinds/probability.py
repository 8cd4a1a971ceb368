"""Probability: one is picked from each of several places; what is the chance that all, or none, are of a sort?"""

from __future__ import annotations

import math
import random
from fractions import Fraction

from igascale.isomers.kinds.base import WIDEST, insert_at_random, listed, trait_code
from igascale.isomers.kinds.factual import Fact, Factual, Puzzle, Step, other_labels
from igascale.isomers.kinds.vocabulary import LABELS, TRAIT_PAIRS, Vocabulary

COUNTS = (2, 3, 4, 5)


STATEMENTS = {
    "mix": (
        "In {w.place} {0} there are {1} {2} and {3} {4} {w.nouns}.",
        "The {w.place} {0} has {1} {2} {w.nouns} and {3} {4} ones.",
        "Of the {w.nouns} in {w.place} {0}, {1} are {2} and {3} are {4}.",
        "There are {1} {2} {w.nouns} in {w.place} {0}, and {3} {4} ones.",
    )
}
QUESTIONS = {
    "all": (
        "One is picked at random from {1}. What is the chance that {2} {0}?",
        "Pick one at random from {1}. Find the chance that {2} {0}.",
        "From {1} comes one each, at random. How likely is it that {2} {0}?",
        "A random one is taken from {1}. As a fraction, what is the chance that {2} {0}?",
    )
}
QUESTIONS["none"] = QUESTIONS["all"]
LINES = {"first": "{0}: {1}.", "next": "{0}: {1}, so {2}."}


class Probability(Factual):
    """One factor a step; the answer is a fraction in lowest terms."""

    name = "probability"
    deepest = 4
    statements = STATEMENTS
    questions = QUESTIONS
    lines = LINES
    names = 0

    def widest(self, steps: int) -> int:
        """One name for each."""
        return WIDEST

    def values(self, fact: Fact, words: Vocabulary) -> list[str]:
        """The goal's places are a list."""
        spoken = [words.word(argument) for argument in fact[1:]]
        if fact[0] == "mix":
            return spoken
        picked = f"{words.place} {listed(spoken[1:])}"
        if len(spoken) == 2:
            return [spoken[0], picked, "it is" if fact[0] == "all" else "it is not"]
        return [spoken[0], f"each of {picked}", "all are" if fact[0] == "all" else "none are"]

    def draw(self, rng: random.Random, steps: int, width: int = 0) -> Puzzle:
        """A place per step, with two sorts in it; distractors are places that nothing is picked from."""
        pair, side = rng.randrange(TRAIT_PAIRS), rng.randrange(2)
        sorts = (trait_code((pair, side)), trait_code((pair, 1 - side)))  # asked about, and the other
        labels, name = rng.sample(LABELS, steps), rng.choice(("all", "none"))
        counts = [(rng.choice(COUNTS), rng.choice(COUNTS)) for _ in labels]
        facts = [_mix(rng, label, sorts, count) for label, count in zip(labels, counts)]
        chance = Fraction(1)
        taken: list[Step] = []
        for fact, (wanted, other) in zip(facts, counts):
            factor = Fraction(wanted if name == "all" else other, wanted + other)
            chance *= factor
            said = ("next", fact[1], str(factor), str(chance)) if taken else ("first", fact[1], str(factor))
            taken.append(Step(f"chance({','.join(labels[: len(taken) + 1])})={chance}", (fact,), said))
        order = list(facts)
        rng.shuffle(order)
        for label in other_labels(rng, facts, width):
            count = (rng.choice(COUNTS), rng.choice(COUNTS))
            insert_at_random(rng, order, [_mix(rng, label, sorts, count)])
        return Puzzle(tuple(order), (name, sorts[0], *labels), tuple(taken), str(chance))

    def most(self, steps: int) -> int:
        """Sorts, all or none, names and their order, counts in either order."""
        mixes = (2 * len(COUNTS) ** 2) ** steps
        return 2 * TRAIT_PAIRS * 2 * math.perm(len(LABELS), steps) * math.factorial(steps) * mixes


def _mix(rng: random.Random, label: str, sorts: tuple[str, str], counts: tuple[int, int]) -> Fact:
    parts = [(str(count), sort) for count, sort in zip(counts, sorts)]
    rng.shuffle(parts)
    return ("mix", label, *parts[0], *parts[1])
