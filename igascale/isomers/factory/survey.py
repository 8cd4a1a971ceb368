"""A look at the whole bank before anything is spent: every line is read, and what need not be asked for is set aside.

The bank is read once more afterwards, seed by seed. What is kept of it is a number a seed, and what the near-duplicate index
keeps.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from igascale.errors import UserError
from igascale.files import write_atomically
from igascale.isomers.factory.decontaminate import Benchmarks
from igascale.isomers.factory.seed_files import Bank
from igascale.isomers.seeds import Seed
from igascale.isomers.similarity import NearDuplicates, sketch


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
        reports: what the benchmarks' check found, for the manifest.
        key: of everything that decides what is dropped.
    """

    bank: Bank
    limit: int | None = None
    seeds: int = 0
    fingerprint: str = ""
    dropped: dict[int, Dropped] = field(default_factory=dict)
    reports: dict[str, Any] = field(default_factory=dict)
    key: str = ""

    def load(self, cache: Path | None) -> bool:
        """Take what an earlier survey of the same bank, by the same settings, set aside; whether there was one."""
        try:
            earlier = json.loads(cache.read_text(encoding="utf-8")) if cache is not None else {}
            if earlier.get("key") != self.key:
                return False
            self.dropped = {int(place): Dropped(*why) for place, why in earlier["dropped"].items()}
            self.reports = earlier["reports"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or not a whole one
            return False
        return True

    def save(self, cache: Path) -> None:
        """Keep what was set aside for the next run."""
        dropped = {place: (why.reason, why.detail) for place, why in self.dropped.items()}
        write_atomically(cache, json.dumps({"key": self.key, "dropped": dropped, "reports": self.reports}))

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


def survey(bank: Bank, limit: int | None, near: float, benchmarks: Benchmarks, cache: Path | None = None) -> Survey:
    """Read the bank through: ids and equal problems first, then benchmarks and near-duplicates, which take longer.

    Args:
        bank: the bank.
        limit: as in `Survey`.
        near: similarity from which a seed repeats an earlier one; 0: near-duplicates stay.
        benchmarks: seeds that overlap with them are dropped.
        cache: file of an earlier survey, which spares the second part where nothing changed; see `Survey.save`.

    Raises:
        UserError: a line is no seed, or two different problems have one id; a benchmark file cannot be read.
    """
    found = Survey(bank, limit)
    _scan(found)
    found.key = json.dumps([found.fingerprint, near, benchmarks.about()])
    if not found.load(cache):
        overlaps = benchmarks.overlaps("seeds", ((seed.id, seed.problem) for _, seed in bank))
        found.reports = dict(benchmarks.reports)
        _set_aside(found, near, overlaps)
    benchmarks.reports |= found.reports
    return found


def _scan(found: Survey) -> None:
    digest = hashlib.sha256()
    ids: dict[str, tuple[bytes, str]] = {}
    problems: dict[bytes, str] = {}
    for place, (where, seed) in enumerate(found.bank):
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
        problems.setdefault(content, where)
    found.fingerprint = digest.hexdigest()[:16]


def _set_aside(found: Survey, near: float, overlaps: Mapping[str, str]) -> None:
    index = near_index(near)
    for place, (where, seed) in enumerate(found.bank):
        if place in found.dropped:
            continue
        if seed.id in overlaps:
            found.dropped[place] = Dropped("contaminated", f"{where} {overlaps[seed.id]}")
        elif index is not None:
            item = sketch(seed.problem)
            matches = index.matches(item)
            if matches:
                found.dropped[place] = Dropped("near_duplicate", f"{where} is {matches[0][1]:.0%} like {matches[0][0]}")
            else:
                index.add(where, item)


def content_of(seed: Seed) -> bytes:
    """What makes two seeds the same problem: its words, blanks aside."""
    return hashlib.sha256(" ".join(seed.problem.split()).encode()).digest()[:16]


def outcome_id(seed: Seed) -> str:
    """The name of a seed's outcome in the store: another problem under the same id is another seed."""
    return f"{seed.id}@{content_of(seed).hex()[:12]}"


def near_index(threshold: float) -> NearDuplicates[str] | None:
    """An empty index; None where near-duplicates are to stay."""
    return NearDuplicates(threshold) if threshold else None
