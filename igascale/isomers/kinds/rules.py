"""Rules with exceptions: each later rule is an exception to those before it; where does K end up?"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from igascale.isomers.kinds.base import (
    WIDEST,
    DagBuilder,
    Telling,
    Trait,
    draw_traits,
    insert_at_random,
    listed,
    trait_code,
)
from igascale.isomers.kinds.vocabulary import LABELS, TRAIT_PAIRS, Vocabulary
from igascale.isomers.kinds.wording import PLAIN, Teller, Wording
from igascale.isomers.schema import Dag

RULES = ("{2} {0} means {1}.", "{2} {0} calls for {1}.", "{2} the {w.place} for {0} is {1}.")
CASES = ("{0} is {1}.", "We have {0}, which is {1}.", "The {w.noun} {0} is {1}.", "Now {0} is {1}.")
QUESTIONS = (
    "Which {w.place} is for {0}?",
    "Find the {w.place} for {0}.",
    "Where does {0} belong: which {w.place}?",
    "Name the {w.place} of {0}.",
)


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
    deepest = TRAIT_PAIRS

    def draw(self, rng: random.Random, steps: int, width: int = 0) -> Puzzle:
        """As many applicable rules as steps, and one that does not apply."""
        traits = draw_traits(rng, steps)
        every = [(pair, side) for pair in range(TRAIT_PAIRS) for side in range(2)]
        idle = rng.sample([trait for trait in every if trait not in traits], 1)
        ruled = traits + idle
        rng.shuffle(ruled)
        labels = rng.sample(LABELS, len(ruled) + 1)
        rng.shuffle(traits)
        rules = list(zip(ruled, labels[1:]))
        if width:
            free = [trait for trait in every if trait not in ruled]
            places = rng.sample([label for label in LABELS if label not in labels], width)
            insert_at_random(rng, rules, list(zip(rng.sample(free, width), places)))
        return Puzzle(labels[0], tuple(traits), tuple(rules))

    def widest(self, steps: int) -> int:
        """One adjective and one name for each."""
        return min(WIDEST, 2 * TRAIT_PAIRS - steps - 1, len(LABELS) - steps - 2)

    def most(self, steps: int) -> int:
        """Traits of the case in their order, the idle rule, the order of the rules, names."""
        traits = math.perm(TRAIT_PAIRS, steps) * 2**steps * (2 * TRAIT_PAIRS - steps)
        return traits * math.factorial(steps + 1) * math.perm(len(LABELS), steps + 2)

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

    def tell(self, puzzle: Puzzle, words: Vocabulary, rng: random.Random, wording: Wording = PLAIN) -> Telling:
        """The rules, the exceptions, the case; one step per rule that applies."""
        say = Teller(words, rng, wording)
        exception = rng.choice(("But", "Except"))
        rules = " ".join(
            say.state(RULES, words.trait(trait), place, exception if i else "Usually")
            for i, (trait, place) in enumerate(puzzle.rules)
        )
        case = say.state(CASES, puzzle.subject, listed([words.trait(trait) for trait in puzzle.traits]))
        question = say.ask(QUESTIONS, puzzle.subject)
        applied = puzzle.applied()
        cot = "\n".join(f"{words.trait(trait)} means {place}." for _, trait, place in applied)
        return Telling(f"{rules} {case} {question}", cot, applied[-1][2])
