"""Whether texts repeat benchmark problems: n-grams of words in common, as is usual (docs/leakage.md)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from igascale.errors import UserError
from igascale.isomers.normal import hash_of, tokens

N = 13  # words of an n-gram, as in the report on GPT-3 (arXiv 2005.14165, appendix C)
LEAST = 8  # a reference of fewer words is compared with whole texts only
COMMON = 10  # an n-gram of more references than this is boilerplate
_SHOWN = 60  # words of an overlap that a report quotes
_BASE = 0x9E3779B97F4A7C15  # odd, of the polynomial that hashes a run of words


@dataclass(frozen=True)
class Hit:
    """A text that has words in common with a reference.

    Attributes:
        id: of the text.
        benchmark: name of the reference's benchmark.
        reference: its id there.
        overlap: the longest run of the text's words all of whose n-grams the reference has, in normal form, cut after 60 words.
        shared: n-grams of the reference that the text has.
        coverage: their share of the reference's n-grams.
    """

    id: str
    benchmark: str
    reference: str
    overlap: str
    shared: int
    coverage: float


@dataclass(frozen=True)
class Report:
    """What :func:`check` found.

    Attributes:
        n: words of an n-gram.
        texts: how many were checked.
        references: benchmark -> how many references.
        contaminated: ids with a hit, how many.
        hits: one for each text and reference with something in common, the texts in their order.
        short: references of fewer than n words, which a text must contain whole.
        tiny: references so short that a text must be equal to them.
        boilerplate: n-grams left out because too many references have them.
    """

    n: int
    texts: int
    references: dict[str, int]
    contaminated: int
    hits: tuple[Hit, ...]
    short: int
    tiny: int
    boilerplate: int

    def record(self) -> dict[str, Any]:
        """The report as JSON."""
        return asdict(self)


def check(
    texts: Iterable[tuple[str, str]],
    references: Iterable[tuple[str, str, str]],
    n: int = N,
    *,
    least: int = LEAST,
    common: int = COMMON,
) -> Report:
    """Compare texts with references, words in normal form: case, punctuation and blanks are nothing.

    The references' n-grams are held as hashes of 64 bits, 12 bytes each; the texts are streamed.

    Args:
        texts: (id, text); ids may repeat, for the parts of one item.
        references: (benchmark, id, text).
        n: words of an n-gram; a character of a script without blanks is a word.
        least: a reference of fewer words, but fewer than `n` in any case, must be equal to a text; one from here up to `n`
            must be contained in it.
        common: n-grams that more references have are left out, unless a reference has no others.

    Raises:
        UserError: there are no references or no texts, or n is below 2.
    """
    if n < 2:
        raise UserError(f"n must be at least 2 words, not {n}")
    index = _Index(references, n, min(least, n), common)
    if not index.names:
        raise UserError("no references to compare with")
    hits: list[Hit] = []
    count = 0
    for name, text in texts:
        count += 1
        hits += index.hits(name, tokens(text))
    if not count:
        raise UserError("no texts to compare")
    return Report(
        n=n,
        texts=count,
        references=dict(Counter(benchmark for benchmark, _ in index.names)),
        contaminated=len({hit.id for hit in hits}),
        hits=tuple(hits),
        short=index.short,
        tiny=index.tiny,
        boilerplate=index.boilerplate,
    )


class _Index:
    """The references: for each length of n-gram sorted hashes and, beside them, whose they are."""

    def __init__(self, references: Iterable[tuple[str, str, str]], n: int, least: int, common: int) -> None:
        self.names: list[tuple[str, str]] = []
        self.short = self.tiny = self.boilerplate = 0
        self.whole: dict[tuple[str, ...], list[int]] = defaultdict(list)
        collected: dict[int, list[np.ndarray]] = defaultdict(list)
        owners: dict[int, list[np.ndarray]] = defaultdict(list)
        for benchmark, name, text in references:
            number = len(self.names)
            self.names.append((benchmark, name))
            words = tokens(text)
            self.short += least <= len(words) < n
            self.tiny += len(words) < least
            if len(words) < least:
                self.whole[tuple(words) or (text.strip(),)].append(number)
                continue
            length = min(n, len(words))
            hashes = np.unique(_ngrams(words, length))
            collected[length].append(hashes)
            owners[length].append(np.full(len(hashes), number, dtype=np.uint32))
        self.tables: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.sizes = np.zeros(len(self.names), dtype=np.int64)
        for length in sorted(collected):
            hashes, owner = np.concatenate(collected.pop(length)), np.concatenate(owners.pop(length))
            order = np.argsort(hashes, kind="stable")
            hashes, owner = hashes[order], owner[order]
            if length == n:
                kept = self._without_boilerplate(hashes, owner, common)
                hashes, owner = hashes[kept], owner[kept]
            self.tables[length] = hashes, owner
            self.sizes += np.bincount(owner, minlength=len(self.names))

    def _without_boilerplate(self, hashes: np.ndarray, owner: np.ndarray, common: int) -> np.ndarray:
        _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
        rare = counts[inverse] <= common
        has_rare = np.zeros(len(self.names), dtype=bool)
        has_rare[owner[rare]] = True
        kept: np.ndarray = rare | ~has_rare[owner]
        self.boilerplate = len(np.unique(hashes[~kept]))
        return kept

    def hits(self, name: str, words: list[str]) -> Iterator[Hit]:
        """What a text has in common with each reference, in the order of the references."""
        for number in self.whole.get(tuple(words), ()) if words else ():
            yield Hit(name, *self.names[number], " ".join(words), 1, 1.0)
        places: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        for length, (hashes, owner) in self.tables.items():
            if len(words) < length:
                continue
            grams = _ngrams(words, length)
            starts, ends = np.searchsorted(hashes, grams, "left"), np.searchsorted(hashes, grams, "right")
            for place in np.flatnonzero(ends > starts).tolist():
                for number in owner[starts[place] : ends[place]].tolist():
                    places[number].append((place, length, int(grams[place])))
        for number in sorted(places):
            found = places[number]
            shared = len({gram for _, _, gram in found})
            first, last = _longest_run(found)
            overlap = " ".join(words[first : min(last, first + _SHOWN)])
            yield Hit(name, *self.names[number], overlap, shared, round(shared / int(self.sizes[number]), 4))


def _longest_run(found: list[tuple[int, int, int]]) -> tuple[int, int]:
    """First and last word (exclusive) of the longest run of n-grams that begin one word after another."""
    best = start = end = -1
    run = (0, 0)
    for place, length, _ in found:
        if place != end - length + 1 or start < 0:
            start = place
        end = place + length
        if end - start > best:
            best, run = end - start, (start, end)
    return run


def _ngrams(words: list[str], length: int) -> np.ndarray:
    """A hash for every run of `length` words."""
    hashes = np.fromiter(map(_hash_of_word, words), dtype=np.uint64, count=len(words))
    count = len(words) - length + 1
    total = np.zeros(count, dtype=np.uint64)
    for offset in range(length):
        total = total * np.uint64(_BASE) + hashes[offset : offset + count]
    return total


@lru_cache(maxsize=1 << 18)
def _hash_of_word(word: str) -> int:
    return hash_of(word)
