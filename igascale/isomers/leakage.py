"""Proof that held-out files share nothing with a training file, or what they share (docs/leakage.md)."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from igascale.errors import UserError, did_you_mean
from igascale.isomers.normal import hash_of
from igascale.isomers.schema import Dag, IsomerGroup, iter_groups
from igascale.isomers.similarity import THRESHOLD, NearDuplicates, Sketch, sketch

#: Category -> what two files may not share.
CATEGORIES = {
    "seed": "seed problem",
    "id": "group or instance id",
    "problem": "identical problem",
    "near": "near-duplicate problem",
    "form": "logical form",
}


@dataclass(frozen=True)
class Pair:
    """A training problem and a held-out one that have something in common.

    Attributes:
        training: id of the group, or of the instance where a text is compared.
        held_out: the same of the held-out file.
        similarity: of the two texts; 1.0 where something is identical.
        shared: the seed, the id or the beginning of the form; empty where texts are compared.
    """

    training: str
    held_out: str
    similarity: float
    shared: str = ""


@dataclass(frozen=True)
class Finding:
    """What one held-out file shares with training in one category.

    Attributes:
        category: one of `CATEGORIES`.
        groups: held-out groups that are touched.
        pairs: pairs of groups, or of instances where a text is compared.
        worst: the most similar pair, the first of equals.
        unchecked: held-out groups without a DAG, where forms are compared.
    """

    category: str
    groups: int
    pairs: int
    worst: Pair | None = None
    unchecked: int = 0


@dataclass(frozen=True)
class HeldOut:
    """A held-out file and what was found in each category, in the order of `CATEGORIES`."""

    file: str
    sha256: str
    groups: int
    problems: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Proof:
    """The result of :func:`prove`.

    Attributes:
        training: name of the training file, with its `sha256` and its number of `groups`.
        threshold: similarity from which problems are near-duplicates.
        ignored: categories that were looked at and do not count.
        held_out: per file what it shares with training.
        unchecked: training groups without a DAG, whose forms are unknown.
    """

    training: str
    sha256: str
    groups: int
    threshold: float
    ignored: tuple[str, ...]
    held_out: tuple[HeldOut, ...]
    unchecked: int = 0

    @property
    def leaks(self) -> list[tuple[HeldOut, Finding]]:
        """(held-out file, finding) of everything that is shared and not ignored."""
        return [
            (held_out, finding)
            for held_out in self.held_out
            for finding in held_out.findings
            if finding.groups and finding.category not in self.ignored
        ]

    def record(self) -> dict[str, Any]:
        """The proof as JSON, for a manifest."""
        return {"passed": not self.leaks, **asdict(self)}


def prove(
    training: str | Path, held_out: Sequence[str | Path], *, threshold: float = THRESHOLD, ignore: Collection[str] = ()
) -> Proof:
    """Compare each held-out file with the training file in every category.

    Hashes of the held-out files are kept in memory; the training file, usually the larger, is streamed.

    Args:
        training: JSONL of groups.
        held_out: others of the same form, at least one.
        threshold: similarity from which two problems are near-duplicates.
        ignore: categories that are reported and do not count as leaks.

    Raises:
        UserError: a file cannot be read or breaks the schema, or a category is unknown.
    """
    check_categories(ignore)
    if not held_out:
        raise UserError("nothing to compare with: name at least one held-out file")
    indices = [_Index(path, threshold) for path in held_out]
    groups = unchecked = 0
    for _, group in iter_groups(training):
        groups += 1
        unchecked += group.dag is None
        sketches = [sketch(instance.problem) for instance in group.instances]
        for index in indices:
            index.compare(group, sketches)
    if not groups:
        raise UserError(f"{training}: no groups in it; expected one JSON object a line (docs/data.md)")
    found = tuple(index.result() for index in indices)
    return Proof(Path(training).name, sha256_of(training), groups, threshold, tuple(ignore), found, unchecked)


def check_categories(names: Collection[str]) -> None:
    """Refuse a name that is no category, and ``seed``, which always counts.

    Raises:
        UserError: names it.
    """
    for name in names:
        if name not in CATEGORIES:
            raise UserError(
                f"ignore: no category '{name}'; there are {', '.join(CATEGORIES)}" + did_you_mean(name, CATEGORIES)
            )
        if name == "seed":
            raise UserError("ignore: a shared seed problem is a leak whatever else; take 'seed' off the list")


def seeds_of(group: IsomerGroup) -> tuple[str, ...]:
    """The seed problems that a group's texts come from: its own, and those of a random pairing (``data variant``)."""
    variant = group.meta.get("variant")
    others = variant.get("seeds") if isinstance(variant, dict) else None
    return tuple(dict.fromkeys((group.seed_id, *map(str, others if isinstance(others, list) else ()))))


def form_of(group: IsomerGroup) -> str | None:
    """What makes two groups the same problem whatever their words: `dag.logical_form`, else the DAG's nodes and edges."""
    if group.dag is None:
        return None
    if group.dag.logical_form is not None:
        return re.sub(r"\s+", " ", group.dag.logical_form).strip()
    return _written_out(group.dag)


def _written_out(dag: Dag) -> str:
    """Nodes and edges without the names of the nodes, in an order of their own."""
    text = {node.id: f"{node.type} {' '.join(node.text.split())}" for node in dag.nodes}
    edges = sorted(f"{text[edge.source]} -{edge.label}-> {text[edge.target]}" for edge in dag.edges)
    return "; ".join([*sorted(text.values()), *edges])


class _Index:
    """One held-out file, by everything that training may share with it."""

    def __init__(self, path: str | Path, threshold: float) -> None:
        self.path = path
        self.groups: list[str] = []  # ids; everywhere else a group is its place in this list
        self.by: dict[str, dict[Any, list[tuple[int, str]]]] = {
            name: defaultdict(list) for name in ("seed", "id", "problem", "form")
        }
        self.near: NearDuplicates[tuple[int, str]] = NearDuplicates(threshold)
        self.problems = self.unchecked = 0
        self.tallies = {name: _Tally() for name in CATEGORIES}
        for _, group in iter_groups(path):
            self._add(group)
        if not self.groups:
            raise UserError(f"{path}: no groups in it; expected one JSON object a line (docs/data.md)")

    def _add(self, group: IsomerGroup) -> None:
        number = len(self.groups)
        self.groups.append(group.id)
        self.problems += len(group.instances)
        self.unchecked += group.dag is None
        for category, key, _ in _keys(group):
            self.by[category][key].append((number, group.id))
        for instance in group.instances:
            item = sketch(instance.problem)
            self.by["problem"][item.identity].append((number, instance.id))
            self.near.add((number, instance.id), item)

    def compare(self, group: IsomerGroup, sketches: Sequence[Sketch]) -> None:
        """Count what a training group shares with this file."""
        for category, key, shown in _keys(group):
            for number, name in self.by[category].get(key, ()):
                self.tallies[category].add(number, Pair(group.id, name, 1.0, shown))
        for instance, item in zip(group.instances, sketches):
            same = self.by["problem"].get(item.identity, [])
            for number, name in same:
                self.tallies["problem"].add(number, Pair(instance.id, name, 1.0))
            for key, similarity in self.near.matches(item):
                if key not in same:
                    number, name = key
                    self.tallies["near"].add(number, Pair(instance.id, name, round(similarity, 4)))

    def result(self) -> HeldOut:
        findings = (
            tally.finding(name, self.unchecked if name == "form" else 0) for name, tally in self.tallies.items()
        )
        return HeldOut(Path(self.path).name, sha256_of(self.path), len(self.groups), self.problems, tuple(findings))


@dataclass
class _Tally:
    touched: set[int] = field(default_factory=set)
    pairs: int = 0
    worst: Pair | None = None

    def add(self, number: int, pair: Pair) -> None:
        self.touched.add(number)
        self.pairs += 1
        if self.worst is None or pair.similarity > self.worst.similarity:
            self.worst = pair

    def finding(self, category: str, unchecked: int) -> Finding:
        return Finding(category, len(self.touched), self.pairs, self.worst, unchecked)


def _keys(group: IsomerGroup) -> Iterator[tuple[str, Any, str]]:
    """(category, key, how it is shown) of all that is compared as it is."""
    for seed in seeds_of(group):
        yield "seed", seed, seed
    yield "id", ("group", group.id), group.id
    for instance in group.instances:
        yield "id", ("instance", instance.id), instance.id
    form = form_of(group)
    if form is not None:
        yield "form", hash_of(form), form if len(form) <= 200 else form[:197] + "..."


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
