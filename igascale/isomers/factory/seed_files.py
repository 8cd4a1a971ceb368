"""Banks of seed problems in whatever file they come: JSONL, Parquet, a folder saved by ``datasets``, a Hub id.

Rows are read one after the other, as often as asked: the whole bank is never in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igascale.errors import UserError
from igascale.isomers.seeds import Seed, SeedFields, iter_seeds, seed_of


@dataclass(frozen=True)
class Bank:
    """A bank of problems; iterate over it for (where, seed), as often as you like.

    Attributes:
        source: path of a file or folder, or a Hub id.
        fields: the names of its fields; None: those of `write_seeds`, strictly.
        split: of a folder or Hub id that has several.
    """

    source: str
    fields: SeedFields | None = None
    split: str | None = None

    def __iter__(self) -> Iterator[tuple[str, Seed]]:
        path = Path(self.source)
        if path.is_file() and path.suffix != ".parquet":
            yield from ((f"{path}:{number}", seed) for number, seed in iter_seeds(path, self.fields))
            return
        rows = 0
        for where, row in self._rows(path):
            rows += 1
            yield where, seed_of(dict(row), where, self.fields)
        if not rows:
            raise UserError(f"{self.source}: no seeds in it")

    def stamp(self) -> list[tuple[str, int, int]]:
        """Name, size and time of its files, to see whether they change; empty for the Hub."""
        path = Path(self.source)
        files = sorted(path.rglob("*")) if path.is_dir() else [path] if path.is_file() else []
        return [(str(file), (status := file.stat()).st_size, status.st_mtime_ns) for file in files]

    def _rows(self, path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
        if path.is_file():
            return _parquet_rows([path])
        if path.is_dir():
            files = sorted(path.glob("*.parquet"))
            return _parquet_rows(files) if files else _saved_rows(path, self.split)
        if path.is_absolute() or path.suffix in (".jsonl", ".json", ".parquet") or self.source.count("/") != 1:
            raise UserError(f"{self.source}: no such file or folder of seeds (nor is it a Hub id: owner/name)")
        return _hub_rows(self.source, self.split)


def _parquet_rows(paths: list[Path]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{paths[0]}: Parquet needs pyarrow: pip install 'igascale[data]'") from None
    for path in paths:
        number = 0
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=256):
                    for row in batch.to_pylist():
                        number += 1
                        yield f"{path}: row {number}", row
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{path}: cannot be read as Parquet ({_first_line(error)})") from None


def _saved_rows(path: Path, split: str | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    datasets = _datasets(path)
    try:
        saved = datasets.load_from_disk(str(path))
    except Exception as error:  # `datasets` raises what its parts raise
        raise UserError(
            f"{path}: holds no Parquet files and is not a folder saved by `datasets` ({_first_line(error)})"
        ) from None
    if isinstance(saved, datasets.DatasetDict):
        if split is None or split not in saved:
            wrong = f"has no split '{split}'" if split else "has several splits"
            raise UserError(f"{path}: {wrong}; choose with --split: {', '.join(saved)}")
        saved = saved[split]
    elif split is not None:
        raise UserError(f"{path}: holds one unnamed split; leave out --split {split}")
    for number, row in enumerate(saved, start=1):
        yield f"{path}: row {number}", row


def _hub_rows(name: str, split: str | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    datasets = _datasets(name)
    try:
        rows = datasets.load_dataset(name, split=split or "train", streaming=True)
    except Exception as error:  # as above: no network, no such set, no such split
        raise UserError(
            f"{name}: not a file here, and cannot be read from the Hub, split '{split or 'train'}' ({_first_line(error)})"
        ) from None
    for number, row in enumerate(rows, start=1):
        yield f"{name}[{split or 'train'}]: row {number}", row


def _datasets(source: object) -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError(f"{source}: needs the package `datasets`: pip install 'igascale[data]'") from None
    return datasets


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
