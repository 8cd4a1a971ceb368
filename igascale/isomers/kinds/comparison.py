"""Comparison: who, of those named, has the most or the fewest? Decided pair by pair."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from igascale.isomers.kinds.base import WIDEST, DagBuilder, Telling, insert_at_random, listed
from igascale.isomers.kinds.vocabulary import LABELS, Vocabulary
from igascale.isomers.kinds.wording import PLAIN, Teller, Wording
from igascale.isomers.schema import Dag

FACTS = (
    "{0} {w.has} {1}.",
    "{0} {w.has} {1} {w.units}.",
    "It is {1} that {0} {w.has}.",
    "As for {0}, it {w.has} {1}.",
)
QUESTIONS = (
    "Of {0}, which {w.noun} {w.has} the {1} {w.units}?",
    "Among {0}, find who {w.has} the {1} {w.units}.",
    "Which of {0} {w.has} the {1} {w.units}?",
    "Compare {0}: whose number of {w.units} is the {1}?",
)


@dataclass(frozen=True)
class Puzzle:
    """`values` in the order told; `asked` are the candidates (steps + 1 of them) in the order asked about."""

    values: tuple[tuple[str, int], ...]
    asked: tuple[str, ...]
    most: bool

    def rounds(self) -> list[tuple[str, str, str]]:
        """(best so far, challenger, winner) of each pairwise comparison."""
        value = dict(self.values)
        best, rounds = self.asked[0], []
        for challenger in self.asked[1:]:
            wins = (value[challenger] > value[best]) == self.most
            rounds.append((best, challenger, challenger if wins else best))
            best = rounds[-1][2]
        return rounds


class Comparison:
    """Find the extreme of several numbers by single comparisons."""

    name = "comparison"
    deepest = 6

    def draw(self, rng: random.Random, steps: int, width: int = 0) -> Puzzle:
        """Distinct one-digit values for the candidates and one bystander."""
        labels = rng.sample(LABELS, steps + 2)
        values = list(zip(labels, rng.sample(range(10), steps + 2)))
        asked, most = tuple(rng.sample(labels, steps + 1)), rng.random() < 0.5
        if width:
            others = rng.sample([label for label in LABELS if label not in labels], width)
            numbers = rng.sample([n for n in range(10) if n not in dict(values).values()], width)
            insert_at_random(rng, values, list(zip(others, numbers)))
        return Puzzle(tuple(values), asked, most)

    def widest(self, steps: int) -> int:
        """One name and one number for each."""
        return min(WIDEST, len(LABELS) - steps - 2)

    def most(self, steps: int) -> int:
        """Names, numbers, whom to ask about in which order, the most or the fewest."""
        return math.perm(len(LABELS), steps + 2) * math.perm(10, steps + 2) * math.factorial(steps + 2) * 2

    def dag(self, puzzle: Puzzle) -> Dag:
        """Facts ``value(K,7)``; goal ``most(K,B,T)`` or ``fewest(K,B,T)``."""
        builder = DagBuilder()
        nodes = {
            label: builder.fact("PROPOSITION", f"value({label},{value})", about=[label])
            for label, value in puzzle.values
        }
        goal = "most" if puzzle.most else "fewest"
        for best, challenger, winner in puzzle.rounds():
            builder.step(f"{goal}({best},{challenger})={winner}", [nodes[best], nodes[challenger]])
        return builder.build(f"{goal}({','.join(puzzle.asked)})", puzzle.asked)

    def tell(self, puzzle: Puzzle, words: Vocabulary, rng: random.Random, wording: Wording = PLAIN) -> Telling:
        """Each step names both numbers before it says who wins."""
        superlative = "most" if puzzle.most else "fewest"
        say = Teller(words, rng, wording)
        question = say.ask(QUESTIONS, listed(puzzle.asked), superlative)
        facts = " ".join(say.state(FACTS, *pair) for pair in puzzle.values)
        value = dict(puzzle.values)
        rounds = puzzle.rounds()
        cot = "\n".join(
            f"{best} {value[best]} and {challenger} {value[challenger]}, so {winner}."
            for best, challenger, winner in rounds
        )
        return Telling(f"{facts} {question}", cot, rounds[-1][2])
