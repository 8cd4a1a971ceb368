"""A look at the whole bank before anything is spent: every line is read, and what need not be asked for is set aside.

The bank is read once more afterwards, seed by seed. What is kept of it is a number a seed, and what the near-duplicate index
keeps.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from igascale.errors import UserError
from igascale.isomers.factory.seed_files import Bank
from igascale.isomers.seeds import Seed

if TYPE_CHECKING:
    from igascale.isomers.similarity import NearDuplicates


@dataclass(frozen=True)
class Dropped:
    """A seed that is not asked for, and why."""

    reason: str
    detail: str


@dataclass
class Survey:
    """What the bank holds.

    Attributes:
        bank: the bank.
        limit: only so many of the seeds that are left.
        seeds: in it.
        fingerprint: a hash of their ids and problems, in order.
        dropped: by the seed's place in the bank, from 0.
    """

    bank: Bank
    limit: int | None = None
    seeds: int = 0
    fingerprint: str = ""
    dropped: dict[int, Dropped] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Seeds to ask for."""
        left = self.seeds - len(self.dropped)
        return left if self.limit is None else min(left, self.limit)

    def walk(self) -> Iterator[tuple[Seed, Dropped | None]]:
        """Every seed up to the limit, in the order of the bank, and whether it is dropped."""
        count = 0
        for place, (_, seed) in enumerate(self.bank):
            dropped = self.dropped.get(place)
            if dropped is None:
                if count == self.limit:
                    return
                count += 1
            yield seed, dropped

    def taken(self) -> Iterator[Seed]:
        """The seeds to ask for."""
        return (seed for seed, dropped in self.walk() if dropped is None)

    def counts(self) -> Mapping[str, int]:
        """Dropped seeds by reason."""
        return Counter(dropped.reason for dropped in self.dropped.values())


def survey(bank: Bank, limit: int | None, near: float, contaminated: Mapping[str, str]) -> Survey:
    """Read the bank through.

    Args:
        bank: the bank.
        limit: as in `Survey`.
        near: similarity from which a seed repeats an earlier one; 0: near-duplicates stay.
        contaminated: seed id -> what it overlaps with; such seeds are dropped.

    Raises:
        UserError: a line is no seed, or two different problems have one id.
    """
    found = Survey(bank, limit)
    digest = hashlib.sha256()
    ids: dict[str, tuple[bytes, str]] = {}
    problems: dict[bytes, str] = {}
    index = near_index(near)
    for place, (where, seed) in enumerate(bank):
        content = content_of(seed)
        digest.update(f"{seed.id}\0".encode() + content)
        found.seeds += 1
        if seed.id in ids and ids[seed.id][0] != content:
            raise UserError(
                f"{where}: id '{seed.id}' is already {ids[seed.id][1]}, with another problem; ids must be unique"
            )
        ids.setdefault(seed.id, (content, where))
        if content in problems:
            found.dropped[place] = Dropped("duplicate", f"{where} has the problem of {problems[content]}")
            continue
        problems[content] = where
        if seed.id in contaminated:
            found.dropped[place] = Dropped("contaminated", f"{where} {contaminated[seed.id]}")
            continue
        if index is not None:
            matches = index.matches(seed.problem)
            if matches:
                other, similarity = max(matches, key=lambda match: match[1])
                found.dropped[place] = Dropped("near_duplicate", f"{where} is {similarity:.0%} like {other}")
                continue
            index.add(where, seed.problem)
    found.fingerprint = digest.hexdigest()[:16]
    return found


def content_of(seed: Seed) -> bytes:
    """What makes two seeds the same problem: its words, blanks aside."""
    return hashlib.sha256(" ".join(seed.problem.split()).encode()).digest()[:16]


def outcome_id(seed: Seed) -> str:
    """The name of a seed's outcome in the store: another problem under the same id is another seed."""
    return f"{seed.id}@{content_of(seed).hex()[:12]}"


def near_index(threshold: float) -> NearDuplicates | None:
    """An empty index; None where near-duplicates are to stay."""
    if not threshold:
        return None
    from igascale.isomers.similarity import NearDuplicates

    return NearDuplicates(threshold)
