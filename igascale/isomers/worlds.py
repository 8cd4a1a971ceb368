"""Solvers of the further kinds by brute force: go through every world, keep those the facts allow, see what they agree on.

Nothing here knows how a problem was drawn. Where two worlds that the facts allow disagree about the answer, the facts do not
determine it, and a solver says so.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from fractions import Fraction

Facts = list[tuple[str, list[str]]]  # predicates: (name, arguments)
_HORIZON = 10_000  # minutes: no schedule takes as long


def _only(answers: Iterable[Hashable], asked: str) -> str:
    """The answer of all worlds."""
    different = set(answers)
    if len(different) != 1:
        raise ValueError(f"the facts allow {len(different)} answers about {asked}, not one")
    return str(different.pop())


def _named(facts: Facts, name: str) -> list[list[str]]:
    return [arguments for predicate, arguments in facts if predicate == name]


def deductive(facts: Facts, _: str, goal: list[str]) -> str:
    """Worlds: in which groups the subject is."""
    subject, asked = goal
    groups = sorted({group for name, pair in facts for group in (pair[1:] if name == "member" else pair)})
    inside = {group for label, group in _named(facts, "member") if label == subject}
    answers = []
    for bits in itertools.product((False, True), repeat=len(groups)):
        world = dict(zip(groups, bits))
        if (
            all(world[group] for group in inside)
            and all(world[b] or not world[a] for a, b in _named(facts, "sub"))
            and not any(world[a] and world[b] for a, b in _named(facts, "apart"))
        ):
            answers.append("yes" if world[asked] else "no")
    return _only(answers, asked)


def inductive(facts: Facts, _: str, goal: list[str]) -> str:
    """Worlds: which contrast decides, and where either side of it leads."""
    (contrasts,) = _named(facts, "either")
    cases = [(set(arguments[1:-1]), arguments[-1]) for arguments in _named(facts, "case")]
    new = next(set(traits) for label, *traits in _named(facts, "has") if label == goal[0])
    places = sorted({place for _, place in cases})
    answers, deciding = [], set()
    for contrast in contrasts:
        sides = (f"{contrast}a", f"{contrast}b")
        for ends in itertools.product(places, repeat=2):
            leads = dict(zip(sides, ends))
            if all(leads[side] == place for traits, place in cases for side in traits & set(sides)):
                answers += [leads[side] for side in new & set(sides)]
                deciding.add(contrast)
    if len(deciding) != 1:
        raise ValueError(f"{len(deciding)} contrasts fit the cases, not one")
    return _only(answers, goal[0])


def abductive(facts: Facts, _: str, goal: list[str]) -> str:
    """Worlds: which one cause is at work, with all its signs and no others."""
    seen = {sign for label, sign in _named(facts, "seen") if label == goal[0]}
    unseen = {sign for label, sign in _named(facts, "unseen") if label == goal[0]}
    possible = [cause for cause, *signs in _named(facts, "makes") if seen <= set(signs) and not unseen & set(signs)]
    return _only(possible, goal[0])


def sets(facts: Facts, _: str, goal: list[str]) -> str:
    """Worlds: which digit is the one left; each is followed through all operations by itself."""
    holds = {label: set(digits) for label, *digits in _named(facts, "holds")}
    left = []
    for digit in map(str, range(10)):
        there = digit in holds[goal[0]]
        for operation, other in zip(goal[1::2], goal[2::2]):
            also = digit in holds[other]
            there = {"keep": there and also, "add": there or also, "drop": there and not also}[operation]
        left += [digit] if there else []
    return _only(left, ",".join(goal))


def scheduling(facts: Facts, _: str, goal: list[str]) -> str:
    """The only world in which nothing idles: a clock that starts every job the minute that nothing holds it."""
    takes = {job: int(minutes) for job, minutes in _named(facts, "takes")}
    waits: dict[str, set[str]] = {job: set() for job in takes}
    for job, other in _named(facts, "after"):
        waits.setdefault(job, set()).add(other)
    ends: dict[str, int] = {}
    for minute in range(_HORIZON):
        done = {job for job, end in ends.items() if end <= minute}
        if goal[0] in done:
            return str(ends[goal[0]])
        ends |= {job: minute + takes[job] for job in takes if job not in ends and waits[job] <= done}
        if len(done) == len(ends):
            break  # nothing is going on and nothing can begin
    raise ValueError(f"the facts do not determine when {goal[0]} is done")


def causal(facts: Facts, _: str, goal: list[str]) -> str:
    """Worlds: which events happen; each does just when it is given or set off, and not prevented."""
    causes = _named(facts, "causes")
    given, prevented = ({event for (event,) in _named(facts, name)} for name in ("happens", "prevented"))
    events = sorted({event for pair in causes for event in pair} | given | prevented)
    sources = {event: [cause for cause, effect in causes if effect == event] for event in events}
    answers = []
    for bits in itertools.product((False, True), repeat=len(events)):
        world = dict(zip(events, bits))
        if all(
            world[event]
            == (event not in prevented and (event in given or any(world[cause] for cause in sources[event])))
            for event in events
        ):
            answers.append("yes" if world[goal[0]] else "no")
    return _only(answers, goal[0])


def conversion(facts: Facts, _: str, goal: list[str]) -> str:
    """All amounts that follow by any chain of rates, in either direction; the goal's measure must get one whole number."""
    subject, asked = goal
    amounts = {(measure, Fraction(number)) for label, number, measure in _named(facts, "amount") if label == subject}
    rates = [(large, Fraction(number), small) for large, number, small in _named(facts, "rate")]
    while True:
        more = {(small, n * rate) for measure, n in amounts for large, rate, small in rates if measure == large}
        more |= {(large, n / rate) for measure, n in amounts for large, rate, small in rates if measure == small}
        if more <= amounts:
            break
        amounts |= more
        if any(count > 1 for count in Counter(measure for measure, _ in amounts).values()):
            raise ValueError("the rates contradict each other")
    return _only([number for measure, number in amounts if measure == asked], asked)


def probability(facts: Facts, name: str, goal: list[str]) -> str:
    """Worlds: which single one is picked from each place; all are equally likely."""
    sort, *places = goal
    contents = {
        label: [one] * int(some) + [other] * int(rest) for label, some, one, rest, other in _named(facts, "mix")
    }
    picks = list(itertools.product(*(contents[place] for place in places)))
    wanted = [pick for pick in picks if all((each == sort) == (name == "all") for each in pick)]
    return str(Fraction(len(wanted), len(picks)))


def geometry(facts: Facts, name: str, goal: list[str]) -> str:
    """Everything's place from where the walk begins, by every fact and from either end of it."""
    ways = {"east": (1, 0), "west": (-1, 0), "north": (0, 1), "south": (0, -1)}
    places = {(goal[0], 0, 0)}
    for _ in facts:  # as often as the longest walk needs
        for direction, (there, here, blocks) in facts:
            x, y = (int(blocks) * way for way in ways[direction])
            places |= {(there, a + x, b + y) for label, a, b in places if label == here}
            places |= {(here, a - x, b - y) for label, a, b in places if label == there}
    return _only([abs(x) + abs(y) for label, x, y in places if label == goal[1]], goal[1])


SOLVERS: dict[str, Callable[[Facts, str, list[str]], str]] = {
    "deductive": deductive,
    "inductive": inductive,
    "abductive": abductive,
    "sets": sets,
    "scheduling": scheduling,
    "causal": causal,
    "conversion": conversion,
    "probability": probability,
    "geometry": geometry,
}
