"""Ordering: neighbours in a ranking are given pairwise; who stands so many places above or below someone?"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

from igascale.isomers.kinds.base import DagBuilder, Telling
from igascale.isomers.kinds.vocabulary import LABELS, NUMBER_WORDS, Vocabulary
from igascale.isomers.schema import Dag


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

    def draw(self, rng: random.Random, steps: int) -> Puzzle:
        """A ranking one longer than the walk needs, its facts shuffled."""
        ranking = tuple(rng.sample(LABELS, steps + 2))
        facts = list(itertools.pairwise(ranking))
        rng.shuffle(facts)
        up = rng.random() < 0.5
        at = rng.randrange(len(ranking) - steps) + (steps if up else 0)
        return Puzzle(ranking, tuple(facts), ranking[at], up, steps)

    def dag(self, puzzle: Puzzle) -> Dag:
        """Facts ``above(K,B)``; goal ``place(B,+2)`` or ``place(B,-2)``."""
        builder = DagBuilder()
        nodes = {pair: builder.fact("RELATION", f"above({pair[0]},{pair[1]})", about=pair) for pair in puzzle.facts}
        sign = "+" if puzzle.up else "-"
        for count, (upper, lower) in enumerate(puzzle.hops(), start=1):
            reached = upper if puzzle.up else lower
            builder.step(f"place({puzzle.start},{sign}{count})={reached}", [nodes[upper, lower]])
        return builder.build(f"place({puzzle.start},{sign}{puzzle.steps})", [puzzle.start])

    def tell(self, puzzle: Puzzle, words: Vocabulary, rng: random.Random) -> Telling:
        """Facts, then the question; each step begins with where the step before has ended."""
        places = f"{NUMBER_WORDS[puzzle.steps]} {'up' if puzzle.up else 'down'} from {puzzle.start}"
        question = rng.choice((f"Which {words.noun} is {places}?", f"Find the {words.noun} {places}."))
        facts = " ".join(f"{upper} {words.above} {lower}." for upper, lower in puzzle.facts)
        hops = puzzle.hops()
        told = [(lower, words.below, upper) if puzzle.up else (upper, words.above, lower) for upper, lower in hops]
        cot = "\n".join(f"{here} {relation} {there}." for here, relation, there in told)
        return Telling(f"{facts} {question}", cot, told[-1][2])
