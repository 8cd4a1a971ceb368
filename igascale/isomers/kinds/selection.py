"""Selection: which one has all the named attributes? Narrowed down one attribute at a time."""

from __future__ import annotations

import random
from dataclasses import dataclass

from igascale.isomers.kinds.base import DagBuilder, Telling, Trait, draw_traits, listed, trait_code
from igascale.isomers.kinds.vocabulary import LABELS, Vocabulary
from igascale.isomers.schema import Dag


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

    def draw(self, rng: random.Random, steps: int) -> Puzzle:
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
        return Puzzle(tuple(candidates), tuple(wanted))

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

    def tell(self, puzzle: Puzzle, words: Vocabulary, rng: random.Random) -> Telling:
        """Each step lists those left after one more attribute."""
        wanted = listed([words.trait(trait) for trait in puzzle.wanted])
        question = rng.choice((f"Which {words.noun} is {wanted}?", f"Find the {words.noun} that is {wanted}."))
        facts = " ".join(
            f"{label} is {listed([words.trait(trait) for trait in traits])}." for label, traits in puzzle.candidates
        )
        rounds = puzzle.rounds()
        cot = "\n".join(f"{words.trait(trait)}: {listed(left)}." for trait, left in rounds)
        return Telling(f"{facts} {question}", cot, rounds[-1][1][0])
