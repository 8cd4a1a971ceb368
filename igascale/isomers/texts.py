"""The texts of a file, whatever it holds: groups, seeds, or one text a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from igascale.errors import UserError
from igascale.isomers.schema import iter_groups


def read_texts(path: str | Path, solutions: bool = True) -> Iterator[tuple[str, str]]:
    """Yield (id, text); a problem and its solution come one after the other, under one id.

    Args:
        path: JSONL of groups (ids are those of the instances), JSONL of seeds, or plain text with one text a line, whose id is
            its line number. The first line tells which.
        solutions: also the chains of thought and the solutions.

    Raises:
        UserError: the file cannot be read, is empty, or a line is not what the first one is.
    """
    path = Path(path)
    numbered = _lines(path)
    first = next(numbered, None)
    if first is None:
        raise UserError(f"{path}: no text in it")
    number, line = first
    if line.startswith("["):
        raise UserError(f"{path}:{number}: a JSON list; expected one JSON object, or one text, a line")
    if not line.startswith("{"):
        yield str(number), line
        yield from ((str(number), line) for number, line in numbered)
    elif "instances" in _record(path, number, line):
        for _, group in iter_groups(path):
            for instance in group.instances:
                yield instance.id, instance.problem
                if solutions and instance.cot:
                    yield instance.id, instance.cot
    else:
        yield from _seed(path, number, line, solutions)
        for number, line in numbered:
            yield from _seed(path, number, line, solutions)


def _seed(path: Path, number: int, line: str, solutions: bool) -> Iterator[tuple[str, str]]:
    record = _record(path, number, line)
    problem, solution = record.get("problem"), record.get("solution")
    if not isinstance(problem, str):
        raise UserError(
            f"{path}:{number}: field 'problem': is missing or no string; expected seeds, or groups with 'instances' "
            "(docs/leakage.md)"
        )
    name = str(record.get("id", number))
    yield name, problem
    if solutions and isinstance(solution, str):
        yield name, solution


def _record(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{number}: not valid JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(record, dict):
        raise UserError(f"{path}:{number}: not a JSON object; the first line is one")
    return record


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines that are not blank, stripped."""
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                except UnicodeDecodeError as error:
                    raise UserError(f"{path}:{number}: not UTF-8 ({error.reason})") from None
                if line:
                    yield number, line
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
