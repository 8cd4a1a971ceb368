"""Split groups by seed: all groups made from one seed land on the same side, and so do problems that are alike."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from igascale.errors import UserError
from igascale.isomers.leakage import check_categories, form_of, seeds_of
from igascale.isomers.normal import hash_of
from igascale.isomers.schema import IsomerGroup
from igascale.isomers.similarity import THRESHOLD, NearDuplicates, Sketch, sketch

TRAIN = "train"


def split_groups(
    groups: Sequence[IsomerGroup], validation_fraction: float, seed: int
) -> tuple[list[IsomerGroup], list[IsomerGroup]]:
    """Divide into (training, validation) so that no `seed_id` is on both sides; both keep the order of `groups`.

    For groups whose problems are known to differ, as the generator's; else :func:`divide`.

    Args:
        groups: the groups to divide.
        validation_fraction: share of the seeds (not of the groups) held out; at least one seed a side.
        seed: chooses which seeds; the choice does not depend on the order of `groups`.

    Raises:
        UserError: the fraction is not inside (0, 1), or there are fewer than two seeds.
    """
    if not 0.0 < validation_fraction < 1.0:
        raise UserError(f"validation_fraction must be above 0 and below 1, not {validation_fraction}")
    seeds = sorted({group.seed_id for group in groups})
    if len(seeds) < 2:
        raise UserError(f"a split by seed needs groups from at least two seeds, found {len(seeds)}")
    count = min(max(round(validation_fraction * len(seeds)), 1), len(seeds) - 1)
    held_out = set(random.Random(f"igascale split {seed}").sample(seeds, count))
    training = [group for group in groups if group.seed_id not in held_out]
    return training, [group for group in groups if group.seed_id in held_out]


@dataclass(frozen=True)
class Cost:
    """What keeping problems together that are alike has cost.

    Attributes:
        seeds: all seed problems.
        asked: part -> how many of them it was to hold.
        given: part -> how many it holds.
        tied: seeds that share a side with another one.
        clusters: in how many clusters those are.
        largest: seeds of the largest cluster.
        largest_holds: a few of them.
        ties: category -> how often two seeds were found alike and were not together yet.
    """

    seeds: int
    asked: dict[str, int]
    given: dict[str, int]
    tied: int
    clusters: int
    largest: int
    largest_holds: tuple[str, ...]
    ties: dict[str, int]


class Clusters:
    """Seeds that must share a side: union-find over seeds with an equal or a near-duplicate problem, or one logical form.

    Args:
        threshold: similarity from which problems are near-duplicates.
        ignore: categories (of :data:`igascale.isomers.leakage.CATEGORIES`) that tie nothing.
    """

    def __init__(self, threshold: float = THRESHOLD, ignore: Collection[str] = ()) -> None:
        check_categories(ignore)
        self.ignore = frozenset(ignore)
        self.ties: Counter[str] = Counter()
        self._parent: dict[str, str] = {}
        self._forms: dict[int, str] = {}
        self._problems: dict[int, str] = {}  # identity of a text -> the first seed that has it
        self._near: NearDuplicates[tuple[str, tuple[int, int]]] = NearDuplicates(threshold)  # (seed, Sketch.exact)

    def add(self, group: IsomerGroup) -> None:
        """Add a group, tying its seed to those that it resembles."""
        seed = group.seed_id
        for other in seeds_of(group):
            self._parent.setdefault(other, other)
            self._tie("seed", seed, other)
        form = form_of(group) if "form" not in self.ignore else None
        if form is not None:
            self._tie("form", seed, self._forms.setdefault(hash_of(form), seed))
        for instance in group.instances:
            self._add_problem(seed, sketch(instance.problem))

    def _add_problem(self, seed: str, item: Sketch) -> None:
        first = self._problems.setdefault(item.identity, seed)
        if "problem" not in self.ignore:
            self._tie("problem", seed, first)
        if "near" in self.ignore:
            return
        matches = self._near.matches(item)
        for (other, exact), _ in matches:
            if exact[0] != item.identity:
                self._tie("near", seed, other)
        if all(key != (seed, item.exact) for key, _ in matches):
            self._near.add((seed, item.exact), item)

    def members(self) -> list[list[str]]:
        """The clusters, each sorted, in the order of their first member."""
        found: dict[str, list[str]] = {}
        for seed in sorted(self._parent):
            found.setdefault(self._root(seed), []).append(seed)
        return list(found.values())

    def _tie(self, category: str, first: str, second: str) -> None:
        a, b = self._root(first), self._root(second)
        if a != b:
            self._parent[max(a, b)] = min(a, b)
            self.ties[category] += 1

    def _root(self, seed: str) -> str:
        while self._parent[seed] != seed:
            self._parent[seed] = self._parent[self._parent[seed]]
            seed = self._parent[seed]
        return seed


def divide(
    groups: Iterable[IsomerGroup],
    fractions: Mapping[str, float],
    seed: int,
    *,
    threshold: float = THRESHOLD,
    ignore: Collection[str] = (),
) -> tuple[dict[str, list[IsomerGroup]], Cost]:
    """Divide groups into ``train`` and the parts named; no seed, near-duplicate or logical form is in two of them.

    Args:
        groups: the groups; every part keeps their order.
        fractions: part -> share of the seeds.
        seed: chooses which.
        threshold: similarity from which problems are near-duplicates.
        ignore: see :class:`Clusters`.

    Returns:
        Part -> its groups, and what it has cost.

    Raises:
        UserError: as :func:`assign`.
    """
    groups = list(groups)
    clusters = Clusters(threshold, ignore)
    for group in groups:
        clusters.add(group)
    part_of, cost = assign(clusters, fractions, seed)
    parts: dict[str, list[IsomerGroup]] = {name: [] for name in (TRAIN, *fractions)}
    for group in groups:
        parts[part_of[group.seed_id]].append(group)
    return parts, cost


def assign(clusters: Clusters, fractions: Mapping[str, float], seed: int) -> tuple[dict[str, str], Cost]:
    """Choose a part for every seed.

    Clusters come in the order of a hash of their members and `seed`. Each part in turn takes those that still fit into
    the number of seeds it is to hold; the rest is for training. So neither the order of the groups matters nor how
    many there are of a seed, and a new seed moves few others.

    Args:
        clusters: of all groups.
        fractions: part -> share of the seeds, each above 0 and together below 1.
        seed: of the order.

    Returns:
        Seed -> part, and what it has cost.

    Raises:
        UserError: a fraction is out of range, or there are too few clusters for every part to have one.
    """
    check_fractions(fractions)
    members = clusters.members()
    number = sum(map(len, members))
    if len(members) <= len(fractions):
        raise UserError(_too_few(members, clusters, len(fractions) + 1))
    members.sort(key=lambda cluster: min((hash_of(f"igascale split {seed} {name}"), name) for name in cluster))
    asked = {name: max(1, round(fraction * number)) for name, fraction in fractions.items()}
    asked[TRAIN] = number - sum(asked.values())
    part_of: dict[str, str] = {}
    for name in fractions:
        room = asked[name]
        for cluster in members:
            if cluster[0] not in part_of and len(cluster) <= room:
                part_of.update(dict.fromkeys(cluster, name))
                room -= len(cluster)
    for cluster in members:
        for one in cluster:
            part_of.setdefault(one, TRAIN)
    given = Counter(part_of.values())
    for name in (TRAIN, *fractions):
        if not given[name]:
            raise UserError(_too_few(members, clusters, len(fractions) + 1))
    tied = [cluster for cluster in members if len(cluster) > 1]
    largest = max(members, key=len)
    order = (TRAIN, *fractions)
    return part_of, Cost(
        seeds=number,
        asked={name: asked[name] for name in order},
        given={name: given[name] for name in order},
        tied=sum(map(len, tied)),
        clusters=len(tied),
        largest=len(largest),
        largest_holds=tuple(largest[:5]),
        ties=dict(clusters.ties),
    )


def check_fractions(fractions: Mapping[str, float]) -> None:
    """Refuse fractions that leave a part, or training, with nothing.

    Raises:
        UserError: names it.
    """
    if not fractions:
        raise UserError("nothing to hold out: give a fraction for validation, for test or for both")
    for name, fraction in fractions.items():
        if not 0.0 < fraction < 1.0:
            raise UserError(f"{name} must be above 0 and below 1, not {fraction}")
    if sum(fractions.values()) >= 1.0:
        raise UserError(f"{' and '.join(fractions)} leave nothing for training: together they must stay below 1")


def _too_few(members: list[list[str]], clusters: Clusters, wanted: int) -> str:
    largest = max(members, key=len, default=[])
    number = sum(map(len, members))
    if len(largest) <= 1:
        return f"a split into {wanted} parts needs groups from at least {wanted} seeds, found {number}"
    ties = ", ".join(f"{category} {count}" for category, count in clusters.ties.most_common())
    return (
        f"{len(largest)} of {number} seeds must stay together, which leaves too few for {wanted} parts (ties: {ties}); "
        "remove the duplicates first, raise --threshold, or --ignore a category whose ties mean nothing here"
    )
