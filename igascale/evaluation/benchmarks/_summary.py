"""What a loaded benchmark holds: counts beside the published ones, problems that occur twice, digests."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from importlib import resources
from pathlib import PurePosixPath

import yaml

from igascale.evaluation.benchmarks.base import Benchmark, BenchmarkItem, Loaded

#: Files beyond this many are told together.
FILES_SHOWN = 16


def lines(benchmark: Benchmark, loaded: Loaded) -> Iterator[str]:
    """The summary, one line a fact, without warnings."""
    if len(loaded.files) <= FILES_SHOWN:
        for file in loaded.files:
            yield f"{file.name}: {file.rows} rows, {file.items} problems, sha256 {file.sha256}{_known(benchmark, file.name, file.sha256)}"
    else:
        rows = sum(file.rows for file in loaded.files)
        yield f"{len(loaded.files)} files: {rows} rows, {len(loaded.items)} problems"
    if len(loaded.files) != 1 or loaded.sha256 != loaded.files[0].sha256:
        of = _known(benchmark, loaded.source, loaded.sha256)
        yield f"sha256 of the whole: {loaded.sha256}{of}"
    for title, key in (
        (
            "answers",
            lambda item: f"{item.answer_kind}" if item.answer is not None else f"{item.answer_kind}, hidden or none",
        ),
        ("subjects", lambda item: item.subject),
        ("levels", lambda item: item.level),
    ):
        yield from _counted(title, loaded.items, key)
    labels = Counter(label for item in loaded.items for label in benchmark.labels(item) if label != item.subject)
    if labels:
        yield f"labels: {', '.join(f'{label} {count}' for label, count in sorted(labels.items()))}"
    sides = Counter(str(benchmark.part(item)) for item in loaded.items)
    yield f"split: id {sides['id']}, ood {sides['ood']}, neither {sides['None']} (--info says what these are)"


def warnings(benchmark: Benchmark, loaded: Loaded) -> Iterator[str]:
    """Notes of the loader, counts that differ from the published ones, digests that differ, problems that occur twice."""
    yield from loaded.notes
    counts = Counter(item.split for item in loaded.items)
    for split in dict.fromkeys(file.split for file in loaded.files):
        published = benchmark.facts.published.get(split)
        if published is None:
            yield f"{split}: {counts[split]} problems; no published count is known"
        elif counts[split] != published:
            yield f"{split}: {counts[split]} problems, published are {published}"
    named = [(file.name, file.sha256) for file in loaded.files[:FILES_SHOWN]] + [(loaded.source, loaded.sha256)]
    for name, digest in dict.fromkeys(named):
        known = _digests(benchmark.name).get(PurePosixPath(name).name)
        if known and digest not in known[1]:
            yield f"{name}: its sha256 is not the {known[0]} one ({', '.join(known[1])}): another version, or changed"
    yield from duplicates(loaded.items)


def duplicates(items: Sequence[BenchmarkItem]) -> Iterator[str]:
    """Questions (with their passage) that occur again, within a split and between two.

    Compared are letters, digits and signs as Unicode compatibility form, case and white space aside.
    """
    first: dict[tuple[str, str], BenchmarkItem] = {}
    again: dict[str, list[tuple[BenchmarkItem, BenchmarkItem]]] = {}
    for item in items:
        key = (item.split, _plain(item.question))
        if key in first:
            again.setdefault(f"{item.split}: {{}} of its problems repeat", []).append((first[key], item))
        else:
            first[key] = item
    by_split: dict[str, dict[str, BenchmarkItem]] = {}
    for (split, question), item in first.items():
        by_split.setdefault(split, {})[question] = item
    splits = list(by_split)
    for i, one in enumerate(splits):
        for other in splits[i + 1 :]:
            shared = by_split[one].keys() & by_split[other].keys()
            pairs = [(by_split[one][question], by_split[other][question]) for question in sorted(shared)]
            if pairs:
                again[f"{one} and {other} share {{}}"] = pairs
    for text, pairs in again.items():
        same = [pair for pair in pairs if [_plain(o) for o in pair[0].options] == [_plain(o) for o in pair[1].options]]
        clash = sum(a.answer != b.answer and a.answer is not None and b.answer is not None for a, b in same)
        options = f", {len(same)} of them with the same options" if any(pair[0].options for pair in pairs) else ""
        verdict = f"; {clash} OF THESE WITH ANOTHER ANSWER" if clash else ""
        example = f" (for example {pairs[0][0].id} and {pairs[0][1].id})"
        noun = "problems" if "share" in text else "an earlier one"
        yield f"{text.format(len(pairs))} {noun}: same question{options}{verdict}{example}"


def _counted(title: str, items: Iterable[BenchmarkItem], key: Callable[[BenchmarkItem], str | None]) -> Iterator[str]:
    counts = Counter(key(item) or "(none)" for item in items)
    if set(counts) - {"(none)"}:
        yield f"{title}: {', '.join(f'{name} {count}' for name, count in sorted(counts.items()))}"


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _known(benchmark: Benchmark, name: str, digest: str) -> str:
    known = _digests(benchmark.name).get(PurePosixPath(name).name)
    if not known or digest not in known[1]:
        return ""
    return " (as published)" if known[0] == "computed" else " (as reported by others)"


@cache
def _digests(name: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """File -> how its digests are known, and which they are."""
    text = resources.files(__package__).joinpath("checksums.yaml").read_text(encoding="utf-8")
    entry = yaml.safe_load(text).get(name, {})
    return {file: (how, tuple(known)) for how, files in entry.items() for file, known in files.items()}
