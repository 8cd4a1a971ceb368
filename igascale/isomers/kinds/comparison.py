"""Comparison: who, of those named, has the most or the fewest? Decided pair by pair."""

from __future__ import annotations

import random
from dataclasses import dataclass

from igascale.isomers.kinds.base import DagBuilder, Telling, listed
from igascale.isomers.kinds.vocabulary import LABELS, Vocabulary
from igascale.isomers.schema import Dag


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

    def draw(self, rng: random.Random, steps: int) -> Puzzle:
        """Distinct one-digit values for the candidates and one bystander."""
        labels = rng.sample(LABELS, steps + 2)
        values = tuple(zip(labels, rng.sample(range(10), steps + 2)))
        return Puzzle(values, tuple(rng.sample(labels, steps + 1)), rng.random() < 0.5)

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

    def tell(self, puzzle: Puzzle, words: Vocabulary, rng: random.Random) -> Telling:
        """Each step names both numbers before it says who wins."""
        superlative = "most" if puzzle.most else "fewest"
        question = rng.choice(
            (
                f"Of {listed(puzzle.asked)}, which {words.noun} {words.has} the {superlative} {words.units}?",
                f"Among {listed(puzzle.asked)}, find who {words.has} the {superlative} {words.units}.",
            )
        )
        facts = " ".join(f"{label} {words.has} {value}." for label, value in puzzle.values)
        value = dict(puzzle.values)
        rounds = puzzle.rounds()
        cot = "\n".join(
            f"{best} {value[best]} and {challenger} {value[challenger]}, so {winner}."
            for best, challenger, winner in rounds
        )
        return Telling(f"{facts} {question}", cot, rounds[-1][2])
