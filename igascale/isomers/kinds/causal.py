"""Causal chains: one event sets off another, one is kept from happening; does the last one happen?"""

from __future__ import annotations

import itertools
import math
import random

from igascale.isomers.kinds.base import insert_at_random
from igascale.isomers.kinds.factual import Fact, Factual, Puzzle, Step, other_labels
from igascale.isomers.kinds.vocabulary import LABELS

TYPES = {"causes": "RELATION"}
STATEMENTS = {
    "causes": (
        "{0} {w.causes} {1}.",
        "It is {0} that {w.causes} {1}.",
        "We know that {0} {w.causes} {1}.",
        "What {0} {w.causes} is {1}.",
    ),
    "happens": ("{0} happens.", "It is known that {0} happens.", "This time {0} does happen.", "Here {0} happens."),
    "prevented": (
        "{0} is prevented.",
        "It is known that {0} is prevented.",
        "This time {0} is kept from happening.",
        "Here {0} is prevented.",
    ),
}
QUESTIONS = {
    "does": (
        "Nothing else happens by itself, or if prevented. Does {0} happen?",
        "Nothing else happens by itself, and nothing that is prevented. Say whether {0} happens.",
        "Of all else, only what is brought about, and not prevented, happens. Is it so that {0} happens?",
        "All else needs something that brings it about and must not be prevented. Will {0} happen?",
    )
}
LINES = {
    "so": "{0} happens, so {1} does.",
    "stopped": "{0} happens, but {1} is prevented.",
    "not": "{0} does not happen, so {1} does not.",
    "so yes": "{0} happens, so {1} does: yes.",
    "stopped no": "{0} happens, but {1} is prevented: no.",
    "not no": "{0} does not happen, so {1} does not: no.",
}


class Causal(Factual):
    """Follow the chain. What is prevented lies on it, or on a side branch, where it makes no difference.

    Each has one event before it and one after: how often it is named does not tell them apart.
    """

    name = "causal"
    deepest = 6
    types = TYPES
    statements = STATEMENTS
    questions = QUESTIONS
    lines = LINES
    names = 3

    def draw(self, rng: random.Random, steps: int, width: int = 0) -> Puzzle:
        """A chain and a side branch of two. Distractors are more branches, or causes that do not happen."""
        side, tail, *chain = rng.sample(LABELS, steps + 3)
        positive = rng.random() < 0.5
        prevented: Fact = ("prevented", side if positive else chain[rng.randint(1, max(1, steps - 1))])
        links: list[Fact] = [("causes", *pair) for pair in itertools.pairwise(chain)]
        happens: Fact = ("happens", chain[0])
        facts = [*links, ("causes", rng.choice(chain[:-1]), side), ("causes", side, tail), happens, prevented]
        rng.shuffle(facts)
        events = [*chain, side, tail]
        for label in other_labels(rng, facts, width):
            pair = (label, rng.choice(events[1:])) if rng.random() < 0.5 else (rng.choice(events), label)
            insert_at_random(rng, facts, [("causes", *pair)])
        taken, alive = [], True
        for number, (link, event) in enumerate(zip(links, chain[1:]), start=1):
            stopped = prevented[1] == event
            said = "stopped" if stopped else "so" if alive else "not"
            alive = alive and not stopped
            last = f" {'yes' if alive else 'no'}" if number == steps else ""
            uses = (*((happens,) if number == 1 else ()), link, *((prevented,) if stopped else ()))
            taken.append(
                Step(f"does({event})={'yes' if alive else 'no'}", uses, (said + last, chain[number - 1], event))
            )
        return Puzzle(tuple(facts), ("does", chain[-1]), tuple(taken), "yes" if positive else "no")

    def most(self, steps: int) -> int:
        """Names, the order of the facts, where the branch is, what is prevented."""
        return math.perm(len(LABELS), steps + 3) * math.factorial(steps + 4) * steps * (1 + max(1, steps - 1))
