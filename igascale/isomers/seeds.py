"""Seed problems: what the isomer factory, a benchmark and the generator hand to each other (docs/factory.md)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Seed:
    """One problem of a bank, before it is abstracted.

    Attributes:
        id: unique in the bank; becomes the ``seed_id`` of every group made from it, which a split never separates.
        problem: its full text, answer options included.
        answer: the known answer, where there is one.
        solution: a known solution, where there is one.
        kind: of reasoning, or the bank's subject.
        source: the bank, for example ``math/train``.
        meta: anything else.
    """

    id: str
    problem: str
    answer: str | None = None
    solution: str | None = None
    kind: str | None = None
    source: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)


def to_record(seed: Seed) -> dict[str, Any]:
    """The seed as the JSON object of its line; what is empty is left out."""
    return {key: value for key, value in vars(seed).items() if value not in (None, {})}


def write_seeds(path: str | Path, seeds: Iterable[Seed]) -> int:
    """Write seeds as JSONL; returns how many."""
    count = 0
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        for seed in seeds:
            file.write(json.dumps(to_record(seed), ensure_ascii=False) + "\n")
            count += 1
    return count
