"""Seed problems: what the isomer factory, a benchmark and the generator hand to each other (docs/factory.md)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from igascale.errors import UserError, did_you_mean
from igascale.isomers.json_lines import parse_json
from igascale.isomers.schema import numbered_lines


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


@dataclass(frozen=True)
class SeedFields:
    """Which field of a bank holds what. The defaults are the file of `write_seeds`; with others, further fields are left alone."""

    id: str = "id"
    problem: str = "problem"
    answer: str = "answer"
    solution: str = "solution"
    kind: str = "kind"
    source: str = "source"
    meta: str = "meta"


def iter_seeds(path: str | Path, fields: SeedFields | None = None) -> Iterator[tuple[int, Seed]]:
    """Yield (line number, seed) of a JSONL file, one line in memory at a time.

    Args:
        path: one JSON object a line.
        fields: names to read by; without them the file must be as `write_seeds` writes it, and an unknown field is an error.

    Raises:
        UserError: the file is missing, or a line is not a seed; file, line and field are named. At the end: no seed at all.
    """
    number = 0
    for number, line in numbered_lines(Path(path), "file of seeds"):
        where = f"{path}:{number}"
        yield number, seed_of(parse_json(line, where, "one seed a line"), where, fields)
    if not number:
        raise UserError(f"{path}: no seeds in it; expected one JSON object a line (docs/factory.md)")


def read_seeds(path: str | Path) -> list[Seed]:
    """A whole file of `write_seeds`.

    Raises:
        UserError: as `iter_seeds`, or an id is used twice.
    """
    seeds: dict[str, Seed] = {}
    for number, seed in iter_seeds(path):
        if seed.id in seeds:
            raise UserError(f"{path}:{number}: field 'id': seed '{seed.id}' is there twice; ids must be unique")
        seeds[seed.id] = seed
    return list(seeds.values())


def seed_of(record: Any, where: str, fields: SeedFields | None = None) -> Seed:
    """One seed out of a JSON object or a row; without an id it is named by its content.

    Raises:
        UserError: a field is missing, empty or of another type, or unknown while `fields` is None. Begins with `where`.
    """
    strict, fields = fields is None, fields or SeedFields()
    known = list(vars(fields).values())
    if not isinstance(record, dict):
        raise UserError(f"{where}: a seed is a JSON object, with at least 'problem'")
    for key in record if strict else ():
        if key not in known:
            raise UserError(
                f"{where}: field '{key}' is not a field of a seed ({', '.join(known)}){did_you_mean(str(key), known)}; "
                "a bank with other names needs the --...-field options"
            )
    problem = _text(record, fields.problem, where)
    if problem is None:
        hint = "" if fields.problem in record else did_you_mean(fields.problem, map(str, record))
        raise UserError(f"{where}: field '{fields.problem}' is missing or empty; it holds the problem's text{hint}")
    meta = record.get(fields.meta) or {}
    if not isinstance(meta, dict):
        if strict:
            raise UserError(f"{where}: field '{fields.meta}' must be an object")
        meta = {}
    return Seed(
        id=_text(record, fields.id, where) or content_id(problem),
        problem=problem,
        answer=_text(record, fields.answer, where),
        solution=_text(record, fields.solution, where),
        kind=_text(record, fields.kind, where),
        source=_text(record, fields.source, where),
        meta=meta,
    )


def content_id(problem: str) -> str:
    """The id of a seed that has none: a hash of its text, blanks aside."""
    return "seed-" + hashlib.sha256(" ".join(problem.split()).encode()).hexdigest()[:16]


def _text(record: dict[str, Any], name: str, where: str) -> str | None:
    """A field as text; None where it is missing, null or blank. Numbers are text here: an id 7, an answer 0.5."""
    value = record.get(name)
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise UserError(f"{where}: field '{name}' must be text, not {type(value).__name__}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise UserError(f"{where}: field '{name}' holds half of a surrogate pair, which is not text; mend the export")
    return value if value.strip() else None
