"""Groups of examples as places in a store: arranging them moves numbers, and an example is made when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, overload

import numpy as np

from igascale.isomers.encode import Example
from igascale.isomers.tokens import Encoded

Groups = Sequence[list[Example]]


class Rows(Sequence[list[Example]]):
    """Rows of equally many examples; each counts under the domain of its column, or all under the first.

    Args:
        store: the examples; a list, or what reads them from a file.
        places: ``[N, W]``: which example is where.
        dissolved: the rows are no groups of isomers: every example counts under domain 0.
    """

    def __init__(self, store: Sequence[Example], places: np.ndarray, dissolved: bool = False):
        self.store, self.places, self.dissolved = store, places, dissolved

    @staticmethod
    def of(groups: Sequence[Sequence[Example]]) -> Rows:
        """The same groups as rows."""
        if isinstance(groups, Rows):
            return groups
        store = [example for group in groups for example in group]
        return Rows(store, np.arange(len(store)).reshape(len(groups), -1) if store else np.empty((0, 0), np.int64))

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> list[Example]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[Example]]: ...
    def __getitem__(self, index: int | slice) -> list[Example] | list[list[Example]]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        examples = (self.store[int(place)] for place in self.places[index])
        labels = (0 if self.dissolved else column for column in range(self.places.shape[1]))
        return [e if e.domain == label else replace(e, domain=label) for e, label in zip(examples, labels)]

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other))

    __hash__ = None  # type: ignore[assignment]

    def lengths(self) -> np.ndarray:
        """Tokens of each example; ``[N, W]``. A store on disk is not read for it."""
        store = self.store
        lengths = store.lengths() if isinstance(store, Encoded) else np.array([len(e.input_ids) for e in store], int)
        return lengths[self.places]


def extremes(groups: Sequence[Sequence[Example]]) -> list[Example]:
    """The first of the longest examples and, where there is another, the first of the shortest that is not the same text.

    Of a store on disk only these are read.

    Args:
        groups: at least one, of at least one example.
    """
    rows = Rows.of(groups)
    lengths = rows.lengths().ravel()
    width = rows.places.shape[1]
    longest = rows[int(lengths.argmax()) // width][int(lengths.argmax()) % width]
    shortest = (rows[int(place) // width][int(place) % width] for place in np.flatnonzero(lengths == lengths.min()))
    other = next((example for example in shortest if example.input_ids != longest.input_ids), None)
    return [longest] if other is None else [longest, other]
