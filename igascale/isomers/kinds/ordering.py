"""Ordering: neighbours in a ranking are given pairwise; who stands so many places above or below someone?"""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass

from igascale.isomers.kinds.base import WIDEST, DagBuilder, Telling, insert_at_random
from igascale.isomers.kinds.vocabulary import LABELS, NUMBER_WORDS, Vocabulary
from igascale.isomers.kinds.wording import PLAIN, Teller, Wording
from igascale.isomers.schema import Dag

FACTS = (
    "{0} {w.above} {1}.",
    "{1} {w.below} {0}.",
    "It is {0} that {w.above} {1}.",
    "We know that {1} {w.below} {0}.",
)
QUESTIONS = (
    "Which {w.noun} is {0} {1} from {2}?",
    "Find the {w.noun} {0} {1} from {2}.",
    "Go {0} {1} from {2}: which {w.noun} is there?",
    "Name the {w.noun} that stands {0} {1} from {2}.",
)


@dataclass(frozen=True)
class Puzzle:
    """`ranking` from top to bottom; `facts` are its neighbour pairs (upper, lower) in the order told."""

    ranking: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    start: str
    up: bool
    steps: int

    def hops(self) -> list[tuple[str, str]]:
        """The facts that lead from `start` to the answer, in order."""
        way = self.ranking[::-1] if self.up else self.ranking
        at = way.index(self.start)
        walked = way[at : at + self.steps + 1]
        pairs = itertools.pairwise(walked)
        return [(there, here) if self.up else (here, there) for here, there in pairs]


class Ordering:
    """Follow a chain of pairwise comparisons."""

    name = "ordering"
    deepest = 6

    def draw(self, rng: random.Random, steps: int, width: int = 0) -> Puzzle:
        """A ranking one longer than the walk needs, its facts shuffled."""
        ranking = tuple(rng.sample(LABELS, steps + 2))
        facts = list(itertools.pairwise(ranking))
        rng.shuffle(facts)
        up = rng.random() < 0.5
        at = rng.randrange(len(ranking) - steps) + (steps if up else 0)
        start = ranking[at]
        for label in rng.sample([label for label in LABELS if label not in ranking], width) if width else ():
            on_top = rng.random() < 0.5
            insert_at_random(rng, facts, [(label, ranking[0]) if on_top else (ranking[-1], label)])
            ranking = (label, *ranking) if on_top else (*ranking, label)
        return Puzzle(ranking, tuple(facts), start, up, steps)

    def widest(self, steps: int) -> int:
        """One name for each."""
        return min(WIDEST, len(LABELS) - steps - 2)

    def most(self, steps: int) -> int:
        """Rankings, orders of the facts, directions, places to start from."""
        return math.perm(len(LABELS), steps + 2) * math.factorial(steps + 1) * 2 * 2

    def dag(self, puzzle: Puzzle) -> Dag:
        """Facts ``above(K,B)``; goal ``place(B,+2)`` or ``place(B,-2)``."""
        builder = DagBuilder()
        nodes = {pair: builder.fact("RELATION", f"above({pair[0]},{pair[1]})", about=pair) for pair in puzzle.facts}
        sign = "+" if puzzle.up else "-"
        for count, (upper, lower) in enumerate(puzzle.hops(), start=1):
            reached = upper if puzzle.up else lower
            builder.step(f"place({puzzle.start},{sign}{count})={reached}", [nodes[upper, lower]])
        return builder.build(f"place({puzzle.start},{sign}{puzzle.steps})", [puzzle.start])

    def tell(self, puzzle: Puzzle, words: Vocabulary, rng: random.Random, wording: Wording = PLAIN) -> Telling:
        """Facts, then the question; each step begins with where the step before has ended."""
        say = Teller(words, rng, wording)
        question = say.ask(QUESTIONS, NUMBER_WORDS[puzzle.steps], "up" if puzzle.up else "down", puzzle.start)
        facts = " ".join(say.state(FACTS, *pair) for pair in puzzle.facts)
        hops = puzzle.hops()
        told = [(lower, words.below, upper) if puzzle.up else (upper, words.above, lower) for upper, lower in hops]
        cot = "\n".join(f"{here} {relation} {there}." for here, relation, there in told)
        return Telling(f"{facts} {question}", cot, told[-1][2])
