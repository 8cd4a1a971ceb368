"""Evaluations as files: the samples of a folder, checked line by line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from igascale.errors import UserError
from igascale.evaluation.accuracy import Sample
from igascale.evaluation.results import RESULT_FILE, SAMPLES_FILE, EvaluationResult, read_result

#: Suite, side and id: what a sample is joined by.
Key = tuple[str, str, str]
_TYPES: dict[str, Any] = {"correct": bool, "finished": bool, "new_tokens": int}
_MAY_BE_NULL = ("kind", "predicted")


@dataclass(frozen=True)
class Evaluation:
    """One evaluation that was finished.

    Attributes:
        name: what tables call it: the path as the user gave it.
        folder: where its files are.
        result: its ``evaluation.json``.
        samples: by key, in the order of ``samples.jsonl``.
    """

    name: str
    folder: Path
    result: EvaluationResult
    samples: dict[Key, Sample]


def read_evaluations(paths: Sequence[str]) -> list[Evaluation]:
    """Evaluation folders, or runs, whose evaluation of the final adapter is then read.

    Raises:
        UserError: there is none, it is broken, or one is named twice.
    """
    evaluations = [_read(path) for path in paths]
    for i, one in enumerate(evaluations):
        for other in evaluations[:i]:
            if one.folder.resolve() == other.folder.resolve():
                raise UserError(
                    f"{one.name} and {other.name} are the same evaluation ({one.folder}); name two different ones"
                )
    return evaluations


def _read(path: str) -> Evaluation:
    folder = _folder(path)
    result = read_result(folder / RESULT_FILE)
    samples: dict[Key, Sample] = {}
    for number, sample in read_samples(folder / SAMPLES_FILE):
        key = (sample.suite, sample.split, sample.instance_id)
        if key in samples:
            raise UserError(
                f"{folder / SAMPLES_FILE}:{number}: '{sample.instance_id}' stands twice in {sample.suite} {sample.split}; "
                "samples are joined by their id, so evaluate again on data with ids of their own"
            )
        samples[key] = sample
    counted = {
        (suite, side): split.accuracy.samples for suite, s in result.suites.items() for side, split in s.splits.items()
    }
    there = Counter(key[:2] for key in samples)
    for suite, side in dict.fromkeys([*counted, *there]):
        if there[suite, side] != counted.get((suite, side), 0):
            raise UserError(
                f"{folder}: {SAMPLES_FILE} holds {there[suite, side]} samples of {suite} {side.upper()}, {RESULT_FILE} counts "
                f"{counted.get((suite, side), 0)}; the files do not belong together, evaluate again"
            )
    name = path.rstrip("/") or path
    return Evaluation(name, folder, result, samples)


def _folder(path: str) -> Path:
    """The folder that holds the files.

    Raises:
        UserError: there is no finished evaluation.
    """
    given = Path(path)
    if given.name in (SAMPLES_FILE, RESULT_FILE):
        given = given.parent
    for folder in (given, given / "evaluation"):
        if (folder / RESULT_FILE).is_file() and (folder / SAMPLES_FILE).is_file():
            return folder
        if (folder / SAMPLES_FILE).is_file() or (folder / RESULT_FILE).is_file():
            missing = RESULT_FILE if (folder / SAMPLES_FILE).is_file() else SAMPLES_FILE
            raise UserError(f"{folder} holds no {missing}, so its evaluation is not complete; run igascale eval again")
    what = "is no folder" if not given.is_dir() else "holds no evaluation"
    raise UserError(f"{path}: {what}; give a run, or a folder that igascale eval --out wrote")


def read_samples(file: Path) -> Iterator[tuple[int, Sample]]:
    """``(line number, sample)`` of a ``samples.jsonl``.

    Raises:
        UserError: the file cannot be read, or a line is no sample.
    """
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                yield number, _sample(line, f"{file}:{number}")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 ({error.reason} at byte {error.start}); evaluate again") from None
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; run igascale eval first") from None


def _sample(line: str, where: str) -> Sample:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: no JSON ({error}); the file is damaged, evaluate again") from None
    if not isinstance(record, dict):
        raise UserError(f"{where}: a sample is an object, not {type(record).__name__}; evaluate again")
    values = {}
    for field in fields(Sample):
        if field.name not in record:
            if field.default is MISSING:
                raise UserError(f"{where}: no field '{field.name}'; evaluate again with this version")
            continue
        value, wanted = record[field.name], _TYPES.get(field.name, str)
        checked = field.name in _TYPES or field.default is MISSING or isinstance(field.default, str)
        if checked and type(value) is not wanted and not (value is None and field.name in _MAY_BE_NULL):
            raise UserError(f"{where}: '{field.name}' must be {wanted.__name__}, not {value!r:.60}; evaluate again")
        values[field.name] = value
    return Sample(**values)
