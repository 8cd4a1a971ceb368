"""Where the nodes, edges and labels of a reasoning graph go when it is drawn: layers from the premises down to the goal.

The method of Sugiyama, Tagawa and Toda (1981): layers by longest path, edges cut at every layer they pass, the order in a
layer by barycenters, then coordinates. Each edge's label has a place of its own between two layers, so that nothing overlaps.
"""

from __future__ import annotations

import bisect
import itertools
import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter

from igascale.isomers.schema import Dag

FONT, SMALL = 12.0, 9.5  # sizes of a node's text and of the small labels, px
LINE = 15.0  # height of a line of text, px
_TEXT_WIDTH, _TEXT_LINES = 150.0, 5  # a node's text is broken at this width; what is longer ends with an ellipsis
_PAD_X, _PAD_Y = 14.0, 7.0  # between a node's text and its border
_LABEL_HEIGHT = 13.0
_GAP_X, _GAP_Y = 14.0, 18.0  # between neighbours of a layer, and between layers
_MARGIN = 6.0
_SWEEPS = 24
_NARROW, _WIDE = frozenset(" !'(),./:;I[]ijl|`"), frozenset("MWmw@%&GOQ")


@dataclass(frozen=True)
class Box:
    """A placed rectangle: centre and size in px, and the lines of text in it."""

    x: float
    y: float
    width: float
    height: float
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Route:
    """A placed edge: the places it passes from its source's border to its target's, and its label."""

    points: tuple[tuple[float, float], ...]
    label: Box


@dataclass(frozen=True)
class Layout:
    """A drawing, y downwards. `nodes` is by node id; `routes` is in the order of the graph's edges."""

    width: float
    height: float
    nodes: dict[str, Box]
    routes: tuple[Route, ...]


def layers_of(dag: Dag) -> dict[str, int]:
    """Node id -> layer, in an order in which sources precede targets: 0 for premises, every edge leads to a higher layer.

    A node is as high as its longest chain of premises allows; a premise stands right above the first node that uses it.
    """
    before: dict[str, list[str]] = {node.id: [] for node in dag.nodes}
    after: dict[str, list[str]] = {node.id: [] for node in dag.nodes}
    for edge in dag.edges:
        before[edge.target].append(edge.source)
        after[edge.source].append(edge.target)
    layers: dict[str, int] = {}
    for name in TopologicalSorter(before).static_order():
        layers[name] = 1 + max((layers[source] for source in before[name]), default=-1)
    for name, sources in before.items():
        if not sources and after[name]:
            layers[name] = min(layers[target] for target in after[name]) - 1
    place = {node.id: index for index, node in enumerate(dag.nodes)}
    return dict(sorted(layers.items(), key=lambda item: (item[1], place[item[0]])))


def lay_out(dag: Dag) -> Layout:
    """Place a graph's nodes, edges and labels; the same graph always gives the same drawing."""
    drawing = _Drawing(dag)
    drawing.order()
    drawing.place()
    drawing.straighten()
    return drawing.layout(dag)


def text_width(text: str, size: float) -> float:
    """An upper estimate of a text's width in px, in the sans-serif fonts of browsers, at a font size in px."""
    total = 0.0
    for character in text:
        if unicodedata.east_asian_width(character) in "WF":
            total += 1.1
        elif character in _NARROW:
            total += 0.36
        elif character in _WIDE or not character.isascii():
            total += 0.95
        else:
            total += 0.72 if character.isupper() else 0.61
    return total * size


def label_text(label: str) -> str:
    """An edge's label or a node's type as it is drawn: ``has property``."""
    return label.replace("_", " ").lower()


@dataclass
class _Item:
    """Something with a place in a rank: a node, an edge's label, or the place where an edge passes a rank."""

    rank: int
    width: float
    height: float
    is_node: bool = False
    lines: tuple[str, ...] = ()
    x: float = 0.0
    above: list[_Item] = field(default_factory=list)  # connected with it, in the rank before
    below: list[_Item] = field(default_factory=list)
    position: int = 0  # in its rank


class _Drawing:
    """Nodes are in even ranks, labels in odd ones; an edge has an item in every rank between its ends."""

    def __init__(self, dag: Dag) -> None:
        layers = layers_of(dag)
        texts = {node.id: (node.type, node.text) for node in dag.nodes}
        self.nodes = {name: _node(2 * layer, *texts[name]) for name, layer in layers.items()}
        self.chains: list[list[_Item]] = []
        self.label_of: list[_Item] = []
        self.ranks: list[list[_Item]] = [[] for _ in range(2 * max(layers.values(), default=0) + 1)]
        for item in self.nodes.values():
            self.ranks[item.rank].append(item)
        for edge in dag.edges:
            self._connect(self.nodes[edge.source], self.nodes[edge.target], label_text(edge.label))
        self._number()

    def _connect(self, source: _Item, target: _Item, text: str) -> None:
        middle = (source.rank + target.rank) // 2 | 1
        chain = [source]
        for rank in range(source.rank + 1, target.rank):
            width = text_width(text, SMALL) + 8 if rank == middle else 2.0
            item = _Item(rank, width, _LABEL_HEIGHT if rank % 2 else 0.0, lines=(text,) if rank == middle else ())
            self.ranks[rank].append(item)
            chain.append(item)
        chain.append(target)
        for upper, lower in itertools.pairwise(chain):
            upper.below.append(lower)
            lower.above.append(upper)
        self.chains.append(chain)
        self.label_of.append(chain[middle - source.rank])

    def _number(self) -> None:
        for rank in self.ranks:
            for position, item in enumerate(rank):
                item.position = position

    def order(self) -> None:
        """Sort each rank by the mean place of its neighbours, down and up in turn, and keep the order that crosses least."""
        best, fewest = [list(rank) for rank in self.ranks], self.crossings()
        for sweep in range(_SWEEPS):
            if not fewest:
                break
            down = sweep % 2 == 0
            for rank in self.ranks if down else reversed(self.ranks):
                rank.sort(key=_barycenter(down))
                self._number_one(rank)
            crossings = self.crossings()
            if crossings < fewest:
                best, fewest = [list(rank) for rank in self.ranks], crossings
        self.ranks = best
        self._number()

    def _number_one(self, rank: list[_Item]) -> None:
        for position, item in enumerate(rank):
            item.position = position

    def crossings(self) -> int:
        """How many pairs of edges cross between neighbouring ranks."""
        total = 0
        for rank in self.ranks[:-1]:
            ends: list[int] = []  # of the items to the left, in order
            for item in rank:
                own = [lower.position for lower in item.below]
                total += sum(len(ends) - bisect.bisect_right(ends, end) for end in own)
                for end in own:
                    bisect.insort(ends, end)
        return total

    def place(self) -> None:
        """Give every item its x: near its neighbours', as far as order and gaps allow."""
        for rank in self.ranks:
            offsets = _offsets(rank)
            for item, offset in zip(rank, offsets, strict=True):
                item.x = offset - offsets[-1] / 2
        for sweep in range(_SWEEPS):
            last = sweep >= _SWEEPS - 4
            for rank in self.ranks if sweep % 2 == 0 else reversed(self.ranks):
                wishes, weights = [], []
                for item in rank:
                    near = item.above + item.below if last else (item.above if sweep % 2 == 0 else item.below)
                    pulls = [_pull(item, other) for other in near]
                    total = sum(pulls)
                    wishes.append(sum(p * o.x for p, o in zip(pulls, near, strict=True)) / total if total else item.x)
                    weights.append(total or 0.1)
                for item, x in zip(rank, _closest(wishes, weights, _offsets(rank)), strict=True):
                    item.x = x

    def straighten(self) -> None:
        """Let every edge that passes layers run down as straight as the room between its neighbours allows."""
        for chain in self.chains:
            passed = chain[1:-1]
            while passed:
                left, right = self._room(passed[0])
                count = 1
                for item in passed[1:]:
                    low, high = self._room(item)
                    if max(left, low) > min(right, high):
                        break
                    left, right, count = max(left, low), min(right, high), count + 1
                wish = chain[-1].x if count == len(passed) else chain[0].x
                for item in passed[:count]:
                    item.x = min(max(wish, left), right)
                passed = passed[count:]

    def _room(self, item: _Item) -> tuple[float, float]:
        """From where to where an item may move without coming nearer to its neighbours than gaps allow."""
        rank, at = self.ranks[item.rank], item.position
        ends = [-math.inf, math.inf]
        for side, beside in ((0, at - 1), (1, at + 1)):
            if 0 <= beside < len(rank):
                apart = (rank[beside].width + item.width) / 2 + _GAP_X
                ends[side] = rank[beside].x + (apart if side == 0 else -apart)
        # Rounding may leave a little less than no room.
        return min(ends[0], item.x), max(ends[1], item.x)

    def layout(self, dag: Dag) -> Layout:
        """The finished drawing, moved to where its left and upper margins are."""
        items = [item for rank in self.ranks for item in rank]
        left = min((item.x - item.width / 2 for item in items), default=0.0) - _MARGIN
        tops, bottoms, height = [], [], _MARGIN
        for rank in self.ranks:
            tops.append(height)
            bottoms.append(height + max((item.height for item in rank), default=0.0))
            # Where edges go far to the side there is more room, so that they are not all flat on one line.
            far = max((abs(item.x - lower.x) for item in rank for lower in item.below), default=0.0)
            height = bottoms[-1] + _GAP_Y + min(0.06 * far, 1.5 * _GAP_Y)

        def box(item: _Item) -> Box:
            y = (tops[item.rank] + bottoms[item.rank]) / 2
            return Box(item.x - left, y, item.width, item.height, item.lines)

        leaving, entering = _ports(self.chains)
        routes = []
        for number, chain in enumerate(self.chains):
            source, target = box(chain[0]), box(chain[-1])
            start = leaving[number] - left
            points = [(start, source.y + source.height / 2), (start, bottoms[chain[0].rank])]
            for item in chain[1:-1]:
                points += [(item.x - left, tops[item.rank]), (item.x - left, bottoms[item.rank])]
            end = entering[number] - left
            points += [(end, tops[chain[-1].rank]), (end, target.y - target.height / 2)]
            routes.append(Route(tuple(points), box(self.label_of[number])))
        right = max((item.x + item.width / 2 for item in items), default=0.0)
        nodes = {node.id: box(self.nodes[node.id]) for node in dag.nodes}
        return Layout(right - left + _MARGIN, bottoms[-1] + _MARGIN, nodes, tuple(routes))


def _node(rank: int, kind: str, text: str) -> _Item:
    """A node with its type above its text, which is broken into lines."""
    lines = _broken(text)
    widest = max([text_width(line, FONT) for line in lines] + [text_width(kind, SMALL)])
    return _Item(rank, widest + 2 * _PAD_X, LINE * len(lines) + SMALL + 3 + 2 * _PAD_Y, True, tuple(lines))


def _broken(text: str) -> list[str]:
    """Break at blanks, or inside a word that is too long; at most so many lines, the last ending with an ellipsis."""
    lines = [""]
    for word in text.split():
        candidate = f"{lines[-1]} {word}".strip()
        if text_width(candidate, FONT) <= _TEXT_WIDTH:
            lines[-1] = candidate
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if text_width(lines[-1] + character, FONT) > _TEXT_WIDTH:
                lines.append("")
            lines[-1] += character
    if len(lines) > _TEXT_LINES:
        lines = [*lines[: _TEXT_LINES - 1], lines[_TEXT_LINES - 1][:-1] + "…"]
    return lines


def _barycenter(down: bool) -> Callable[[_Item], float]:
    def mean(item: _Item) -> float:
        near = item.above if down else item.below
        return sum(other.position for other in near) / len(near) if near else float(item.position)

    return mean


def _pull(item: _Item, other: _Item) -> float:
    """How much an item wants to stand where its neighbour does: edges that pass several layers should be straight."""
    return (1.0, 2.0, 8.0)[(not item.is_node) + (not other.is_node)]


def _offsets(rank: list[_Item]) -> list[float]:
    """The x of each item when the rank is packed as closely as gaps allow and begins at 0."""
    offsets = [0.0] * bool(rank)
    for one, other in itertools.pairwise(rank):
        offsets.append(offsets[-1] + (one.width + other.width) / 2 + _GAP_X)
    return offsets


def _closest(wishes: Sequence[float], weights: Sequence[float], offsets: Sequence[float]) -> list[float]:
    """The places nearest to the wishes (weighted squares) that keep `offsets` apart: isotonic regression."""
    blocks: list[tuple[float, float, int]] = []  # mean, weight, members; means ascend
    for wish, weight, offset in zip(wishes, weights, offsets, strict=True):
        mean, members = wish - offset, 1
        while blocks and blocks[-1][0] > mean:
            before, heavy, more = blocks.pop()
            mean, weight, members = (mean * weight + before * heavy) / (weight + heavy), weight + heavy, members + more
        blocks.append((mean, weight, members))
    return [m + o for m, o in zip((mean for mean, _, n in blocks for _ in range(n)), offsets, strict=True)]


def _ports(chains: list[list[_Item]]) -> tuple[list[float], list[float]]:
    """The x at which each edge leaves its source and enters its target: straight above or below where it goes, if it can."""
    leaving, entering = [0.0] * len(chains), [0.0] * len(chains)
    for end, beside, ports in ((0, 1, leaving), (-1, -2, entering)):
        at: dict[int, list[int]] = {}
        for number, chain in enumerate(chains):
            at.setdefault(id(chain[end]), []).append(number)
        for numbers in at.values():
            numbers.sort(key=lambda number: (chains[number][beside].x, number))
            node = chains[numbers[0]][end]
            reach = max(node.width / 2 - 18, 0.2 * node.width)  # the corners are cut or round
            apart = min(14.0, 2 * reach / max(1, len(numbers) - 1))
            wishes = [min(max(chains[number][beside].x - node.x, -reach), reach) for number in numbers]
            places = _closest(wishes, [1.0] * len(numbers), [apart * place for place in range(len(numbers))])
            for place, (number, shift) in enumerate(zip(numbers, places, strict=True)):
                low, high = apart * place - reach, reach - apart * (len(numbers) - 1 - place)
                ports[number] = node.x + max(min(shift, high), low)
    return leaving, entering
