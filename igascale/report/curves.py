"""``metrics.jsonl`` as curves of a bounded number of points, read once and never held in memory."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Points of a curve; with more records, a point is the mean of those that follow each other.
MOST_POINTS = 1000

_KINDS = ("train", "validation")
_KIND = re.compile(rb'"kind"\s*:\s*"(train|validation)"')

#: A figure's place in a record: ``("loss",)``, ``("losses", "law")``.
Key = tuple[str, ...]


@dataclass(frozen=True)
class Curve:
    """A figure over time.

    Attributes:
        steps: the last step that each point stands for.
        values: its mean over the records of the point; ``None`` where none of them has a finite number.
    """

    steps: list[int]
    values: list[float | None]

    @property
    def last(self) -> float | None:
        """The last value that is known."""
        return next((value for value in reversed(self.values) if value is not None), None)

    @property
    def known(self) -> list[float]:
        """The values that are known."""
        return [value for value in self.values if value is not None]


@dataclass
class Metrics:
    """What a run recorded of its steps and validations.

    Attributes:
        train: curves of every number in a training record.
        validation: ``(id | ood, domain)`` -> curve.
        lists: curves of lists, a histogram say: key -> a list of numbers (or ``None``) for each point of ``list_steps``.
        records: training records.
        per_point: training records in a point of a curve.
        skipped: steps not taken because something was not finite.
        damaged: lines that are not whole records.
        missing: there is no such file.
    """

    train: dict[Key, Curve] = field(default_factory=dict)
    validation: dict[Key, Curve] = field(default_factory=dict)
    lists: dict[Key, list[list[float] | None]] = field(default_factory=dict)
    list_steps: list[int] = field(default_factory=list)
    records: int = 0
    per_point: int = 1
    skipped: int = 0
    damaged: int = 0
    missing: bool = False

    def under(self, group: str) -> dict[str, Curve]:
        """The training curves of a group of figures, by name."""
        return {key[1]: curve for key, curve in self.train.items() if len(key) == 2 and key[0] == group}


def read_metrics(path: Path) -> Metrics:
    """Read a metrics file, whole or not; never fails."""
    counted = _count(path)
    train, validation = (_Binned(math.ceil(counted[kind] / MOST_POINTS)) for kind in _KINDS)
    found = Metrics(missing=not path.is_file(), per_point=train.per_point)
    for record in _records(path):
        if record is None:
            found.damaged += 1
            continue
        found.records += record["kind"] == "train"
        (train if record["kind"] == "train" else validation).add(record["step"], record)
        found.skipped += bool(record.get("skipped"))
    found.train, found.lists, found.list_steps = train.curves(), train.lists(), train.steps
    found.validation = {key: curve for key, curve in validation.curves().items() if len(key) == 2}
    return found


def _count(path: Path) -> dict[str, int]:
    """About how many records of each kind there are: by their looks, since parsing a long file takes as long as all the rest."""
    counted = dict.fromkeys(_KINDS, 0)
    try:
        with path.open("rb") as file:
            for line in file:
                if match := _KIND.search(line):
                    counted[match[1].decode()] += 1
    except OSError:
        pass
    return counted


def number(value: Any) -> float | None:
    """A finite number, or nothing."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _records(path: Path) -> Iterator[dict[str, Any] | None]:
    """Records of steps and validations; ``None`` for a line that is cut off or damaged."""
    try:
        with path.open("rb") as file:
            for line in file:
                try:
                    record = json.loads(line)
                    whole = isinstance(record["step"], int) and record["kind"] in _KINDS
                except (ValueError, KeyError, TypeError):
                    whole = False
                yield record if whole else None
    except OSError:
        return


def _numbers(record: Mapping[str, Any], above: Key = ()) -> Iterator[tuple[Key, Any]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, (*above, str(name)))
        elif isinstance(value, list) or value is None or number(value) is not None:
            yield (*above, str(name)), value


class _Binned:
    """Means of so many records that follow each other."""

    def __init__(self, per_point: int):
        self.per_point, self._count = max(1, per_point), 0
        self.steps: list[int] = []
        self._sums: list[dict[Key, list[float]]] = []  # of each point: sum and count
        self._lists: list[dict[Key, tuple[list[float], int]]] = []

    def add(self, step: int, record: Mapping[str, Any]) -> None:
        if self._count % self.per_point == 0:
            self.steps.append(step)
            self._sums.append({})
            self._lists.append({})
        self._count += 1
        self.steps[-1] = step
        for key, value in _numbers({k: v for k, v in record.items() if k not in ("step", "kind")}):
            if isinstance(value, list):
                self._add_list(key, value)
                continue
            known = self._sums[-1].setdefault(key, [0.0, 0])
            if value is not None:
                known[0] += value
                known[1] += 1

    def _add_list(self, key: Key, value: list[Any]) -> None:
        numbers = [number(v) for v in value]
        if not numbers or None in numbers:
            return
        total, count = self._lists[-1].get(key, ([0.0] * len(numbers), 0))
        if len(total) == len(numbers):
            self._lists[-1][key] = ([a + b for a, b in zip(total, numbers) if b is not None], count + 1)

    def curves(self) -> dict[Key, Curve]:
        keys = dict.fromkeys(key for sums in self._sums for key in sums)
        means = {key: [_mean(*sums.get(key, (0.0, 0))) for sums in self._sums] for key in keys}
        return {key: Curve(self.steps, values) for key, values in means.items() if any(v is not None for v in values)}

    def lists(self) -> dict[Key, list[list[float] | None]]:
        keys = dict.fromkeys(key for lists in self._lists for key in lists)
        return {key: [_mean_list(lists.get(key)) for lists in self._lists] for key in keys}


def _mean(total: float, count: float) -> float | None:
    return total / count if count else None


def _mean_list(of: tuple[list[float], int] | None) -> list[float] | None:
    return None if of is None else [total / of[1] for total in of[0]]
