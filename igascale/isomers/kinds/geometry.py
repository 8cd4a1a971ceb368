"""Geometry: things on a street grid, each so many blocks from another; how far apart are two of them?"""

from __future__ import annotations

import itertools
import math
import random

from igascale.isomers.kinds.base import insert_at_random
from igascale.isomers.kinds.factual import Fact, Factual, Puzzle, Step, other_labels
from igascale.isomers.kinds.vocabulary import LABELS

DIRECTIONS = {"east": (1, 0), "west": (-1, 0), "north": (0, 1), "south": (0, -1)}
OPPOSITE = {"east": "west", "west": "east", "north": "south", "south": "north"}
BLOCKS = (2, 3, 4, 5, 6)  # of one fact


TYPES = dict.fromkeys(DIRECTIONS, "RELATION")
STATEMENTS = {
    name: (
        f"{{0}} is {{2}} blocks {name} of {{1}}.",
        f"The {{w.noun}} {{0}} lies {{2}} blocks {name} of {{1}}.",
        f"Go {{2}} blocks {name} from {{1}} to reach {{0}}.",
        f"From {{1}}, {{0}} is {{2}} blocks {name}.",
    )
    for name in DIRECTIONS
}
QUESTIONS = {
    "apart": (
        "How many blocks apart are the {w.nouns} {0} and {1}, along the streets?",
        "Find the number of blocks from {w.noun} {0} to {1}, along the streets.",
        "Walking along the streets, how many blocks is it from {w.noun} {0} to {1}?",
        "How many blocks must one walk from {w.noun} {0} to {1}, by the shortest way along the streets?",
    )
}
LINES = {"at": "{0} is {1} east, {2} north.", "last": "{0} is {1} east, {2} north, so {3}."}


class Geometry(Factual):
    """Add up offsets, one a step; the answer is the number of blocks by street."""

    name = "geometry"
    deepest = 6
    types = TYPES
    statements = STATEMENTS
    questions = QUESTIONS
    lines = LINES
    names = 1

    def draw(self, rng: random.Random, steps: int, width: int = 0) -> Puzzle:
        """A walk of so many legs, each told from either end; distractors lie off the way."""
        way = rng.sample(LABELS, steps + 1)
        facts, taken, east, north = [], [], 0, 0
        for here, there in itertools.pairwise(way):
            direction, blocks = rng.choice(list(DIRECTIONS)), rng.choice(BLOCKS)
            east, north = east + blocks * DIRECTIONS[direction][0], north + blocks * DIRECTIONS[direction][1]
            fact = _told(rng, direction, there, here, blocks)
            facts.append(fact)
            said: Fact = ("at", there, str(east), str(north))
            found = f"at({there})={east}:{north}"
            if there == way[-1]:
                blocks = abs(east) + abs(north)
                found, said = f"apart({way[0]},{there})={blocks}", ("last", *said[1:], str(blocks))
            taken.append(Step(found, (fact,), said))
        rng.shuffle(facts)
        known = list(way)
        for label in other_labels(rng, facts, width):
            extra = _told(rng, rng.choice(list(DIRECTIONS)), label, rng.choice(known), rng.choice(BLOCKS))
            insert_at_random(rng, facts, [extra])
            known.append(label)
        return Puzzle(tuple(facts), ("apart", way[0], way[-1]), tuple(taken), taken[-1].said[-1])

    def most(self, steps: int) -> int:
        """Names, directions and blocks, from which end each is told, the order of the facts."""
        legs = (2 * len(DIRECTIONS) * len(BLOCKS)) ** steps
        return math.perm(len(LABELS), steps + 1) * legs * math.factorial(steps)


def _told(rng: random.Random, direction: str, there: str, here: str, blocks: int) -> Fact:
    if rng.random() < 0.5:
        return (direction, there, here, str(blocks))
    return (OPPOSITE[direction], here, there, str(blocks))
