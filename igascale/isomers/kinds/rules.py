"""Rules with exceptions: each later rule is an exception to those before it; where does K end up?"""

from __future__ import annotations

import random
from dataclasses import dataclass

from igascale.isomers.kinds.base import DagBuilder, Telling, Trait, draw_traits, listed, trait_code
from igascale.isomers.kinds.vocabulary import LABELS, TRAIT_PAIRS, Vocabulary
from igascale.isomers.schema import Dag


@dataclass(frozen=True)
class Puzzle:
    """`rules` are (trait, place) in rising precedence; `traits` of the subject in the order told."""

    subject: str
    traits: tuple[Trait, ...]
    rules: tuple[tuple[Trait, str], ...]

    def applied(self) -> list[tuple[int, Trait, str]]:
        """(index, trait, place) of the rules that apply, in order; the last one stands."""
        return [(i, trait, place) for i, (trait, place) in enumerate(self.rules) if trait in self.traits]


class Rules:
    """Apply a general rule, then every exception that holds."""

    name = "rules"

    def draw(self, rng: random.Random, steps: int) -> Puzzle:
        """As many applicable rules as steps, and one that does not apply."""
        traits = draw_traits(rng, steps)
        every = [(pair, side) for pair in range(TRAIT_PAIRS) for side in range(2)]
        idle = rng.sample([trait for trait in every if trait not in traits], 1)
        ruled = traits + idle
        rng.shuffle(ruled)
        labels = rng.sample(LABELS, len(ruled) + 1)
        rng.shuffle(traits)
        return Puzzle(labels[0], tuple(traits), tuple(zip(ruled, labels[1:])))

    def dag(self, puzzle: Puzzle) -> Dag:
        """Facts ``rule(0,t1a,P)`` (higher numbers override lower) and ``is(K,t1a)``; goal ``place(K)``."""
        builder = DagBuilder()
        rules = [
            builder.fact("CONSTRAINT", f"rule({i},{trait_code(trait)},{place})", about=[place])
            for i, (trait, place) in enumerate(puzzle.rules)
        ]
        traits = {
            trait: builder.fact("PROPOSITION", f"is({puzzle.subject},{trait_code(trait)})", [puzzle.subject])
            for trait in puzzle.traits
        }
        for count, (i, trait, place) in enumerate(puzzle.applied()):
            builder.step(f"place({puzzle.subject})={place}", [rules[i], traits[trait]], rules[i] if count else None)
        return builder.build(f"place({puzzle.subject})", [puzzle.subject])

    def tell(self, puzzle: Puzzle, words: Vocabulary, rng: random.Random) -> Telling:
        """The rules, the exceptions, the case; one step per rule that applies."""
        exception = rng.choice(("But", "Except"))
        rules = " ".join(
            f"{exception if i else 'Usually'} {words.trait(trait)} means {place}."
            for i, (trait, place) in enumerate(puzzle.rules)
        )
        case = f"{puzzle.subject} is {listed([words.trait(trait) for trait in puzzle.traits])}."
        question = rng.choice(
            (
                f"Which {words.place} is for {puzzle.subject}?",
                f"Find the {words.place} for {puzzle.subject}.",
            )
        )
        applied = puzzle.applied()
        cot = "\n".join(f"{words.trait(trait)} means {place}." for _, trait, place in applied)
        return Telling(f"{rules} {case} {question}", cot, applied[-1][2])
