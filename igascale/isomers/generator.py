"""Generate isomer groups without a teacher: draw a DAG, solve it, tell it in every domain's words."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from igascale.errors import UserError
from igascale.isomers.kinds import KINDS, Telling, kind_of
from igascale.isomers.kinds.vocabulary import TRAINING_DOMAINS, vocabulary_of
from igascale.isomers.schema import Dag, Instance, IsomerGroup
from igascale.isomers.shortcut import Shortcut, plant
from igascale.isomers.solver import solve

STEPS = (2, 3)  # fewest and most reasoning steps of a problem
MOST_STEPS = 4
_RETELLINGS = 20  # draws of other words; every kind has at least two wordings
_ATTEMPTS = 200  # draws before we say that there are not enough different problems


def generate(
    num_groups: int,
    domains: Sequence[str] = TRAINING_DOMAINS,
    kinds: Sequence[str] = tuple(KINDS),
    seed: int = 0,
    shortcut: Shortcut | None = None,
    *,
    steps: tuple[int, int] = STEPS,
    exclude: Collection[str] = (),
    retold: bool = False,
) -> list[IsomerGroup]:
    """Make groups of isomers; the same arguments give the same groups on every machine.

    A group's DAG does not depend on `domains` or `shortcut`: more domains leave the others as they were.

    Args:
        num_groups: how many groups; kinds take turns.
        domains: domains each group is told in, in this order.
        kinds: reasoning kinds to draw from.
        seed: any whole number.
        shortcut: plant a cue before each problem.
        steps: fewest and most steps, within 1 to 4, drawn uniformly.
        exclude: logical forms that must not come up (those of a training set, say).
        retold: tell the same problems, with the same `seed_id`, under other ids and in other words.

    Returns:
        Groups with pairwise different logical forms.

    Raises:
        UserError: an unknown domain or kind, an impossible step range, or not enough different problems.
    """
    _check(num_groups, domains, kinds, steps)
    taken = set(exclude)
    groups = []
    for index in range(num_groups):
        draft = _draft(index, kinds[index % len(kinds)], seed, steps, taken)
        groups.append(_tell(draft, f"{seed}-{index:05d}", domains, retold))
    return plant(groups, shortcut) if shortcut is not None else groups


@dataclass(frozen=True)
class _Draft:
    """A problem before it is told: `puzzle` is what its kind drew."""

    kind: str
    puzzle: Any
    dag: Dag
    answer: str


def _check(num_groups: int, domains: Sequence[str], kinds: Sequence[str], steps: tuple[int, int]) -> None:
    if num_groups < 1:
        raise UserError(f"the number of groups must be at least 1, not {num_groups}")
    for name, values in (("domains", domains), ("kinds", kinds)):
        if not values:
            raise UserError(f"{name} is empty; name at least one")
        if len(set(values)) != len(values):
            raise UserError(f"{name} names one twice: {', '.join(values)}")
    for domain in domains:
        vocabulary_of(domain)
    for kind in kinds:
        kind_of(kind)
    if not 1 <= steps[0] <= steps[1] <= MOST_STEPS:
        raise UserError(f"steps must be a range within 1 to {MOST_STEPS}, not {steps[0]} to {steps[1]}")


def _draft(index: int, kind_name: str, seed: int, steps: tuple[int, int], taken: set[str]) -> _Draft:
    """Draw problems until one is new, and add it to `taken`."""
    kind = kind_of(kind_name)
    for attempt in range(_ATTEMPTS):
        rng = random.Random(f"igascale group {seed}/{index}/{attempt}")
        puzzle = kind.draw(rng, rng.randint(*steps))
        dag = kind.dag(puzzle)
        # Every predicate name tells its kind apart except `is`, so the kind belongs to the form.
        form = f"{kind_name}: {dag.logical_form}"
        if form not in taken:
            taken.add(form)
            return _Draft(kind_name, puzzle, dag, solve(kind_name, dag))
    raise UserError(
        f"found no new problem of kind '{kind_name}' in {_ATTEMPTS} draws for group {index}; "
        "ask for fewer groups, more kinds or more steps"
    )


def logical_form(group: IsomerGroup) -> str:
    """What makes a generated problem the same problem, in the form that `generate(exclude=...)` takes."""
    if group.dag is None:
        raise ValueError(f"group '{group.id}' has no DAG")
    return f"{group.kind}: {group.dag.logical_form}"


def _tell(draft: _Draft, seed_name: str, domains: Sequence[str], retold: bool) -> IsomerGroup:
    name = f"{seed_name}-again" if retold else seed_name
    instances = []
    for domain in domains:
        telling = _words(draft, f"{seed_name}/{domain}", domain)
        if retold:
            others = (_words(draft, f"{name}/{domain}/{attempt}", domain) for attempt in range(_RETELLINGS))
            telling = next((other for other in others if other.problem != telling.problem), telling)
        instances.append(Instance(domain, telling.problem, telling.cot, draft.answer, f"{name}/{domain}"))
    return IsomerGroup(id=name, seed_id=f"seed-{seed_name}", instances=tuple(instances), kind=draft.kind, dag=draft.dag)


def _words(draft: _Draft, name: str, domain: str) -> Telling:
    """The problem in the words that its name draws."""
    telling = kind_of(draft.kind).tell(draft.puzzle, vocabulary_of(domain), random.Random(f"igascale words {name}"))
    if telling.conclusion != draft.answer:
        raise RuntimeError(
            f"problem {name}: the steps told in {domain} end with {telling.conclusion}, the solver says {draft.answer}"
        )
    return telling
