"""Counting: how many have an attribute, on top of those counted before? One more case per step."""

from __future__ import annotations

import random
from dataclasses import dataclass

from igascale.isomers.kinds.base import DagBuilder, Telling, Trait, trait_code
from igascale.isomers.kinds.vocabulary import LABELS, TRAIT_PAIRS, Vocabulary
from igascale.isomers.schema import Dag


@dataclass(frozen=True)
class Puzzle:
    """`before` were counted already; `cases` are (label, trait) in the order told, one step each."""

    trait: Trait
    before: int
    cases: tuple[tuple[str, Trait], ...]

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

    def draw(self, rng: random.Random, steps: int) -> Puzzle:
        """Cases that have the attribute with probability 1/2; a start that keeps the count to one digit."""
        trait = (rng.randrange(TRAIT_PAIRS), rng.randrange(2))
        others = [(p, s) for p in range(TRAIT_PAIRS) for s in range(2) if (p, s) != trait]
        hits = [rng.random() < 0.5 for _ in range(steps)]
        cases = [(label, trait if hit else rng.choice(others)) for label, hit in zip(rng.sample(LABELS, steps), hits)]
        return Puzzle(trait, rng.randint(0, 9 - sum(hits)), tuple(cases))

    def dag(self, puzzle: Puzzle) -> Dag:
        """Facts ``before(t0a,3)`` and ``is(K,t0a)``; goal ``count(t0a)``."""
        builder = DagBuilder()
        code = trait_code(puzzle.trait)
        before = builder.fact("CONSTRAINT", f"before({code},{puzzle.before})")
        facts = [builder.fact("PROPOSITION", f"is({k},{trait_code(trait)})", [k]) for k, trait in puzzle.cases]
        for index, (_, _, count) in enumerate(puzzle.tally()):
            builder.step(f"count({code})={count}", [facts[index], *([] if index else [before])])
        return builder.build(f"count({code})")

    def tell(self, puzzle: Puzzle, words: Vocabulary, rng: random.Random) -> Telling:
        """Each step takes the next case and says the count so far."""
        trait = words.trait(puzzle.trait)
        cases = " ".join(f"{label} is {words.trait(each)}." for label, each in puzzle.cases)
        opening = rng.choice(
            (
                f"So far {puzzle.before} {words.nouns} were {trait}.",
                f"We had {puzzle.before} {trait} {words.nouns}.",
            )
        )
        question = rng.choice((f"How many {trait} {words.nouns} now?", f"Count all {words.nouns} that are {trait}."))
        tally = puzzle.tally()
        cot = "\n".join(f"{label} is {words.trait(each)}, so {count}." for label, each, count in tally)
        return Telling(f"{opening} {cases} {question}", cot, str(tally[-1][2]))
