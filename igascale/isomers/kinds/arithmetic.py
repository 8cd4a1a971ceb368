"""Arithmetic: amounts are given relative to one another; one-digit sums lead to the one asked for."""

from __future__ import annotations

import random
from dataclasses import dataclass

from igascale.isomers.kinds.base import DagBuilder, Telling
from igascale.isomers.kinds.vocabulary import LABELS, Vocabulary
from igascale.isomers.schema import Dag

LARGEST_CHANGE = 4


@dataclass(frozen=True)
class Puzzle:
    """`chain` begins with the known amount, then one (label, change) per step; `told` orders the facts.

    Index i of `told` means the i-th link of the chain; -1 means the bystander's known amount.
    """

    start: tuple[str, int]
    bystander: tuple[str, int]
    chain: tuple[tuple[str, int], ...]
    told: tuple[int, ...]

    def sums(self) -> list[tuple[str, int, int, int]]:
        """(label, amount before, change, amount) of each step."""
        amount, sums = self.start[1], []
        for label, change in self.chain:
            sums.append((label, amount, change, amount + change))
            amount += change
        return sums


class Arithmetic:
    """Chain one-digit additions and subtractions."""

    name = "arithmetic"

    def draw(self, rng: random.Random, steps: int) -> Puzzle:
        """Changes of 1 to 4 that keep every amount within 0 to 9, and a bystander whose amount is no use."""
        labels = rng.sample(LABELS, steps + 2)
        start = amount = rng.randrange(10)
        chain = []
        for label in labels[2:]:
            after = rng.choice([a for a in range(10) if 0 < abs(a - amount) <= LARGEST_CHANGE])
            chain.append((label, after - amount))
            amount = after
        told = [*range(-1, steps + 1)]
        rng.shuffle(told)
        return Puzzle((labels[0], start), (labels[1], rng.randrange(10)), tuple(chain), tuple(told))

    def dag(self, puzzle: Puzzle) -> Dag:
        """Facts ``value(K,3)``, ``more(B,K,2)``, ``fewer(T,B,1)``; goal ``value(T)``."""
        builder = DagBuilder()
        labels = [puzzle.start[0], *(label for label, _ in puzzle.chain)]
        nodes: dict[int, str] = {}
        for index in puzzle.told:
            if index <= 0:
                label, value = puzzle.bystander if index < 0 else puzzle.start
                nodes[index] = builder.fact("PROPOSITION", f"value({label},{value})", [label])
            else:
                pair, change = (labels[index], labels[index - 1]), puzzle.chain[index - 1][1]
                name = "more" if change > 0 else "fewer"
                text = f"{name}({pair[0]},{pair[1]},{abs(change)})"
                nodes[index] = builder.fact("RELATION", text, pair)
        for index, (label, _, _, amount) in enumerate(puzzle.sums(), start=1):
            builder.step(f"value({label})={amount}", [nodes[index], *([nodes[0]] if index == 1 else [])])
        return builder.build(f"value({labels[-1]})", [labels[-1]])

    def tell(self, puzzle: Puzzle, words: Vocabulary, rng: random.Random) -> Telling:
        """Each step is one written sum."""
        labels = [puzzle.start[0], *(label for label, _ in puzzle.chain)]
        facts = []
        for index in puzzle.told:
            if index <= 0:
                label, value = puzzle.bystander if index < 0 else puzzle.start
                facts.append(f"{label} {words.has} {value}.")
            else:
                change = puzzle.chain[index - 1][1]
                than = f"{abs(change)} {'more' if change > 0 else 'fewer'} than {labels[index - 1]}"
                facts.append(f"{labels[index]} {words.has} {than}.")
        question = rng.choice(
            (
                f"How many {words.units} does {words.noun} {labels[-1]} {words.have}?",
                f"Find how many {words.units} {labels[-1]} {words.has}.",
            )
        )
        sums = puzzle.sums()
        cot = "\n".join(
            f"{label} {words.has} {before} {'+' if change > 0 else '-'} {abs(change)} = {after}."
            for label, before, change, after in sums
        )
        return Telling(f"{' '.join(facts)} {question}", cot, str(sums[-1][3]))
