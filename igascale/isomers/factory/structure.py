"""Whether two solutions hang together in the same way, however many lines each takes to say it.

A solution is a list of steps; each names the earlier steps it uses. Two solutions have the same dependency structure when
their *reduced* graphs are isomorphic. Reduced means: a use that follows from other uses is dropped (transitive reduction),
and a step whose only user uses nothing else is one with that user (a thought told in two sentences). The number of lines is
another gate's concern, so `a, b from a` and `a, b from a, c from b` agree here.
"""

from __future__ import annotations

from collections.abc import Sequence

Uses = Sequence[Sequence[int]]  # of each step: the earlier steps it uses, counted from 1

_MOST_TRIALS = 100_000  # of the search for a mapping; solutions have a dozen steps and need a dozen


def first_fault(uses: Uses) -> str | None:
    """What is wrong with the numbers: a step may use earlier steps only, and each once."""
    for step, used in enumerate(uses, start=1):
        for number in used:
            if not 1 <= number < step:
                return f"step {step} depends on step {number}, which is not an earlier step"
        if len(set(used)) != len(used):
            return f"step {step} names a step it depends on twice"
    return None


def reduced(uses: Uses) -> list[frozenset[int]]:
    """The reduced graph: of each node, the earlier nodes it uses, counted from 0."""
    direct = _without_implied(uses)
    users = [0] * len(direct)
    for used in direct:
        for number in used:
            users[number] += 1
    head: list[int] = []  # the first step of the chain that a step belongs to
    for step, used in enumerate(direct):
        only = next(iter(used)) if len(used) == 1 else None
        head.append(head[only] if only is not None and users[only] == 1 else step)
    number_of = {step: number for number, step in enumerate(dict.fromkeys(head))}
    nodes: list[frozenset[int]] = []
    for step in number_of:  # a chain uses what its first step uses
        nodes.append(frozenset(number_of[head[used]] for used in direct[step]))
    return nodes


def same_structure(one: Uses, other: Uses) -> bool:
    """Whether the reduced graphs are isomorphic."""
    return _isomorphic(reduced(one), reduced(other))


def describe(uses: Uses) -> str:
    """The dependencies in words, for a message: ``1; 2; 3 from 1, 2``."""
    return "; ".join(
        f"{step} from {', '.join(map(str, sorted(used)))}" if used else str(step)
        for step, used in enumerate(uses, start=1)
    )


def _without_implied(uses: Uses) -> list[set[int]]:
    """Counted from 0, without uses that another use brings with it."""
    behind: list[set[int]] = []  # everything a step rests on
    direct = []
    for used in uses:
        numbers = {number - 1 for number in used}
        direct.append({number for number in numbers if not any(number in behind[other] for other in numbers)})
        behind.append(numbers.union(*(behind[number] for number in numbers)))
    return direct


def _isomorphic(one: list[frozenset[int]], other: list[frozenset[int]]) -> bool:
    if len(one) != len(other):
        return False
    colours = _colours(one, other)
    if sorted(colours[0]) != sorted(colours[1]):
        return False
    users = [_users(one), _users(other)]
    # Rare colours first: most nodes have one candidate.
    order = sorted(range(len(one)), key=lambda node: (colours[0].count(colours[0][node]), node))
    return _match(order, (one, other), users, colours)


def _match(
    order: list[int],
    graphs: tuple[list[frozenset[int]], list[frozenset[int]]],
    users: list[list[set[int]]],
    colours: list[list[int]],
) -> bool:
    """Depth-first search for a mapping of nodes that keeps colours and uses."""
    mapping: dict[int, int] = {}
    trials = 0

    def fits(node: int, image: int) -> bool:
        return all((a in graphs[0][node]) == (b in graphs[1][image]) for a, b in mapping.items()) and all(
            (a in users[0][node]) == (b in users[1][image]) for a, b in mapping.items()
        )

    def place(depth: int) -> bool:
        nonlocal trials
        if depth == len(order):
            return True
        node = order[depth]
        for image in range(len(order)):
            if image in mapping.values() or colours[1][image] != colours[0][node]:
                continue
            trials += 1
            if trials > _MOST_TRIALS:  # two large graphs that look alike everywhere; called different, which rejects
                return False
            if fits(node, image):
                mapping[node] = image
                if place(depth + 1):
                    return True
                del mapping[node]
        return False

    return place(0)


def _users(graph: list[frozenset[int]]) -> list[set[int]]:
    users: list[set[int]] = [set() for _ in graph]
    for node, used in enumerate(graph):
        for number in used:
            users[number].add(node)
    return users


def _colours(*graphs: list[frozenset[int]]) -> list[list[int]]:
    """Colours of the nodes by refinement: equal where the neighbourhoods look equal, in all graphs alike."""
    colours = [[0] * len(graph) for graph in graphs]
    users = [_users(graph) for graph in graphs]
    for _ in range(max(map(len, graphs), default=0)):
        names: dict[object, int] = {}
        colours = [
            [
                names.setdefault(
                    (
                        shades[node],
                        tuple(sorted(shades[n] for n in graph[node])),
                        tuple(sorted(shades[n] for n in used_by[node])),
                    ),
                    len(names),
                )
                for node in range(len(graph))
            ]
            for graph, shades, used_by in zip(graphs, colours, users)
        ]
    return colours
