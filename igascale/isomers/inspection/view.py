"""Groups in the terminal: the tellings side by side, and the reasoning graph under them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from itertools import zip_longest

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from igascale.isomers.inspection.dag_layout import layers_of
from igascale.isomers.inspection.side_by_side import Piece, Side, SideBySide, counted, lay_out, visible
from igascale.isomers.schema import Dag, IsomerGroup

OWN = "cyan"  # words that at least one other domain does not use
_NARROWEST = 30  # characters of a column; fewer, and the columns are stacked
_NARROW_DAG = 72  # characters; fewer, and the edges of a graph do not stand beside its nodes
_DEEPEST = 10  # layers of a graph that are indented
_NODE_STYLES = {
    "ENTITY": "blue",
    "RELATION": "magenta",
    "CONSTRAINT": "yellow",
    "PROPOSITION": "",
    "GOAL": "bold green",
}


def print_groups(console: Console, groups: Iterable[IsomerGroup], domains: Collection[str] = ()) -> int:
    """Print each group: its tellings side by side, what they share and where they part, and its graph as indented text.

    Words that not every domain uses are coloured; what is left is the logic that the tellings have in common.

    Args:
        console: where to; its width decides how many columns stand side by side.
        groups: the groups, printed as they come.
        domains: show only these; all when empty.

    Returns:
        How many groups were printed.
    """
    count = 0
    for group in groups:
        _print(console, group, lay_out(group, domains))
        count += 1
    return count


def _print(console: Console, group: IsomerGroup, sides: SideBySide) -> None:
    title = [Text(visible(group.id), "bold"), Text(f"seed {visible(group.seed_id)}")]
    title += [Text(visible(group.kind))] if group.kind is not None else []
    title += [Text(sides.alignment)] if sides.alignment else []
    console.print(Rule(Text(" · ").join(title), align="left"))
    for name, facts, style in (("the same", sides.shared, ""), ("NOT the same", sides.differs, "yellow")):
        if facts:
            console.print(Text.assemble((f"{name}: ", "bold"), (visible("; ".join(facts)), style)))
    if sides.common_words:
        hint = " (other words in colour)" if console.color_system is not None else ""
        words = visible(" ".join(sides.common_words))
        console.print(Text.assemble(("words in every domain: ", "bold"), words, (hint, "dim")))
    if sides.hidden:
        console.print(Text(f"not shown: {visible(', '.join(sides.hidden))}", "dim"))
    beside = max(1, console.width // _NARROWEST)
    rows = -(-len(sides.sides) // beside)  # as few rows as fit, of about the same length
    for row in range(rows):
        console.print(_columns(sides.sides[row * len(sides.sides) // rows : (row + 1) * len(sides.sides) // rows]))
    if group.dag is not None:
        _print_dag(console, group.dag)
    if sides.meta:
        meta = json.dumps(sides.meta, ensure_ascii=False)
        console.print(Text.assemble(("meta: ", "bold"), visible(meta)))
    console.print()


def _columns(sides: Sequence[Side]) -> Table:
    """The problem, each step and the answer in one row each, so that they can be compared across the domains."""
    table = Table(box=box.MINIMAL, expand=True, padding=(0, 1), pad_edge=False)
    for side in sides:
        score = Text(f"  aligned {side.score:.2f}", "dim") if side.score is not None else Text()
        table.add_column(Text.assemble((visible(side.domain), "bold"), score), ratio=1, overflow="fold")
    table.add_row(*(_text(side.problem) for side in sides), end_section=True)
    steps = list(zip_longest(*(side.steps for side in sides)))
    for number, row in enumerate(steps, start=1):
        cells = (Text.assemble((f"{number}. ", "dim"), _text(step)) if step is not None else Text() for step in row)
        table.add_row(*cells, end_section=number == len(steps))
    if not steps:
        table.add_row(*(Text("(no solution)", "dim") for _ in sides), end_section=True)
    table.add_row(*(Text.assemble(("Answer: ", "dim"), (side.answer, "bold")) for side in sides))
    return table


def _text(pieces: Iterable[Piece]) -> Text:
    return Text.assemble(*((text, OWN if own else "") for text, own in pieces))


def _print_dag(console: Console, dag: Dag) -> None:
    """A line a node, after the nodes it rests on and further right than they are, with the edges that lead to it."""
    layers = layers_of(dag)
    sizes = (len(dag.nodes), "node"), (len(dag.edges), "edge"), (max(layers.values(), default=-1) + 1, "layer")
    facts = ", ".join(counted(*size) for size in sizes)
    console.print(Text.assemble(("graph: ", "bold"), facts))
    if dag.logical_form is not None:
        console.print(Text.assemble(("  logical form: ", "bold"), visible(dag.logical_form)))
    nodes = {node.id: node for node in dag.nodes}
    narrow = console.width < _NARROW_DAG
    table = Table.grid(padding=(0, 2))
    for _ in range(3 if narrow else 4):
        table.add_column(overflow="fold")
    for name, layer in layers.items():
        node, edges = nodes[name], _edges_to(name, dag)
        first = (Text(visible(name), "bold"), Text(node.type, _NODE_STYLES[node.type]))
        indent = (0, 0, 0, (1 if narrow else 2) * min(layer, _DEEPEST))
        if narrow:  # the edges under the text, not beside it
            table.add_row(
                *first, Padding(Text("\n").join([Text(visible(node.text)), *([edges] if edges else [])]), indent)
            )
        else:
            table.add_row(*first, Padding(Text(visible(node.text)), indent), edges)
    console.print(Padding(table, (0, 0, 0, 2)))


def _edges_to(name: str, dag: Dag) -> Text:
    """The edges that lead to a node: each label, and the nodes it comes from."""
    sources: dict[str, list[str]] = {}
    for edge in dag.edges:
        if edge.target == name:
            sources.setdefault(edge.label, []).append(visible(edge.source))
    parts = (Text.assemble((label, "dim"), " ", " ".join(some)) for label, some in sources.items())
    return Text.assemble("← ", Text(" · ").join(parts)) if sources else Text()
