"""Drawing a graph: everything is placed, nothing overlaps, every edge leads down, and it is the same drawing each time."""

import itertools

import networkx
import pytest
from hypothesis import given, settings

from igascale.isomers.inspection import dag_layout
from igascale.isomers.inspection.dag_layout import lay_out, layers_of
from igascale.isomers.schema import Dag, DagEdge, DagNode

from view_cases import chain, dags

NEAR = 1e-6  # px, of rounding


def apart(one, other):
    """Whether two boxes do not overlap."""
    wide = abs(one.x - other.x) >= (one.width + other.width) / 2 - NEAR
    return wide or abs(one.y - other.y) >= (one.height + other.height) / 2 - NEAR


def crosses(segment, box):
    """Whether the rectangle around a piece of an edge, in which its curve stays, enters a box."""
    (x1, y1), (x2, y2) = segment
    beside = max(x1, x2) <= box.x - box.width / 2 + NEAR or min(x1, x2) >= box.x + box.width / 2 - NEAR
    return not beside and max(y1, y2) > box.y - box.height / 2 + NEAR and min(y1, y2) < box.y + box.height / 2 - NEAR


@settings(max_examples=150, deadline=None)
@given(dags())
def test_nothing_is_lost_and_nothing_overlaps(dag):
    layout = lay_out(dag)
    assert list(layout.nodes) == [node.id for node in dag.nodes]
    assert len(layout.routes) == len(dag.edges)
    boxes = [*layout.nodes.values(), *(route.label for route in layout.routes)]
    for one, other in itertools.combinations(boxes, 2):
        assert apart(one, other)
    for box in boxes:
        assert box.width / 2 <= box.x <= layout.width - box.width / 2
        assert box.height / 2 <= box.y <= layout.height - box.height / 2


@settings(max_examples=150, deadline=None)
@given(dags())
def test_every_edge_leads_down_from_its_source_to_its_target_past_all_other_nodes(dag):
    layout = lay_out(dag)
    for edge, route in zip(dag.edges, layout.routes, strict=True):
        source, target = layout.nodes[edge.source], layout.nodes[edge.target]
        (x, y), *_, (end_x, end_y) = route.points
        assert y == pytest.approx(source.y + source.height / 2)
        assert end_y == pytest.approx(target.y - target.height / 2)
        assert abs(x - source.x) < source.width / 2
        assert abs(end_x - target.x) < target.width / 2
        heights = [y for _, y in route.points]
        assert all(lower > upper - NEAR for upper, lower in itertools.pairwise(heights))
        assert end_y > y
        assert y < route.label.y < end_y
        assert route.label.height >= dag_layout.SMALL
        assert any(x == pytest.approx(route.label.x) for x, _ in route.points)  # the label is on its line
        for segment in itertools.pairwise(route.points):
            assert not any(crosses(segment, box) for box in layout.nodes.values())


@settings(max_examples=30, deadline=None)
@given(dags())
def test_the_drawing_is_the_same_each_time(dag):
    assert lay_out(dag) == lay_out(dag)


@settings(max_examples=150, deadline=None)
@given(dags())
def test_layers_are_as_few_as_the_longest_chain_allows(dag):
    layers = layers_of(dag)
    graph = networkx.DiGraph([(edge.source, edge.target) for edge in dag.edges])
    longest = networkx.dag_longest_path_length(graph) if dag.edges else 0
    assert max(layers.values(), default=0) == longest
    assert set(layers) == {node.id for node in dag.nodes}
    assert all(layers[edge.source] < layers[edge.target] for edge in dag.edges)
    order = list(layers)
    assert all(order.index(edge.source) < order.index(edge.target) for edge in dag.edges)


def test_a_graph_that_can_be_drawn_without_crossings_is():
    """Two chains whose nodes the file names crosswise."""
    nodes = tuple(DagNode(name, "PROPOSITION", name) for name in ("a0", "b0", "b1", "a1", "a2", "b2"))
    edges = [("a0", "a1"), ("a1", "a2"), ("b0", "b1"), ("b1", "b2")]
    layout = lay_out(Dag(nodes, tuple(DagEdge(*ends, "IMPLIES") for ends in edges)))
    sides = {name: layout.nodes[name].x < layout.nodes["b" + name[1]].x for name in ("a0", "a1", "a2")}
    assert len(set(sides.values())) == 1


def test_an_edge_that_passes_layers_is_straight_where_there_is_room():
    dag = chain(6)
    layout = lay_out(Dag(dag.nodes, (*dag.edges, DagEdge("n0", "n5", "REQUIRES"))))
    inner = [x for x, _ in layout.routes[-1].points[2:-2]]
    assert max(inner) - min(inner) < NEAR


def test_long_texts_are_broken_and_the_cut_is_shown():
    long = Dag((DagNode("n", "CONSTRAINT", "word " * 200),), ())
    box = lay_out(long).nodes["n"]
    assert box.lines[-1].endswith("…")
    assert len(box.lines) <= 5
    unbroken = lay_out(Dag((DagNode("n", "CONSTRAINT", "x" * 50),), ())).nodes["n"]
    assert "".join(unbroken.lines) == "x" * 50
    assert all(dag_layout.text_width(line, dag_layout.FONT) < box.width for line in (*box.lines, *unbroken.lines))
