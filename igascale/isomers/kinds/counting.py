"""Counting: how many have an attribute, on top of those counted before? One more case per step."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from igascale.isomers.kinds.base import WIDEST, DagBuilder, Telling, Trait, trait_code
from igascale.isomers.kinds.vocabulary import LABELS, TRAIT_PAIRS, Vocabulary
from igascale.isomers.kinds.wording import PLAIN, Teller, Wording
from igascale.isomers.schema import Dag

BEFORE = (
    "So far {0} {w.nouns} were {1}.",
    "We had {0} {1} {w.nouns}.",
    "Up to now {0} {1} {w.nouns} were counted.",
    "There were {0} {w.nouns} that were {1}.",
)
CASES = ("{0} is {1}.", "Next, {0} is {1}.", "Then comes {0}, which is {1}.", "The {w.noun} {0} is {1}.")
QUESTIONS = (
    "How many {0} {w.nouns} now?",
    "Count all {w.nouns} that are {0}.",
    "How many {w.nouns} are {0} in all?",
    "Tell the number of {0} {w.nouns} now.",
)


@dataclass(frozen=True)
class Puzzle:
    """`before` were counted already; `cases` are (label, trait) in the order told, one step each.

    `others` are earlier counts of other traits, told first.
    """

    trait: Trait
    before: int
    cases: tuple[tuple[str, Trait], ...]
    others: tuple[tuple[Trait, int], ...] = ()

    def tally(self) -> list[tuple[str, Trait, int]]:
        """(label, trait, count so far) after each case."""
        count, tally = self.before, []
        for label, trait in self.cases:
            count += trait == self.trait
            tally.append((label, trait, count))
        return tally


class Counting:
    """Keep a running count over the cases."""

    name = "counting"
    deepest = 6

    def draw(self, rng: random.Random, steps: int, width: int = 0) -> Puzzle:
        """Cases that have the attribute with probability 1/2; a start that keeps the count to one digit."""
        trait = (rng.randrange(TRAIT_PAIRS), rng.randrange(2))
        others = [(p, s) for p in range(TRAIT_PAIRS) for s in range(2) if (p, s) != trait]
        hits = [rng.random() < 0.5 for _ in range(steps)]
        cases = [(label, trait if hit else rng.choice(others)) for label, hit in zip(rng.sample(LABELS, steps), hits)]
        before = rng.randint(0, 9 - sum(hits))
        counted = [(each, rng.randrange(10)) for each in rng.sample(others, width)] if width else []
        return Puzzle(trait, before, tuple(cases), tuple(counted))

    def widest(self, steps: int) -> int:
        """There are seven other adjectives."""
        return WIDEST

    def most(self, steps: int) -> int:
        """The trait, names, and for each number of hits: which cases, the others' traits, the count before."""
        each = sum(
            math.comb(steps, hits) * (2 * TRAIT_PAIRS - 1) ** (steps - hits) * (10 - hits) for hits in range(steps + 1)
        )
        return 2 * TRAIT_PAIRS * math.perm(len(LABELS), steps) * each

    def dag(self, puzzle: Puzzle) -> Dag:
        """Facts ``before(t0a,3)`` and ``is(K,t0a)``; goal ``count(t0a)``."""
        builder = DagBuilder()
        code = trait_code(puzzle.trait)
        for trait, number in puzzle.others:
            builder.fact("CONSTRAINT", f"before({trait_code(trait)},{number})")
        before = builder.fact("CONSTRAINT", f"before({code},{puzzle.before})")
        facts = [builder.fact("PROPOSITION", f"is({k},{trait_code(trait)})", [k]) for k, trait in puzzle.cases]
        for index, (_, _, count) in enumerate(puzzle.tally()):
            builder.step(f"count({code})={count}", [facts[index], *([] if index else [before])])
        return builder.build(f"count({code})")

    def tell(self, puzzle: Puzzle, words: Vocabulary, rng: random.Random, wording: Wording = PLAIN) -> Telling:
        """Each step takes the next case and says the count so far."""
        say = Teller(words, rng, wording)
        trait = words.trait(puzzle.trait)
        cases = " ".join(say.state(CASES, label, words.trait(each)) for label, each in puzzle.cases)
        # The openings have two patterns even in the plain wording.
        counts = [*((words.trait(each), number) for each, number in puzzle.others), (trait, puzzle.before)]
        opening = " ".join(say.ask(BEFORE, number, each) for each, number in counts)
        question = say.ask(QUESTIONS, trait)
        tally = puzzle.tally()
        cot = "\n".join(f"{label} is {words.trait(each)}, so {count}." for label, each, count in tally)
        return Telling(f"{opening} {cases} {question}", cot, str(tally[-1][2]))
