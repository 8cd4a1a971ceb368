"""Answers a generated DAG from its facts and goal alone: reading no prose and no step, it checks the renderer."""

from __future__ import annotations

import re
from collections.abc import Callable

from igascale.isomers import worlds
from igascale.isomers.schema import Dag
from igascale.isomers.worlds import Facts


def solve(kind: str, dag: Dag) -> str:
    """The answer of a DAG made by the generator.

    Raises:
        ValueError: the facts do not determine an answer of this kind.
    """
    derived = {edge.target for edge in dag.edges if edge.label == "IMPLIES"}
    facts = [_predicate(n.text) for n in dag.nodes if n.type not in ("ENTITY", "GOAL") and n.id not in derived]
    goals = [_predicate(node.text) for node in dag.nodes if node.type == "GOAL"]
    if len(goals) != 1:
        raise ValueError(f"expected one goal, found {len(goals)}")
    return _SOLVERS[kind](facts, *goals[0])


def _predicate(text: str) -> tuple[str, list[str]]:
    match = re.fullmatch(r"(\w+)\(([^()]*)\)", text)
    if match is None:
        raise ValueError(f"'{text}' is not a predicate such as above(K,B)")
    return match[1], match[2].split(",")


def _ordering(facts: Facts, name: str, goal: list[str]) -> str:
    at, distance = goal[0], int(goal[1])
    upper_of = {lower: upper for _, (upper, lower) in facts}
    lower_of = {upper: lower for _, (upper, lower) in facts}
    for _ in range(abs(distance)):
        at = (upper_of if distance > 0 else lower_of)[at]
    return at


def _comparison(facts: Facts, name: str, goal: list[str]) -> str:
    value = {label: int(number) for _, (label, number) in facts}
    return (max if name == "most" else min)(goal, key=value.__getitem__)


def _rules(facts: Facts, _: str, goal: list[str]) -> str:
    traits = {trait for name, (label, trait, *_) in facts if name == "is" and label == goal[0]}
    rules = [(int(args[0]), args[2]) for name, args in facts if name == "rule" and args[1] in traits]
    return max(rules)[1]


def _selection(facts: Facts, _: str, goal: list[str]) -> str:
    traits: dict[str, set[str]] = {}
    for _, (label, trait) in facts:
        traits.setdefault(label, set()).add(trait)
    (answer,) = [label for label, own in traits.items() if own.issuperset(goal)]
    return answer


def _counting(facts: Facts, _: str, goal: list[str]) -> str:
    before = sum(int(args[1]) for name, args in facts if name == "before" and args[0] == goal[0])
    return str(before + sum(name == "is" and args[1] == goal[0] for name, args in facts))


def _arithmetic(facts: Facts, _: str, goal: list[str]) -> str:
    value = {args[0]: int(args[1]) for name, args in facts if name == "value"}
    changes = [(name, args) for name, args in facts if name != "value"]
    while goal[0] not in value:
        known = len(value)
        for name, (label, other, change) in changes:
            if other in value:
                value[label] = value[other] + (int(change) if name == "more" else -int(change))
        if len(value) == known:
            raise ValueError(f"the facts do not determine {goal[0]}")
    return str(value[goal[0]])


_SOLVERS: dict[str, Callable[[Facts, str, list[str]], str]] = {
    "ordering": _ordering,
    "comparison": _comparison,
    "rules": _rules,
    "selection": _selection,
    "counting": _counting,
    "arithmetic": _arithmetic,
    **worlds.SOLVERS,
}
