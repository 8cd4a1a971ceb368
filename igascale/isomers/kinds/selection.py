"""Selection: which one has all the named attributes? Narrowed down one attribute at a time."""

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

FACTS = ("{0} is {1}.", "We know that {0} is {1}.", "The {w.noun} {0} is {1}.", "As for {0}, it is {1}.")
QUESTIONS = (
    "Which {w.noun} is {0}?",
    "Find the {w.noun} that is {0}.",
    "Only one {w.noun} is {0}: which?",
    "Name the {w.noun} that is {0}.",
)


@dataclass(frozen=True)
class Puzzle:
    """`candidates` are (label, traits) in the order told; `wanted` has one trait per step."""

    candidates: tuple[tuple[str, tuple[Trait, ...]], ...]
    wanted: tuple[Trait, ...]

    def rounds(self) -> list[tuple[Trait, list[str]]]:
        """(trait, those left) after each attribute."""
        left, rounds = list(self.candidates), []
        for trait in self.wanted:
            left = [candidate for candidate in left if trait in candidate[1]]
            rounds.append((trait, [label for label, _ in left]))
        return rounds


class Selection:
    """Filter by several attributes until one is left."""

    name = "selection"
    deepest = TRAIT_PAIRS

    def draw(self, rng: random.Random, steps: int, width: int = 0) -> Puzzle:
        """Every attribute removes at least one candidate; the last leaves exactly one."""
        wanted = draw_traits(rng, steps)
        # How many wanted traits hold before the first that fails: each number from 0 to `steps` once (0 twice
        # for one step, lest there be only two), so that after k attributes steps - k + 1 candidates are left.
        depths = [*range(steps + 1), *([0] if steps == 1 else [])]
        rng.shuffle(depths)
        labels = rng.sample(LABELS, len(depths))
        order = rng.sample(range(steps), steps)
        candidates = []
        for label, depth in zip(labels, depths):
            traits = [self._side(trait, i, depth, rng) for i, trait in enumerate(wanted)]
            candidates.append((label, tuple(traits[i] for i in order)))
        for label in rng.sample([label for label in LABELS if label not in labels], width) if width else ():
            pair, side = rng.choice(wanted)
            insert_at_random(rng, candidates, [(label, ((pair, 1 - side),))])
        return Puzzle(tuple(candidates), tuple(wanted))

    def widest(self, steps: int) -> int:
        """One name for each."""
        return min(WIDEST, len(LABELS) - max(steps + 1, 3))

    def most(self, steps: int) -> int:
        """Traits in their order, the order they are told in, names, what each candidate may have."""
        candidates = max(steps + 1, 3)
        orders = math.factorial(steps) * math.factorial(candidates)
        free = 2 ** math.comb(steps, 2)  # sides after the first that fails
        return math.perm(TRAIT_PAIRS, steps) * 2**steps * orders * math.perm(len(LABELS), candidates) * free

    @staticmethod
    def _side(trait: Trait, index: int, depth: int, rng: random.Random) -> Trait:
        pair, side = trait
        if index < depth:
            return trait
        return (pair, 1 - side) if index == depth else (pair, rng.randrange(2))

    def dag(self, puzzle: Puzzle) -> Dag:
        """Facts ``is(K,t0a)``; goal ``which(t0a,t2b)``."""
        builder = DagBuilder()
        nodes = {
            (label, trait): builder.fact("PROPOSITION", f"is({label},{trait_code(trait)})", [label])
            for label, traits in puzzle.candidates
            for trait in traits
        }
        for count, (trait, left) in enumerate(puzzle.rounds(), start=1):
            codes = ",".join(trait_code(wanted) for wanted in puzzle.wanted[:count])
            builder.step(f"which({codes})={'|'.join(left)}", [nodes[label, trait] for label in left])
        return builder.build(f"which({','.join(trait_code(trait) for trait in puzzle.wanted)})")

    def tell(self, puzzle: Puzzle, words: Vocabulary, rng: random.Random, wording: Wording = PLAIN) -> Telling:
        """Each step lists those left after one more attribute."""
        say = Teller(words, rng, wording)
        question = say.ask(QUESTIONS, listed([words.trait(trait) for trait in puzzle.wanted]))
        facts = " ".join(
            say.state(FACTS, label, listed([words.trait(trait) for trait in traits]))
            for label, traits in puzzle.candidates
        )
        rounds = puzzle.rounds()
        cot = "\n".join(f"{words.trait(trait)}: {listed(left)}." for trait, left in rounds)
        return Telling(f"{facts} {question}", cot, rounds[-1][1][0])
