"""The texts of a file, whatever it holds: groups, seeds, texts of a benchmark, or one plain text a line."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from igascale.errors import UserError
from igascale.isomers.json_lines import parse_json
from igascale.isomers.schema import iter_groups, numbered_lines
from igascale.isomers.seeds import SeedFields, seed_of


def read_texts(path: str | Path, solutions: bool = True) -> Iterator[tuple[str, str]]:
    """Yield (id, text); a problem and its solution come one after the other, under one id.

    Args:
        path: JSONL of groups (ids are those of the instances), of seeds, or of objects with `id` and `text` as
            `igascale data benchmark --texts` writes them; or plain text with one text a line, whose id is its line number.
            The first line tells which.
        solutions: also the chains of thought and the solutions.

    Raises:
        UserError: the file cannot be read, is empty, or a line is not what the first one is.
    """
    path = Path(path)
    numbered = numbered_lines(path, "file of texts")
    first = next(numbered, None)
    if first is None:
        raise UserError(f"{path}: no text in it")
    number, line = first
    if line.lstrip().startswith("["):
        raise UserError(f"{path}:{number}: a JSON list; expected one JSON object, or one text, a line")
    if not line.lstrip().startswith("{"):
        yield from ((str(number), line.strip()) for number, line in chain([first], numbered))
        return
    record = _record(path, number, line)
    if "instances" in record:
        for _, group in iter_groups(path):
            for instance in group.instances:
                yield instance.id, instance.problem
                if solutions and instance.cot:
                    yield instance.id, instance.cot
        return
    read = _text if "text" in record and "problem" not in record else _seed
    for number, line in chain([first], numbered):
        yield from read(_record(path, number, line), f"{path}:{number}", solutions)


def _text(record: dict[str, Any], where: str, solutions: bool) -> Iterator[tuple[str, str]]:
    text = record.get("text")
    if not isinstance(text, str):
        raise UserError(f"{where}: field 'text': is missing or no string, as the first line has it")
    yield str(record.get("id", where.rpartition(":")[2])), text


def _seed(record: dict[str, Any], where: str, solutions: bool) -> Iterator[tuple[str, str]]:
    seed = seed_of(record, where, SeedFields())
    yield seed.id, seed.problem
    if solutions and seed.solution:
        yield seed.id, seed.solution


def _record(path: Path, number: int, line: str) -> dict[str, Any]:
    record = parse_json(line, f"{path}:{number}", "one text a line")
    if not isinstance(record, dict):
        raise UserError(f"{path}:{number}: not a JSON object; the first line is one")
    return record
