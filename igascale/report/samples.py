"""The same logic in different domains: groups of samples whose answers differ, of all runs, side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Groups on the page.
MOST_DIFFERENT, MOST_ALIKE = 48, 6
#: Characters of a text; the rest is in ``samples.jsonl``.
MOST_TEXT = 2500


@dataclass(frozen=True)
class Answer:
    """What one run wrote to one problem."""

    text: str
    predicted: str | None
    correct: bool
    finished: bool


@dataclass
class Told:
    """One problem of a group.

    Attributes:
        answers: by run.
    """

    domain: str
    problem: str
    expected: str
    answers: dict[str, Answer] = field(default_factory=dict)


@dataclass
class SampleGroup:
    """One logical problem, told in one domain or several.

    Attributes:
        differs: ``domains`` where some run is right in one domain and wrong in another; ``runs`` where two runs are not
            right in the same domains.
        told: by domain.
    """

    suite: str
    split: str
    group_id: str
    kind: str | None
    differs: tuple[str, ...]
    told: dict[str, Told] = field(default_factory=dict)


@dataclass
class SampleChoice:
    """The groups to show, and how many there are in all.

    Attributes:
        groups: to show.
        in_all: groups, by ``domains`` (answers differ between domains), ``runs`` (between runs only), ``alike``.
        damaged: lines of all files that are not samples.
        conflicting: groups left out because the runs were given different problems under one name.
    """

    groups: list[SampleGroup] = field(default_factory=list)
    in_all: dict[str, int] = field(default_factory=dict)
    damaged: int = 0
    conflicting: int = 0


Key = tuple[str, str, str]  # suite, split, group


def choose(files: Mapping[str, Path]) -> SampleChoice:
    """Choose groups from the ``samples.jsonl`` of runs, by run; texts are read only of those that are chosen."""
    choice = SampleChoice()
    # group -> run -> domain -> right
    outcomes: dict[Key, dict[str, dict[str, bool]]] = {}
    places: dict[Key, list[tuple[str, int]]] = {}
    for run, path in files.items():
        for offset, record in _records(path):
            key = _key(record)
            if key is None:
                choice.damaged += 1
                continue
            outcomes.setdefault(key, {}).setdefault(run, {})[record["domain"]] = record["correct"]
            places.setdefault(key, []).append((run, offset))
    by_difference: dict[tuple[str, ...], list[Key]] = {}
    for key, runs in outcomes.items():
        by_difference.setdefault(_differs(runs), []).append(key)
    counts = {"domains": 0, "runs": 0, "alike": 0}
    for differs, keys in by_difference.items():
        counts["domains" if "domains" in differs else "runs" if differs else "alike"] += len(keys)
    choice.in_all = counts
    chosen = _spread(by_difference, outcomes)
    for key, differs in chosen:
        group = SampleGroup(*key, kind=None, differs=differs)
        if _fill(group, [(run, files[run], offset) for run, offset in places[key]]):
            choice.groups.append(group)
        else:
            choice.conflicting += 1
    return choice


def _differs(runs: Mapping[str, Mapping[str, bool]]) -> tuple[str, ...]:
    domains = any(len(set(right.values())) > 1 for right in runs.values())
    shared = set.intersection(*(set(right) for right in runs.values()))
    between = any(len({right[d] for right in runs.values()}) > 1 for d in shared)
    return ("domains",) * domains + ("runs",) * between


def _spread(
    by_difference: Mapping[tuple[str, ...], list[Key]], outcomes: Mapping[Key, Mapping[str, Mapping[str, bool]]]
) -> list[tuple[Key, tuple[str, ...]]]:
    """Those that differ in most ways first; of each sort evenly from the whole file; then a few of the others."""
    chosen: list[tuple[Key, tuple[str, ...]]] = []
    room = MOST_DIFFERENT
    for differs in (("domains", "runs"), ("domains",), ("runs",)):
        keys = _evenly(by_difference.get(differs, []), room)
        room -= len(keys)
        chosen += [(key, differs) for key in keys]
    alike = by_difference.get((), [])
    for right in (False, True):
        keys = [key for key in alike if all(r == right for run in outcomes[key].values() for r in run.values())]
        chosen += [(key, ()) for key in _evenly(keys, MOST_ALIKE)]
    return chosen


def _evenly(keys: Sequence[Key], most: int) -> list[Key]:
    if len(keys) <= most:
        return list(keys)
    return [keys[i * len(keys) // most] for i in range(most)]


def _fill(group: SampleGroup, places: Sequence[tuple[str, Path, int]]) -> bool:
    """Read the texts of a group; false where two runs were given different problems."""
    for run, path, offset in places:
        with path.open("rb") as file:
            file.seek(offset)
            record = json.loads(file.readline())
        domain, problem = record["domain"], str(record.get("problem") or "")
        group.kind = group.kind or (str(record["kind"]) if record.get("kind") is not None else None)
        told = group.told.setdefault(domain, Told(domain, cut(problem), str(record.get("expected") or "")))
        if told.problem != cut(problem):
            return False
        predicted = record.get("predicted")
        told.answers[run] = Answer(
            cut(str(record.get("generated") or "")),
            None if predicted is None else cut(str(predicted)),
            record["correct"],
            bool(record.get("finished", True)),
        )
    return True


def cut(text: str) -> str:
    """The text, or its beginning with a word on how much more there is."""
    more = len(text) - MOST_TEXT
    return text if more <= 0 else f"{text[:MOST_TEXT]} … [{more:,} more characters in {'samples.jsonl'}]"


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Records with their places in the file; what is no record comes as an empty one."""
    try:
        with path.open("rb") as file:
            offset = 0
            for line in file:
                if line.strip():
                    try:
                        record = json.loads(line)
                    except ValueError:
                        record = {}
                    yield offset, record if isinstance(record, dict) else {}
                offset += len(line)
    except OSError:
        return


def _key(record: Mapping[str, Any]) -> Key | None:
    """What a sample belongs to; ``None`` where it lacks something that cannot be done without."""
    split, group, domain = record.get("split"), record.get("group_id"), record.get("domain")
    suite = record.get("suite", "isomers")
    if not isinstance(record.get("correct"), bool) or not all(
        isinstance(v, str) for v in (split, group, domain, suite)
    ):
        return None
    return str(suite), str(split), str(group)
