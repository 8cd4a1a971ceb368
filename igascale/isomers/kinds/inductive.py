"""Inductive: from cases with known outcomes, find the one contrast that decides, and apply it to a new case."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

from igascale.isomers.kinds.base import WIDEST, insert_at_random, listed, trait_code
from igascale.isomers.kinds.factual import Fact, Factual, Puzzle, Step
from igascale.isomers.kinds.vocabulary import LABELS, TRAIT_PAIRS, Vocabulary

CASES = {1: 2, 2: 2, 3: 4, 4: 4}  # by steps
Sides = tuple[int, ...]  # one of 0 and 1 for each contrast


TYPES = {"either": "CONSTRAINT"}
STATEMENTS = {
    "either": (
        "One contrast alone decides the {w.place}: {0}.",
        "The {w.place} depends on a single contrast, which is one of these: {0}.",
        "Only one of these contrasts tells the {w.place}: {0}.",
    ),
    "case": (
        "Case {0} is {1} and has {w.place} {2}.",
        "In case {0}, {1} went with {w.place} {2}.",
        "The {w.place} of case {0}, which is {1}, is {2}.",
        "Case {0}: {1}, {w.place} {2}.",
    ),
    "has": ("{0} is {1}.", "Now {0} is {1}.", "The new {w.noun} {0} is {1}."),
}
QUESTIONS = {
    "place": (
        "Which {w.place} is for {0}?",
        "Find the {w.place} for {0}.",
        "Where does {0} belong: which {w.place}?",
        "Name the {w.place} of {0}.",
    )
}
LINES = {
    "out": "cases {0} and {1} are {2} but differ.",
    "place": "{0} decides, as in case {1}, so {2}.",
}


class Inductive(Factual):
    """Every contrast but one is ruled out by two cases that are alike in it and ended in different places."""

    name = "inductive"
    deepest = TRAIT_PAIRS
    types = TYPES
    statements = STATEMENTS
    questions = QUESTIONS
    lines = LINES
    names = 3

    def widest(self, steps: int) -> int:
        """Cases have numbers, not names."""
        return WIDEST

    def values(self, fact: Fact, words: Vocabulary) -> list[str]:
        """A fact ends with a list of traits (`has`), or has one in its middle (`case`)."""
        spoken = [words.word(argument) for argument in fact[1:]]
        if fact[0] == "either":
            return ["; ".join(" or ".join(words.traits[int(pair[1])]) for pair in fact[1:])]
        if fact[0] == "case":
            return [spoken[0], listed(spoken[1:-1]), spoken[-1]]
        return [spoken[0], listed(spoken[1:])] if fact[0] == "has" else spoken

    def draw(self, rng: random.Random, steps: int, width: int = 0) -> Puzzle:
        """As many contrasts as steps. The new case is like none before, where there are enough different ones.

        Both places have equally many cases, and so have the cases left over: what is new leads to either alike.
        """
        pairs = rng.sample(range(TRAIT_PAIRS), steps)
        subject, *places = rng.sample(LABELS, 3)
        decisive = rng.randrange(steps)
        every = list(itertools.product(range(2), repeat=steps))
        while True:
            told = rng.sample(every, CASES[steps])
            balanced = 2 * sum(sides[decisive] for sides in told) == len(told)
            if balanced and all(i == decisive or _ruling_out(told, i, decisive) for i in range(steps)):
                break
        new = rng.choice([sides for sides in every if sides not in told] or every)
        cases = list(told)
        insert_at_random(rng, cases, [rng.choice(every) for _ in range(width)])

        def named(sides: Sides) -> tuple[str, ...]:
            return tuple(trait_code(trait) for trait in zip(pairs, sides))

        facts: list[Fact] = [
            ("case", str(number), *named(sides), places[sides[decisive]]) for number, sides in enumerate(cases, start=1)
        ]
        either: Fact = ("either", *(f"t{pair}" for pair in pairs))
        has: Fact = ("has", subject, *named(new))
        # A distractor may be the twin of a case; the first of the twins is the one used.
        taken = []
        left = [f"t{pair}" for pair in pairs]
        for i in range(steps):
            if i != decisive:
                one, two = _ruling_out(told, i, decisive)[0]
                a, b = sorted((cases.index(told[one]), cases.index(told[two])))
                left.remove(f"t{pairs[i]}")
                trait = trait_code((pairs[i], told[one][i]))
                said = ("out", str(a + 1), str(b + 1), trait)
                taken.append(Step(f"decides={'|'.join(left)}", (either, facts[a], facts[b]), said))
        like = cases.index(next(sides for sides in told if sides[decisive] == new[decisive]))
        answer = places[new[decisive]]
        said = ("place", trait_code((pairs[decisive], new[decisive])), str(like + 1), answer)
        taken.append(Step(f"place({subject})={answer}", (facts[like], has, *(() if taken else (either,))), said))
        return Puzzle((either, *facts, has), ("place", subject), tuple(taken), answer)

    def most(self, steps: int) -> int:
        """Names, contrasts in their order, which decides, the new case and the others in their order."""
        contrasts = math.perm(TRAIT_PAIRS, steps) * steps
        return math.perm(len(LABELS), 3) * contrasts * math.perm(2**steps, CASES[steps]) * 2**steps


def _ruling_out(cases: Sequence[Sides], contrast: int, decisive: int) -> list[tuple[int, int]]:
    """Pairs of cases that are alike in `contrast` and differ in what decides."""
    return [
        (one, two)
        for one, two in itertools.combinations(range(len(cases)), 2)
        if cases[one][contrast] == cases[two][contrast] and cases[one][decisive] != cases[two][decisive]
    ]
