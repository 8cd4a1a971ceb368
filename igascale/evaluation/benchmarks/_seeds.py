"""Benchmark problems as seeds of the isomer factory, and as texts to look for contamination."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from igascale.evaluation.benchmarks._lookup import find
from igascale.evaluation.benchmarks.base import Benchmark, BenchmarkItem
from igascale.isomers.seeds import Seed


def seeds(benchmark: Benchmark, items: Iterable[BenchmarkItem]) -> Iterator[Seed]:
    """The problems as seeds for ``igascale data build``: options rendered, the answer a letter where there are options."""
    for item in items:
        meta: dict[str, Any] = {
            "licence": benchmark.facts.licence,
            "homepage": benchmark.facts.homepage,
            "answer_kind": item.answer_kind,
            **{key: value for key, value in (("level", item.level), ("genre", item.genre)) if value is not None},
        }
        if item.options:
            meta["options"] = list(item.options)
        if item.meta:
            meta["published"] = item.meta
        yield Seed(
            id=f"{item.benchmark}/{item.id}",
            problem=item.problem,
            answer=item.answer,
            solution=item.solution,
            kind=item.subject,
            source=f"{item.benchmark}/{item.split}",
            meta=meta,
        )


def texts(
    name: str, source: str | Path, *, password: str | None = None, skip_bad: bool = False
) -> Iterator[tuple[str, str, str]]:
    """Every problem's text, to compare training data with.

    Args:
        name: of the benchmark.
        source: as `Benchmark.load`.
        password: of an encrypted archive.
        skip_bad: as `Benchmark.load`.

    Yields:
        ``benchmark/split``, the problem's id, and its problem as `seeds` writes it, options with their letters.

    Raises:
        UserError: as `find` and `Benchmark.load`.
    """
    yield from texts_of(find(name).load(source, password=password, skip_bad=skip_bad).items)


def texts_of(items: Iterable[BenchmarkItem]) -> Iterator[tuple[str, str, str]]:
    """As `texts`, of problems that are there already."""
    for item in items:
        yield f"{item.benchmark}/{item.split}", item.id, item.problem
