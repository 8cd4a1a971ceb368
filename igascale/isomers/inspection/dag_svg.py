"""A reasoning graph as inline SVG: node types by shape, colour and name, edge labels in words."""

from __future__ import annotations

from html import escape

from igascale.isomers.inspection.dag_layout import FONT, LINE, SMALL, Box, Route, label_text, lay_out
from igascale.isomers.inspection.side_by_side import counted, visible
from igascale.isomers.schema import Dag, DagNode

_CUT = 9.0  # how far a hexagon's or an octagon's corners reach in, px
_ARROW = 6.0  # length of an arrow head, px


def draw(dag: Dag, name: str) -> str:
    """The graph as an ``<svg>`` element; colours come from the page's style sheet (classes ``n-goal``, ``e-implies``...).

    Args:
        dag: the graph.
        name: what the drawing shows, for readers who do not see it.
    """
    layout = lay_out(dag)
    parts = [_edge(route, edge.label) for route, edge in zip(layout.routes, dag.edges, strict=True)]
    parts += [_node(layout.nodes[node.id], node) for node in dag.nodes]
    width, height = _px(layout.width), _px(layout.height)
    label = f"{name}: a graph of {counted(len(dag.nodes), 'node')} and {counted(len(dag.edges), 'edge')}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{_escaped(label)}" '
        f'width="{width}" height="{height}" style="--width:{width}px" viewBox="0 0 {width} {height}">{"".join(parts)}</svg>'
    )


def drawn_node(kind: str) -> str:
    """The shape of a node type alone, for a legend."""
    shape = _shape(Box(13, 9, 24, 16, ()), kind)
    return f'<svg width="26" height="18" viewBox="0 0 26 18" aria-hidden="true"><g class="n n-{_class(kind)}">{shape}</g></svg>'


def edge_text(name: str, dag: Dag) -> str:
    """The edges that lead to a node, in words: each label, and the nodes it comes from."""
    sources: dict[str, list[str]] = {}
    for edge in dag.edges:
        if edge.target == name:
            sources.setdefault(edge.label, []).append(edge.source)
    return "; ".join(f"{label} {' '.join(some)}" for label, some in sources.items())


def _node(box: Box, node: DagNode) -> str:
    top = box.y - box.height / 2
    lines = [
        _text(box.x, top + 7 + SMALL - 1, label_text(node.type), "t"),
        *(
            _text(box.x, top + 7 + SMALL + 3 + LINE * index + FONT - 1, line, "w")
            for index, line in enumerate(box.lines)
        ),
    ]
    title = f"<title>{_escaped(f'{node.id} ({node.type}): {node.text}')}</title>"
    return f'<g class="n n-{_class(node.type)}">{title}{_shape(box, node.type)}{"".join(lines)}</g>'


def _shape(box: Box, kind: str) -> str:
    """Stadium, hexagon, octagon, rectangle, double rectangle: the types can be told apart without colour."""
    left, right, top, bottom = (
        box.x - box.width / 2,
        box.x + box.width / 2,
        box.y - box.height / 2,
        box.y + box.height / 2,
    )
    if kind in ("RELATION", "CONSTRAINT"):
        cut, y = min(_CUT, box.height / 3), box.y
        corners = (
            [(left, y), (left + cut, top), (right - cut, top), (right, y), (right - cut, bottom), (left + cut, bottom)]
            if kind == "RELATION"
            else [
                *[(left, top + cut), (left + cut, top), (right - cut, top), (right, top + cut)],
                *[(right, bottom - cut), (right - cut, bottom), (left + cut, bottom), (left, bottom - cut)],
            ]
        )
        return f'<polygon points="{" ".join(f"{_px(x)},{_px(y)}" for x, y in corners)}"/>'
    radius = {"ENTITY": min(box.height / 2, 17.0)}.get(kind, 2.0)
    outer = _rectangle(left, top, box.width, box.height, radius)
    return outer + (_rectangle(left + 3, top + 3, box.width - 6, box.height - 6, 1.0) if kind == "GOAL" else "")


def _rectangle(x: float, y: float, width: float, height: float, radius: float) -> str:
    return f'<rect x="{_px(x)}" y="{_px(y)}" width="{_px(width)}" height="{_px(height)}" rx="{_px(radius)}"/>'


def _edge(route: Route, label: str) -> str:
    """A line that is straight inside a layer and curved between two, an arrow head, and the label on the line."""
    start, *rest = route.points
    path = [f"M{_px(start[0])} {_px(start[1])}"]
    at = start
    for number, (x, y) in enumerate(rest, start=1):
        if number == len(rest):
            y -= _ARROW  # the line ends where the head begins
        if x == at[0]:
            path.append(f"V{_px(y)}")
        else:
            bend = (at[1] + y) / 2
            path.append(f"C{_px(at[0])} {_px(bend)} {_px(x)} {_px(bend)} {_px(x)} {_px(y)}")
        at = (x, y)
    x, y = route.points[-1]
    head = f"M{_px(x)} {_px(y)}l-3.5 -{_px(_ARROW)}h7z"
    box, text = route.label, label_text(label)
    plate = _rectangle(box.x - box.width / 2, box.y - box.height / 2, box.width, box.height, 3)
    return (
        f'<g class="e e-{_class(label)}"><path class="l" d="{"".join(path)}"/><path class="h" d="{head}"/>'
        f"{plate}{_text(box.x, box.y + SMALL / 3, text, 'a')}</g>"
    )


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text class="{style}" x="{_px(x)}" y="{_px(y)}">{_escaped(text)}</text>'


def _class(name: str) -> str:
    return name.lower().replace("_", "-")


def _escaped(text: str) -> str:
    return escape(visible(text))


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
