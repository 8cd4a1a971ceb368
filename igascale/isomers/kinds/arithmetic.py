"""Arithmetic: amounts are given relative to one another; one-digit sums lead to the one asked for."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from igascale.isomers.kinds.base import WIDEST, DagBuilder, Telling, insert_at_random
from igascale.isomers.kinds.vocabulary import LABELS, Vocabulary
from igascale.isomers.kinds.wording import PLAIN, Teller, Wording
from igascale.isomers.schema import Dag

LARGEST_CHANGE = 4


AMOUNTS = (
    "{0} {w.has} {1}.",
    "{0} {w.has} {1} {w.units}.",
    "It is {1} that {0} {w.has}.",
    "As for {0}, it {w.has} {1}.",
)
CHANGES = (
    "{0} {w.has} {1} {2} than {3}.",
    "It is {1} {2} than {3} that {0} {w.has}.",
    "Against {3}, {0} {w.has} {1} {2}.",
)
QUESTIONS = (
    "How many {w.units} does {w.noun} {0} {w.have}?",
    "Find how many {w.units} {0} {w.has}.",
    "What number of {w.units} is it that {0} {w.has}?",
    "Tell how many {w.units} the {w.noun} {0} {w.has}.",
)


@dataclass(frozen=True)
class Puzzle:
    """`chain` begins with the known amount, then one (label, change) per step; `told` orders the facts.

    Index i of `told` means the i-th link of the chain; -1, -2 and so on mean the bystanders' known amounts.
    """

    start: tuple[str, int]
    bystanders: tuple[tuple[str, int], ...]
    chain: tuple[tuple[str, int], ...]
    told: tuple[int, ...]

    def known(self, index: int) -> tuple[str, int]:
        """(label, amount) of the start or a bystander, by its index in `told`."""
        return self.bystanders[-index - 1] if index < 0 else self.start

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
    deepest = 6

    def draw(self, rng: random.Random, steps: int, width: int = 0) -> Puzzle:
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
        bystanders = [(labels[1], rng.randrange(10))]
        for label in rng.sample([label for label in LABELS if label not in labels], width) if width else ():
            bystanders.append((label, rng.randrange(10)))
            insert_at_random(rng, told, [-len(bystanders)])
        return Puzzle((labels[0], start), tuple(bystanders), tuple(chain), tuple(told))

    def widest(self, steps: int) -> int:
        """One name for each."""
        return min(WIDEST, len(LABELS) - steps - 2)

    def most(self, steps: int) -> int:
        """Names, known amounts, changes (no more than eight of each), the order of the facts."""
        amounts = 10 * 10 * (2 * LARGEST_CHANGE) ** steps
        return math.perm(len(LABELS), steps + 2) * amounts * math.factorial(steps + 2)

    def dag(self, puzzle: Puzzle) -> Dag:
        """Facts ``value(K,3)``, ``more(B,K,2)``, ``fewer(T,B,1)``; goal ``value(T)``."""
        builder = DagBuilder()
        labels = [puzzle.start[0], *(label for label, _ in puzzle.chain)]
        nodes: dict[int, str] = {}
        for index in puzzle.told:
            if index <= 0:
                label, value = puzzle.known(index)
                nodes[index] = builder.fact("PROPOSITION", f"value({label},{value})", [label])
            else:
                pair, change = (labels[index], labels[index - 1]), puzzle.chain[index - 1][1]
                name = "more" if change > 0 else "fewer"
                text = f"{name}({pair[0]},{pair[1]},{abs(change)})"
                nodes[index] = builder.fact("RELATION", text, pair)
        for index, (label, _, _, amount) in enumerate(puzzle.sums(), start=1):
            builder.step(f"value({label})={amount}", [nodes[index], *([nodes[0]] if index == 1 else [])])
        return builder.build(f"value({labels[-1]})", [labels[-1]])

    def tell(self, puzzle: Puzzle, words: Vocabulary, rng: random.Random, wording: Wording = PLAIN) -> Telling:
        """Each step is one written sum."""
        labels = [puzzle.start[0], *(label for label, _ in puzzle.chain)]
        say, facts = Teller(words, rng, wording), []
        for index in puzzle.told:
            if index <= 0:
                facts.append(say.state(AMOUNTS, *puzzle.known(index)))
            else:
                change = puzzle.chain[index - 1][1]
                more = "more" if change > 0 else "fewer"
                facts.append(say.state(CHANGES, labels[index], abs(change), more, labels[index - 1]))
        question = say.ask(QUESTIONS, labels[-1])
        sums = puzzle.sums()
        cot = "\n".join(
            f"{label} {words.has} {before} {'+' if change > 0 else '-'} {abs(change)} = {after}."
            for label, before, change, after in sums
        )
        return Telling(f"{' '.join(facts)} {question}", cot, str(sums[-1][3]))
