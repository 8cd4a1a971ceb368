"""Seeds and told problems against benchmark files (`--decontaminate`): whoever trains on them may still test on those."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from igascale.errors import UserError
from igascale.isomers.contamination import N, check
from igascale.isomers.leakage import sha256_of
from igascale.isomers.texts import read_texts


@dataclass
class Benchmarks:
    """Benchmark files, and what was found in common with them.

    Attributes:
        paths: JSONL of seeds or groups, or plain text, one a line.
        ngram: words in a row that count.
        reports: by what was checked; for the manifest.
    """

    paths: tuple[str, ...] = ()
    ngram: int = N
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)

    def check_files(self) -> None:
        """They are there and begin like texts; and two of one name could not be told apart in a report.

        Raises:
            UserError: names the file.
        """
        names = [Path(path).name for path in self.paths]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"--decontaminate: two files are called {name}; rename one")
        for path in self.paths:
            next(read_texts(path, solutions=False))

    def overlaps(self, what: str, texts: Iterable[tuple[str, str]]) -> Mapping[str, str]:
        """The ids of the texts that overlap, each with what it shares.

        Args:
            what: the texts are, for the report.
            texts: (id, text).

        Raises:
            UserError: a benchmark file cannot be read.
        """
        if not self.paths:
            return {}
        texts = iter(texts)
        first = next(texts, None)
        if first is None:
            return {}
        report = check(itertools.chain([first], texts), self._references(), self.ngram)
        found: dict[str, str] = {}
        for hit in report.hits:
            words = f"shares '{hit.overlap}' with {hit.benchmark}, {hit.reference} ({hit.coverage:.0%} of it)"
            found.setdefault(hit.id, words)
        self.reports[what] = {"texts": report.texts, "contaminated": report.contaminated}
        return found

    def _references(self) -> Iterator[tuple[str, str, str]]:
        for path in self.paths:
            for name, text in read_texts(path, solutions=False):
                yield Path(path).name, name, text

    def about(self) -> dict[str, Any]:
        """For the manifest."""
        files = {Path(path).name: sha256_of(path) for path in self.paths}
        return {"files": files, "ngram": self.ngram, **self.reports}
