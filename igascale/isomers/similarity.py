"""Near-duplicate problems: MinHash LSH proposes, the exact Jaccard similarity of the shingles decides (docs/leakage.md).

What makes a problem is its data as much as its words. A shingle is a word together with the numbers and symbols of its
sentence, in their order; in a sentence without any, two neighbouring words. Besides, a sentence's symbols weigh as much by
themselves as `_WEIGHT` words each. So another label or number changes every shingle of its sentence and makes another
problem, while case, punctuation, another order of the sentences, a sentence before it or a word more or less do not.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from igascale.errors import UserError
from igascale.isomers.normal import hash_of, is_symbol, sentences

if TYPE_CHECKING:
    from datasketch import MinHash

#: Measured on generated problems of all kinds (docs/leakage.md).
THRESHOLD = 0.8
#: A lower one would need hundreds of bands, and everything is that alike.
LEAST_THRESHOLD = 0.05
_WEIGHT = 2
_RECALL = 0.995  # of the candidates, for a pair whose similarity is the threshold; more for a closer one
_MOST_BANDS = 16  # memory and time grow with them

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, eq=False)
class Sketch:
    """A text as :class:`NearDuplicates` compares it; makes one look-up and one addition cost one reading.

    Attributes:
        identity: of its words, numbers and symbols in order; equal for texts that differ in case, punctuation or blanks.
        shingles: hashes, sorted, each once.
    """

    identity: int
    shingles: np.ndarray

    def similarity(self, other: Sketch) -> float:
        """1.0 for one identity, else shared shingles over all shingles."""
        if self.identity == other.identity:
            return 1.0
        return _jaccard(set(self.shingles.tolist()), other.shingles)

    @property
    def exact(self) -> tuple[int, int]:
        """Equal where all that is compared is: texts of one identity may have their sentences end elsewhere, and so other shingles."""
        return self.identity, hash(self.shingles.tobytes())


def sketch(text: str) -> Sketch:
    """Read a text. One without a single word or symbol is like itself alone."""
    told = sentences(text)
    words = " ".join(word for sentence in told for word in sentence)
    return Sketch(
        hash_of(words or f"\0{text.strip()}"), np.unique(np.fromiter(map(hash_of, _shingles(told)), np.uint64))
    )


class NearDuplicates(Generic[Key]):
    """An index of texts that finds those like a given one.

    No false positives: what is returned has that similarity. A pair just at the threshold is missed 1 time in 200, a closer one
    less often. The same texts give the same matches everywhere, whatever their order. Holds about 5 kB a text (docs/leakage.md).

    Args:
        threshold: least similarity, from 0.05 to 1.
        seed: of the hash functions that propose candidates.

    Raises:
        UserError: the threshold is out of range, or the package datasketch is missing.
    """

    def __init__(self, threshold: float = THRESHOLD, seed: int = 1) -> None:
        if not LEAST_THRESHOLD <= threshold <= 1.0:
            raise UserError(f"threshold must be at least {LEAST_THRESHOLD} and at most 1, not {threshold}")
        try:
            from datasketch import MinHashLSH
        except ImportError:
            raise UserError("near-duplicates need the package datasketch: pip install 'igascale[data]'") from None
        self.threshold = threshold
        self._seed = seed
        bands, rows = _bands(threshold)
        self._width = bands * rows
        self._lsh = MinHashLSH(num_perm=self._width, params=(bands, rows))
        self._keys: list[list[Key]] = []  # per different text, all that were added under it
        self._shingles: list[np.ndarray] = []
        self._by_identity: dict[int, list[int]] = {}  # one for each way of ending its sentences
        self._by_exact: dict[tuple[int, int], int] = {}
        self._last: tuple[Sketch, MinHash] | None = None

    def __len__(self) -> int:
        """How many texts were added."""
        return sum(len(keys) for keys in self._keys)

    def add(self, key: Key, text: str | Sketch) -> None:
        """Add a text under a key; a key may come twice."""
        item = sketch(text) if isinstance(text, str) else text
        index = self._by_exact.setdefault(item.exact, len(self._keys))
        if index < len(self._keys):
            self._keys[index].append(key)
            return
        self._by_identity.setdefault(item.identity, []).append(index)
        self._keys.append([key])
        self._shingles.append(item.shingles)
        if len(item.shingles):
            self._lsh.insert(index, self._minhash(item), check_duplication=False)

    def matches(self, text: str | Sketch) -> list[tuple[Key, float]]:
        """Keys of the texts like this one and their similarity, the most similar first, then in the order they were added."""
        item = sketch(text) if isinstance(text, str) else text
        same = self._by_identity.get(item.identity, [])
        found = [(1.0, index) for index in same]
        if len(item.shingles):
            shingles = set(item.shingles.tolist())
            for index in self._lsh.query(self._minhash(item)):
                similarity = 0.0 if index in same else _jaccard(shingles, self._shingles[index])
                if similarity >= self.threshold:
                    found.append((similarity, index))
        found.sort(key=lambda pair: (-pair[0], pair[1]))
        return [(key, similarity) for similarity, index in found for key in self._keys[index]]

    def _minhash(self, item: Sketch) -> MinHash:
        if self._last is None or self._last[0] is not item:  # a text is often looked up and then added
            minhash = _empty(self._width, self._seed).copy()
            minhash.update_batch((item.shingles & np.uint64(0xFFFFFFFF)).tolist())
            self._last = (item, minhash)
        return self._last[1]


def _shingles(told: list[list[str]]) -> Iterator[str]:
    for words in told:
        symbols = [word for word in words if is_symbol(word)]
        if symbols:
            data = " ".join(symbols)
            yield from (f"{data}|{word}" for word in words if not is_symbol(word))
            yield from (f"{data}||{copy}" for copy in range(_WEIGHT * len(symbols)))
        elif len(words) == 1:
            yield words[0]
        else:
            yield from (f"{first} {second}" for first, second in pairwise(words))


def _jaccard(shingles: set[int], others: np.ndarray) -> float:
    # Sizes alone may settle it, but a pair that LSH proposes is seldom that unlike.
    shared = len(shingles.intersection(others.tolist()))
    union = len(shingles) + len(others) - shared
    return shared / union if union else 0.0


@cache
def _bands(threshold: float) -> tuple[int, int]:
    """Bands and rows of a band: the most selective with `_RECALL` at the threshold and no more than `_MOST_BANDS`."""
    for rows in range(8, 0, -1):
        agree = threshold**rows
        bands = 2 if agree == 1.0 else max(2, math.ceil(math.log(1 - _RECALL) / math.log(1 - agree)))
        if bands <= _MOST_BANDS:
            return bands, rows
    return bands, 1  # a threshold so low that nothing but many bands will do


@cache
def _empty(width: int, seed: int) -> MinHash:
    from datasketch import MinHash

    return MinHash(num_perm=width, seed=seed, hashfunc=int)  # shingles are hashes already
