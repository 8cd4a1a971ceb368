"""What every reasoning kind provides, and how its reasoning becomes a typed DAG."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from igascale.isomers.kinds.vocabulary import TRAIT_PAIRS, Vocabulary
from igascale.isomers.kinds.wording import PLAIN, Wording
from igascale.isomers.schema import Dag, DagEdge, DagNode

Trait = tuple[int, int]  # (pair, side) in Vocabulary.traits
Item = TypeVar("Item")
WIDEST = 4  # most distractors that can be asked for


@dataclass(frozen=True)
class Telling:
    """A puzzle in one domain's words. `conclusion` ends its steps: the solver must agree with it."""

    problem: str
    cot: str
    conclusion: str


class Kind(Protocol):
    """A reasoning kind: draws a puzzle without words, states it as a DAG, tells it in a domain's words."""

    name: str
    deepest: int  # most steps

    def draw(self, rng: random.Random, steps: int, width: int = 0) -> Any:
        """A random puzzle whose longest line of reasoning has exactly `steps` (1 to `deepest`) steps.

        `width` facts that no step needs are added to the puzzle that the same `rng` gives without them.
        """

    def widest(self, steps: int) -> int:
        """The largest `width` there are names for."""

    def most(self, steps: int) -> int:
        """A number of different puzzles of width 0 that is not exceeded."""

    def dag(self, puzzle: Any) -> Dag:
        """The puzzle's facts, steps and goal; facts and goal alone determine the answer."""

    def tell(self, puzzle: Any, words: Vocabulary, rng: random.Random, wording: Wording = PLAIN) -> Telling:
        """Problem and solution, one line of solution per step; `rng` chooses among the paraphrases of `wording`."""


class DagBuilder:
    """Collects nodes and edges; node texts are predicates such as ``above(K,B)`` in every domain."""

    def __init__(self) -> None:
        self._nodes: list[DagNode] = []
        self._edges: list[DagEdge] = []
        self._facts: list[str] = []
        self._entities: dict[str, str] = {}
        self._steps: list[str] = []

    def fact(self, node_type: str, text: str, about: Sequence[str] = ()) -> str:
        """A given fact or rule; the entities it is about point to it. Returns its node id."""
        sources = [self._entity(label) for label in about]
        node = self._add(f"f{len(self._facts)}", node_type, text)
        self._facts.append(text)
        self._edges += [DagEdge(source, node, "HAS_PROPERTY") for source in sources]
        return node

    def step(
        self,
        text: str,
        premises: Sequence[str],
        contradicted_by: str | None = None,
        after: Sequence[str] | None = None,
    ) -> str:
        """One reasoning step, implied by its premises and `after` (the step before). Returns its node id."""
        before = self._steps[-1:] if after is None else list(after)
        node = self._add(f"s{len(self._steps) + 1}", "PROPOSITION", text)
        self._steps.append(node)
        self._edges += [DagEdge(premise, node, "IMPLIES") for premise in [*premises, *before]]
        if contradicted_by is not None:
            self._edges.append(DagEdge(contradicted_by, before[0], "CONTRADICTS"))
        return node

    def build(self, goal: str, goal_about: Sequence[str] = ()) -> Dag:
        """Add the goal, implied by the last step, and close the graph."""
        sources = [self._entity(label) for label in goal_about]
        node = self._add("g", "GOAL", goal)
        self._edges += [DagEdge(source, node, "REQUIRES") for source in sources]
        self._edges.append(DagEdge(self._steps[-1], node, "IMPLIES"))
        return Dag(
            nodes=tuple(self._nodes),
            edges=tuple(self._edges),
            logical_form=f"{' & '.join(self._facts)} |- {goal}",
            steps=len(self._steps),
        )

    def _entity(self, label: str) -> str:
        if label not in self._entities:
            self._entities[label] = self._add(f"e{len(self._entities)}", "ENTITY", label)
        return self._entities[label]

    def _add(self, name: str, node_type: str, text: str) -> str:
        self._nodes.append(DagNode(name, node_type, text))
        return name


def connected(dag: Dag) -> Dag:
    """The graph with one more ENTITY, the class of all things in it, so that a bystander is no island."""
    about = {edge.target for edge in dag.edges if edge.label in ("HAS_PROPERTY", "IMPLIES")}
    edges = [DagEdge(node.id, "c", "IS_A") for node in dag.nodes if node.type == "ENTITY"]
    edges += [
        DagEdge("c", node.id, "HAS_PROPERTY")
        for node in dag.nodes
        if node.type not in ("ENTITY", "GOAL") and node.id not in about
    ]
    return replace(dag, nodes=(*dag.nodes, DagNode("c", "ENTITY", "thing")), edges=(*dag.edges, *edges))


def insert_at_random(rng: random.Random, items: list[Item], extras: Sequence[Item]) -> None:
    """Put each of `extras` at a random place among `items`, whose own order stays."""
    for extra in extras:
        items.insert(rng.randint(0, len(items)), extra)


def trait_code(trait: Trait) -> str:
    """The trait's name in DAG texts, for example ``t1b``."""
    return f"t{trait[0]}{'ab'[trait[1]]}"


def draw_traits(rng: random.Random, count: int) -> list[Trait]:
    """`count` compatible traits: one side each of different pairs."""
    return [(pair, rng.randrange(2)) for pair in rng.sample(range(TRAIT_PAIRS), count)]


def listed(words: Sequence[str]) -> str:
    """``K``, ``K and B``, ``K, B and T``."""
    if len(words) == 1:
        return words[0]
    return f"{', '.join(words[:-1])} and {words[-1]}"
