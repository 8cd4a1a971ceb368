"""Kinds whose problem is a list of facts, one sentence each: they draw facts, goal and steps; the rest is the same for all."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from igascale.isomers.kinds.base import WIDEST, DagBuilder, Telling, connected
from igascale.isomers.kinds.vocabulary import LABELS, Vocabulary
from igascale.isomers.kinds.wording import PLAIN, Teller, Wording
from igascale.isomers.schema import Dag

Fact = tuple[str, ...]  # ("above", "K", "B"): a predicate's name and its arguments


@dataclass(frozen=True)
class Step:
    """One step: what it finds, the facts it uses, and how it is said (the name of a line, and its values).

    `after` are the indices of the earlier steps it builds on; None is the step before it.
    """

    found: str
    uses: tuple[Fact, ...]
    said: Fact
    after: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Puzzle:
    """Facts in the order told, what is asked, and the way to the answer."""

    facts: tuple[Fact, ...]
    goal: Fact
    steps: tuple[Step, ...]
    answer: str


class Factual:
    """What such kinds share. A subclass has the tables and `draw`.

    Attributes:
        deepest: most steps.
        types: predicate -> node type, where it is not PROPOSITION.
        statements: predicate -> sentence patterns.
        questions: the goal's predicate -> sentence patterns.
        lines: name -> the pattern of a line of the solution.
        names: how many names a problem of so many steps takes, beyond its steps.
    """

    name: str
    deepest: int
    types: Mapping[str, str] = MappingProxyType({})
    statements: Mapping[str, Sequence[str]]
    questions: Mapping[str, Sequence[str]]
    lines: Mapping[str, str]
    names: int

    def widest(self, steps: int) -> int:
        """One name for each distractor."""
        return min(WIDEST, len(LABELS) - self.names - steps)

    def values(self, fact: Fact, words: Vocabulary) -> list[str]:
        """What goes into the patterns of a fact or a goal."""
        return [words.word(argument) for argument in fact[1:]]

    def dag(self, puzzle: Puzzle) -> Dag:
        """Facts, steps and goal as a graph in which everything hangs together."""
        builder = DagBuilder()
        nodes = {
            fact: builder.fact(self.types.get(fact[0], "PROPOSITION"), text_of(fact), labels_in(fact))
            for fact in puzzle.facts
        }
        steps: list[str] = []
        for step in puzzle.steps:
            after = None if step.after is None else [steps[index] for index in step.after]
            steps.append(builder.step(step.found, [nodes[fact] for fact in step.uses], after=after))
        return connected(builder.build(text_of(puzzle.goal), labels_in(puzzle.goal)))

    def tell(self, puzzle: Puzzle, words: Vocabulary, rng: random.Random, wording: Wording = PLAIN) -> Telling:
        """The facts in order, the question, and a line for each step."""
        say = Teller(words, rng, wording)
        question = say.ask(self.questions[puzzle.goal[0]], *self.values(puzzle.goal, words))
        facts = [say.state(self.statements[fact[0]], *self.values(fact, words)) for fact in puzzle.facts]
        lines = [
            self.lines[said[0]].format(*map(words.word, said[1:]), w=words) for said in (s.said for s in puzzle.steps)
        ]
        return Telling(" ".join([*facts, question]), "\n".join(lines), puzzle.answer)


def text_of(fact: Fact) -> str:
    """``above(K,B)``."""
    return f"{fact[0]}({','.join(fact[1:])})"


def labels_in(fact: Fact) -> list[str]:
    """The names a fact is about, each once."""
    return list(dict.fromkeys(argument for argument in fact[1:] if argument in LABELS))


def other_labels(rng: random.Random, facts: Sequence[Fact], count: int) -> list[str]:
    """`count` names that no fact is about."""
    known = {label for fact in facts for label in labels_in(fact)}
    return rng.sample([label for label in LABELS if label not in known], count)
