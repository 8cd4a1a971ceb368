"""Deductive: everything in one group is in another, nothing in a third is; is K in the last one? Yes or no follows."""

from __future__ import annotations

import itertools
import math
import random

from igascale.isomers.kinds.base import insert_at_random
from igascale.isomers.kinds.factual import Fact, Factual, Puzzle, Step, other_labels
from igascale.isomers.kinds.vocabulary import LABELS

TYPES = {"sub": "CONSTRAINT", "apart": "CONSTRAINT"}
STATEMENTS = {
    "member": (
        "{0} belongs to group {1}.",
        "To group {1} belongs {0}.",
        "We know that {0} is in group {1}.",
        "The {w.noun} {0} is one of group {1}.",
    ),
    "sub": (
        "Every {w.noun} of group {0} belongs to group {1}.",
        "Whatever is in group {0} is in group {1}.",
        "To group {1} belongs all of group {0}.",
        "All {w.nouns} of group {0} are in group {1}.",
    ),
    "apart": (
        "No {w.noun} of group {0} belongs to group {1}.",
        "Nothing in group {0} is in group {1}.",
        "Group {1} excludes all of group {0}.",
        "None of the {w.nouns} of group {0} are in group {1}.",
    ),
}
QUESTIONS = {
    "in": (
        "Does {w.noun} {0} belong to group {1}?",
        "Say whether {w.noun} {0} belongs to group {1}.",
        "Is {w.noun} {0} in group {1}?",
        "Is the {w.noun} {0} one of group {1}?",
    )
}
LINES = {
    "in": "{0} is in {1}, so in {2}.",
    "yes": "{0} is in {1}, so in {2}: yes.",
    "no": "{0} is in {1}, so not in {2}: no.",
}


class Deductive(Factual):
    """A chain of syllogisms. The group asked about ends two chains, one by `sub` and one by `apart`; one of them is K's."""

    name = "deductive"
    deepest = 6
    types = TYPES
    statements = STATEMENTS
    questions = QUESTIONS
    lines = LINES
    names = 3

    def draw(self, rng: random.Random, steps: int, width: int = 0) -> Puzzle:
        """The subject's chain and the end of another; distractors lengthen that one, or are members of any group."""
        subject, other, last, *chain = rng.sample(LABELS, steps + 3)
        positive = rng.random() < 0.5
        ends = ("sub", "apart") if positive else ("apart", "sub")
        member = ("member", subject, chain[0])
        links: list[Fact] = [*(("sub", a, b) for a, b in itertools.pairwise(chain)), (ends[0], chain[-1], last)]
        facts = [member, *links, (ends[1], other, last)]
        rng.shuffle(facts)
        decoys = [other]
        for label in other_labels(rng, facts, width):
            if rng.random() < 0.5:
                extra: Fact = ("sub", label, rng.choice(decoys))
                decoys.append(label)
            else:
                extra = ("member", label, rng.choice([*decoys, *chain]))
            insert_at_random(rng, facts, [extra])
        answer = "yes" if positive else "no"
        taken = [
            Step(f"in({subject},{group})", (link,), ("in", subject, before, group))
            for link, before, group in zip(links, chain, chain[1:])
        ]
        taken.append(Step(f"in({subject},{last})={answer}", (links[-1],), (answer, subject, chain[-1], last)))
        first = Step(taken[0].found, (member, *taken[0].uses), taken[0].said)
        return Puzzle(tuple(facts), ("in", subject, last), (first, *taken[1:]), answer)

    def most(self, steps: int) -> int:
        """Names, the order of the facts, yes or no."""
        return math.perm(len(LABELS), steps + 3) * math.factorial(steps + 2) * 2
