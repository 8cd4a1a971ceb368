"""Abductive: which one cause explains every sign that is seen, and none that is not?"""

from __future__ import annotations

import math
import random

from igascale.isomers.kinds.base import WIDEST, Trait, draw_traits, insert_at_random, listed, trait_code
from igascale.isomers.kinds.factual import Fact, Factual, Puzzle, Step, other_labels
from igascale.isomers.kinds.vocabulary import LABELS, TRAIT_PAIRS, Vocabulary

TYPES = {"makes": "CONSTRAINT"}
STATEMENTS = {
    "makes": (
        "Cause {0} makes a {w.noun} {1}.",
        "A {w.noun} with cause {0} is {1}.",
        "From cause {0} a {w.noun} becomes {1}.",
        "The effect of cause {0} is {1}.",
    ),
    "seen": ("{0} is {1}.", "We see that {0} is {1}.", "The {w.noun} {0} turned out {1}.", "As seen, {0} is {1}."),
    "unseen": (
        "{0} is not {1}.",
        "We see that {0} is not {1}.",
        "The {w.noun} {0} did not turn out {1}.",
        "As seen, {0} is not {1}.",
    ),
}
QUESTIONS = {
    "cause": (
        "A cause has all its signs and no others. Which one cause is behind {0}?",
        "Each cause shows all its signs and no others. Find the one cause behind {0}.",
        "A cause shows just these signs, and all of them. What is the one cause behind {0}?",
        "No cause has other signs or hides one. Name the one cause behind {0}.",
    )
}
LINES = {"left": "{0}: {1}.", "left not": "not {0}: {1}."}


class Abductive(Factual):
    """Each observation rules out at least one cause; the last leaves exactly one."""

    name = "abductive"
    deepest = TRAIT_PAIRS
    types = TYPES
    statements = STATEMENTS
    questions = QUESTIONS
    lines = LINES
    names = 2

    def widest(self, steps: int) -> int:
        """One name for each."""
        return min(WIDEST, len(LABELS) - 1 - max(steps + 1, 3))

    def values(self, fact: Fact, words: Vocabulary) -> list[str]:
        """The signs of a cause are a list."""
        spoken = [words.word(argument) for argument in fact[1:]]
        return [spoken[0], listed(spoken[1:])] if fact[0] == "makes" else spoken

    def draw(self, rng: random.Random, steps: int, width: int = 0) -> Puzzle:
        """As many observations as steps; a distractor is one more cause, ruled out by the first."""
        observed = draw_traits(rng, steps)
        present = [rng.random() < 0.5 for _ in observed]
        present[rng.randrange(steps)] = True
        # How many observations a cause agrees with before the first it does not: each number once (`Selection`).
        depths = [*range(steps + 1), *([0] if steps == 1 else [])]
        rng.shuffle(depths)
        subject, *causes = rng.sample(LABELS, len(depths) + 1)
        makes = {cause: _signs(rng, observed, present, depth) for cause, depth in zip(causes, depths)}
        facts: list[Fact] = [("makes", cause, *signs) for cause, signs in makes.items()]
        seen: list[Fact] = [
            ("seen" if there else "unseen", subject, trait_code(trait)) for trait, there in zip(observed, present)
        ]
        left, taken = list(causes), []
        for number, fact in enumerate(seen):
            uses = [each for each in facts if each[1] in left]
            left = [cause for cause, depth in zip(causes, depths) if depth > number]
            said = ("left" if present[number] else "left not", fact[2], listed(left))
            taken.append(Step(f"cause({subject})={'|'.join(left)}", (fact, *uses), said))
        for label in other_labels(rng, [*facts, *seen], width):
            insert_at_random(rng, facts, [("makes", label, *_signs(rng, observed, present, 0))])
        return Puzzle((*facts, *seen), ("cause", subject), tuple(taken), left[0])

    def most(self, steps: int) -> int:
        """Observations in their order, names, depths, and what each cause may have after the first that fails."""
        causes = max(steps + 1, 3)
        observations = math.perm(TRAIT_PAIRS, steps) * 2**steps * (2**steps - 1)
        free = 2 ** math.comb(steps, 2) * steps**causes
        return observations * math.perm(len(LABELS), causes + 1) * math.factorial(causes) * free


def _signs(rng: random.Random, observed: list[Trait], present: list[bool], depth: int) -> list[str]:
    """The signs of a cause that agrees with the first `depth` observations, not with the next, and at random after."""
    signs = []
    for number, (trait, there) in enumerate(zip(observed, present)):
        agrees = number < depth or (number > depth and rng.random() < 0.5)
        if agrees == there:
            signs.append(trait)
    if not signs:  # it fails at every sign that is seen: then it shows the opposite of one of them
        pair, side = rng.choice([trait for trait, there in zip(observed, present) if there])
        signs.append((pair, 1 - side))
    rng.shuffle(signs)
    return [trait_code(trait) for trait in signs]
