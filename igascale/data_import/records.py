"""Rows from JSONL, a JSON array, CSV, Parquet, a folder of `datasets`, or the Hub, one at a time, whatever the size."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from igascale.errors import UserError

#: A row, and where it stands: "file:line" or "file, row N".
Row = tuple[str, dict[str, Any]]

_BATCH = 1000
_CHUNK = 1 << 16  # characters of a JSON array read at a time


def iter_rows(source: str, split: str | None = None, subset: str | None = None) -> Iterator[Row]:
    """The rows of a source, in order.

    Args:
        source: a ``.jsonl``, ``.json``, ``.csv``, ``.tsv`` or ``.parquet`` file, a folder that ``datasets`` saved, or a Hub id.
        split: of a folder or Hub id that has several.
        subset: of a Hub id, what ``datasets`` calls its configuration.

    Raises:
        UserError: there is no such source, it is broken (file and line), or a package to read it is missing.
    """
    path = Path(source)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:  # too long a name, no permission, a NUL in it
        raise UserError(f"{source[:200]!r}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if path.is_dir():
        return _folder(path, split)
    if not path.exists():
        if path.suffix or source.startswith((".", "/", "~")) or source.count("/") > 1:
            raise UserError(f"{source}: no such file; check the path")
        return _hub(source, split, subset)
    if split or subset:
        raise UserError(f"{source}: is a single file; --split and --subset are for folders of `datasets` and Hub ids")
    readers = {".parquet": _parquet, ".csv": _csv, ".tsv": _csv}
    return readers.get(path.suffix.lower(), _json)(path)


def _json(path: Path) -> Iterator[Row]:
    """JSONL, or one array; the first character tells."""
    with _opened(path) as file:
        start = file.read(1)
        while start.isspace():
            start = file.read(1)
        array = start == "["
    if array:
        yield from _array(path)
        return
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                where = f"{path}:{number}"
                try:
                    row = json.loads(line, object_pairs_hook=_once)
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{where}: not valid JSON ({_reason(error)}); one object a line") from None
                yield where, _object(row, where)


def _array(path: Path) -> Iterator[Row]:
    """The objects of an array, without the array."""
    decoder, number = json.JSONDecoder(object_pairs_hook=_once), 0
    with _opened(path) as file:
        buffer = file.read(_CHUNK).lstrip()[1:]
        while True:
            buffer = buffer.lstrip()
            if not buffer or (number and buffer.startswith(",") and not buffer[1:].strip()):
                more = file.read(_CHUNK)
                if not more:
                    raise UserError(f"{path}: the JSON array does not end; the file is cut off after row {number}")
                buffer += more
                continue
            if buffer.startswith("]"):
                if buffer[1:].strip() or file.read(_CHUNK).strip():
                    raise UserError(f"{path}: there is more text after the JSON array's end")
                return
            if number and not buffer.startswith(","):
                raise UserError(f"{path}, row {number + 1}: not valid JSON (a comma is missing)")
            where = f"{path}, row {number + 1}"
            row, buffer = _next(decoder, buffer[1:] if number else buffer, file, where)
            number += 1
            yield where, _object(row, where)


def _next(decoder: json.JSONDecoder, buffer: str, file: TextIO, where: str) -> tuple[Any, str]:
    """The value that the buffer begins with, and what is left; reads on while the value is not complete."""
    while True:
        text = buffer.lstrip()
        try:
            value, end = decoder.raw_decode(text)
        except json.JSONDecodeError as error:
            incomplete = error.pos > len(text) - 16 or error.msg.startswith("Unterminated")
            more = incomplete and file.read(max(_CHUNK, len(buffer)))  # twice as much each time
            if not more:
                raise UserError(f"{where}: not valid JSON ({_reason(error)})") from None
            buffer += more
            continue
        except (
            ValueError,
            RecursionError,
        ) as error:  # a key twice, a number of thousands of digits, brackets thousands deep
            raise UserError(f"{where}: not JSON that can be read ({_reason(error)})") from None
        if end == len(text) and (more := file.read(_CHUNK)):  # a number may go on
            buffer += more
            continue
        return value, text[end:]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; a key that is there twice has two values, of which `json` would take the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key '{twice}' is there twice")
    return found


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    with _opened(path, newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        try:
            names = reader.fieldnames or ()
            if len(set(names)) != len(names):
                raise UserError(f"{path}:1: a column's name is there twice")
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if None in row or None in row.values():
                    raise UserError(f"{where}: the row has not as many fields as the header, {len(names)}")
                yield where, dict(row)
        except csv.Error as error:
            raise UserError(f"{path}:{reader.reader.line_num}: not valid CSV ({error})") from None


def _parquet(path: Path) -> Iterator[Row]:
    pyarrow, parquet = _package("pyarrow"), _package("pyarrow.parquet")
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a Parquet file that can be read ({_reason(error)})") from None


def _folder(path: Path, split: str | None) -> Iterator[Row]:
    if not any((path / name).exists() for name in ("dataset_dict.json", "state.json")):
        raise UserError(
            f"{path}: not a folder that `datasets` saved (save_to_disk); name its files one by one, for example {path}/*"
        )
    datasets = _package("datasets")
    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # whatever its formats raise
        raise UserError(f"{path}: `datasets` cannot load it ({_reason(error)})") from None
    return _dataset(loaded, str(path), split)


def _hub(name: str, split: str | None, subset: str | None) -> Iterator[Row]:
    datasets = _package("datasets")
    try:
        loaded = datasets.load_dataset(name, subset, split=split)
    except Exception as error:  # the network, the Hub, a loading script, a format
        raise UserError(
            f"{name}: no such file here, and `datasets` cannot load it from the Hub ({_reason(error)}); check the name and the "
            "network, or download it and name its files"
        ) from None
    return _dataset(loaded, name, split)


def _dataset(loaded: Any, name: str, split: str | None) -> Iterator[Row]:
    if isinstance(loaded, dict):
        if split is None and len(loaded) == 1:
            (split,) = loaded
        if split not in loaded:
            raise UserError(f"{name}: has the splits {', '.join(loaded)}; choose one with --split")
        loaded = loaded[split]
    elif split is not None and loaded.split is not None and str(loaded.split) != split:
        raise UserError(f"{name}: holds the split {loaded.split}, not '{split}'; leave --split out")
    return ((f"{name}, row {number}", dict(row)) for number, row in enumerate(loaded, start=1))


@contextmanager
def _opened(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as file:
            yield file
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason}); convert it first") from None
    except OSError as error:
        raise UserError(f"{path}: cannot read it ({error.strerror}); check the path") from None


def _object(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{where}: a row must be an object with named fields, not {type(row).__name__}")
    return row


def _package(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"reading this needs the package {name.split('.')[0]}: pip install 'igascale[data]'") from None


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + " ..."


def chain_sources(sources: Iterable[str], split: str | None, subset: str | None) -> Iterator[Row]:
    """The rows of several sources, one after the other."""
    for source in sources:
        yield from iter_rows(source, split, subset)
