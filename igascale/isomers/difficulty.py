"""How hard a problem is, read off its reasoning graph."""

from __future__ import annotations

from graphlib import TopologicalSorter

from igascale.isomers.schema import Dag


def depth_of(dag: Dag) -> int:
    """Steps on the longest line of reasoning: the longest path through nodes that something implies, the goal left out."""
    steps = _steps(dag)
    before: dict[str, set[str]] = {step: set() for step in steps}
    for edge in dag.edges:
        if edge.label == "IMPLIES" and edge.source in steps and edge.target in steps:
            before[edge.target].add(edge.source)
    depth: dict[str, int] = {}
    for step in TopologicalSorter(before).static_order():
        depth[step] = 1 + max((depth[other] for other in before[step]), default=0)
    return max(depth.values(), default=0)


def width_of(dag: Dag) -> int:
    """Facts that no step uses: what a solver has to look at and leave aside."""
    steps = _steps(dag)
    implying = {edge.source for edge in dag.edges if edge.label == "IMPLIES"}
    return sum(
        node.type not in ("ENTITY", "GOAL") and node.id not in steps and node.id not in implying for node in dag.nodes
    )


def _steps(dag: Dag) -> set[str]:
    goals = {node.id for node in dag.nodes if node.type == "GOAL"}
    return {edge.target for edge in dag.edges if edge.label == "IMPLIES"} - goals
