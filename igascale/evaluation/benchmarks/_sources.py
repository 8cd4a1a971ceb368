"""Where a benchmark's records come from: a file, a folder as published, a zip or tar archive, or a Hub id.

A file's form is told by its content: a JSON array, one JSON object, JSON lines, or Parquet.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from igascale.errors import UserError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(:[\w.-]+)?")

_ENDINGS = (".json", ".jsonl", ".txt", ".parquet", ".zip", ".tar", ".gz", ".npy")


@dataclass(frozen=True)
class Record:
    """One parsed record and how a message names it."""

    value: Any
    where: str


@dataclass(frozen=True)
class SourceFile:
    """One file of a source, read when it is asked for.

    Attributes:
        name: its path within the source, with ``/``; for a Hub id ``configuration/split``.
        shown: how a message names it.
    """

    name: str
    shown: str
    _read: Callable[[], bytes | list[Any]] = field(repr=False)

    def load(self) -> tuple[str, list[Record]]:
        """Its SHA-256 (of a Hub split: of its rows as JSON lines with sorted keys) and its records."""
        content = self._read()
        if isinstance(content, bytes):
            return hashlib.sha256(content).hexdigest(), parse(content, self.shown)
        digest = hashlib.sha256()
        for row in content:
            digest.update(
                json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")
            )
            digest.update(b"\n")
        return digest.hexdigest(), [Record(row, f"{self.shown}[{i}]") for i, row in enumerate(content)]


@dataclass(frozen=True)
class Source:
    """All files of a source, by name; `sha256` is that of an archive itself, else None."""

    shown: str
    files: list[SourceFile]
    sha256: str | None = None
    is_hub: bool = False


def open_source(
    source: str | Path, *, password: str | None = None, choose: Callable[[list[str]], list[str]] | None = None
) -> Source:
    """The files of a source; none is parsed yet.

    Args:
        source: a path, or a Hub id ``owner/name`` or ``owner/name:configuration``. What exists on disk is a path.
        password: of an encrypted zip archive.
        choose: which of a Hub data set's configurations to read, given all of them.

    Raises:
        UserError: there is no such thing, or it cannot be read.
    """
    path = Path(source)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:  # no permission, too long a name, a NUL in it
        raise UserError(f"{str(source)[:200]!r}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p.relative_to(path)))
        if not files:
            raise UserError(f"{path}: an empty folder")
        return Source(
            str(path), [SourceFile(p.relative_to(path).as_posix(), str(p), partial(_bytes, p)) for p in files]
        )
    if path.is_file():
        if zipfile.is_zipfile(path):
            return _zip(path, password)
        if tarfile.is_tarfile(path):
            return _tar(path)
        return Source(str(path), [SourceFile(path.name, str(path), partial(_bytes, path))])
    if path.suffix in _ENDINGS or (len(path.parts) > 1 and path.parent.is_dir()):
        raise UserError(f"{source}: no such file or folder")  # a slip, and not worth asking the Hub about
    if _HUB_ID.fullmatch(str(source)):
        return _hub(str(source), choose or (lambda names: names))
    raise UserError(f"{source}: no such file or folder, and not a Hub id (owner/name)")


def parse(content: bytes, shown: str) -> list[Record]:
    """The records of a file's content.

    Raises:
        UserError: it is none of the forms; the line is named.
    """
    if content[:4] == b"PAR1":
        return _parquet(content, shown)
    if content.startswith(b"version https://git-lfs"):
        raise UserError(f"{shown}: is a Git LFS pointer, not the file; fetch it with git lfs pull")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{shown}:{line}: not UTF-8 text (byte {error.start})") from None
    if not text.strip():
        raise UserError(f"{shown}: is empty")
    if text.lstrip().startswith("{") and _is_json(text.strip().split("\n", 1)[0]):
        return _lines(text, shown)
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{shown}:{error.lineno}: not valid JSON ({error.msg} at column {error.colno})") from None
    except RecursionError:
        raise UserError(f"{shown}: nested too deeply to be a benchmark file") from None
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{shown}: not JSON that can be read ({error})") from None
    if isinstance(whole, list):
        return [Record(value, f"{shown}[{i}]") for i, value in enumerate(whole)]
    return [Record(whole, shown)]


def combined_digest(digests: dict[str, str]) -> str:
    """One SHA-256 for several files: of the lines ``digest  name`` in the order of the names, as sha256sum prints them."""
    lines = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _hidden(path: Path | PurePosixPath) -> bool:
    """Version control, caches, and what macOS adds to archives."""
    return any(part.startswith((".", "__MACOSX")) for part in path.parts)


def _lines(text: str, shown: str) -> list[Record]:
    records = []
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: U+2028 may stand in a string
        if not line.strip():
            continue
        try:
            records.append(Record(json.loads(line), f"{shown}:{number}"))
        except json.JSONDecodeError as error:
            reason = f"{error.msg} at column {error.colno}"
            raise UserError(f"{shown}:{number}: not valid JSON ({reason}); one object a line") from None
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets thousands deep
            reason = "too deep" if isinstance(error, RecursionError) else str(error)
            raise UserError(f"{shown}:{number}: not valid JSON ({reason}); one object a line") from None
    return records


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    except (ValueError, RecursionError):
        return True  # as a line it is complete; reading it says what is wrong
    return True


def _parquet(content: bytes, shown: str) -> list[Record]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{shown}: a Parquet file needs pyarrow: pip install 'igascale[data]'") from None
    try:
        rows = pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{shown}: not a readable Parquet file: {' '.join(str(error).split())}") from None
    return [Record(row, f"{shown}[{i}]") for i, row in enumerate(rows)]


def _zip(path: Path, password: str | None) -> Source:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path}: not a readable zip archive: {error}") from None

    def read(name: str) -> bytes:
        secret = password.encode() if password is not None else None
        if archive.getinfo(name).flag_bits & 1 and secret is None:
            raise UserError(
                f"{path}: is encrypted; give its password with --password (see --info for where it is printed)"
            )
        try:
            return archive.read(name, pwd=secret)
        except RuntimeError as error:
            if "password" in str(error).lower():
                raise UserError(f"{path}: the password is wrong") from None
            raise UserError(f"{path}: {name}: {error}") from None
        except NotImplementedError as error:
            raise UserError(f"{path}: {name}: {error}; unpack it and name the folder") from None
        except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
            raise UserError(f"{path}: {name}: damaged ({error}); or the password is wrong") from None

    names = sorted(n for n in archive.namelist() if not n.endswith("/") and not _hidden(PurePosixPath(n)))
    return _archive(path, names, read)


def _tar(path: Path) -> Source:
    try:
        archive = tarfile.open(path)  # noqa: SIM115 - it is read for as long as the source lives
        members = {m.name.removeprefix("./"): m for m in archive.getmembers() if m.isfile()}
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{path}: not a readable tar archive: {error}") from None

    def read(name: str) -> bytes:
        try:
            file = archive.extractfile(members[name])
            return file.read() if file else b""
        except (tarfile.TarError, OSError, EOFError) as error:
            raise UserError(f"{path}: {name}: damaged ({error})") from None

    return _archive(path, sorted(n for n in members if not _hidden(PurePosixPath(n))), read)


def _archive(path: Path, names: list[str], read: Callable[[str], bytes]) -> Source:
    if not names:
        raise UserError(f"{path}: an archive without files")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Source(str(path), [SourceFile(n, f"{path}/{n}", partial(read, n)) for n in names], digest)


def _hub(source: str, choose: Callable[[list[str]], list[str]]) -> Source:
    try:
        import datasets
    except ImportError:
        raise UserError(f"'{source}' is not on disk, and a Hub id needs: pip install 'igascale[data]'") from None
    name, _, only = source.partition(":")
    try:
        configs = datasets.get_dataset_config_names(name)
        if only and only not in configs:
            raise UserError(f"{name}: no configuration '{only}'; it has {', '.join(configs)}")
        files = [
            SourceFile(f"{config}/{split}", f"{name} {config}/{split}", partial(list, rows))
            for config in ([only] if only else choose(configs))
            for split, rows in datasets.load_dataset(name, config).items()
        ]
    except UserError:
        raise
    except Exception as error:  # the network, a gate, a loading script, a wrong name: many classes, one answer
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"'{source}': no such file or folder, and as a Hub id it cannot be read: {reason}") from None
    return Source(source, files, is_hub=True)
