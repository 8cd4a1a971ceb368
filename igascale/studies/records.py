"""What is known of a job between two starts of a study: ``NAME.job/`` beside its run folder."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from igascale import status
from igascale.config import RunConfig
from igascale.errors import UserError
from igascale.files import write_atomically

RECORD, CONFIG, LOG, LOCK = "job.json", "job.yaml", "log.txt", "lock"


@dataclass(frozen=True)
class Wanted:
    """What decides the result of a job, as it is now.

    Attributes:
        config: the resolved configuration.
        data: SHA-256 of the training file.
        model: fingerprint of the base model's files.
        hook: SHA-256 of the file of a hook that is not igascale's.
        evaluation: arguments of ``igascale eval``; ``None`` where nothing is evaluated.
        files: SHA-256 of every file or folder that these and the configuration's held-out sets name.
    """

    config: dict[str, Any]
    data: str | None
    model: dict[str, str] | None
    hook: str | None
    evaluation: list[str] | None
    files: dict[str, str]

    @classmethod
    def of(cls, config: RunConfig, evaluation: Sequence[str] | None) -> Wanted:
        """Read and hash everything."""
        from igascale.resuming.sources import find_sources

        sources = find_sources(config)
        named = [config.data.validation, config.data.ood, *(evaluation or ())] if evaluation is not None else []
        files = {}
        for text in filter(None, named):
            for path in (text, text.partition("=")[2]):  # --benchmark math=FILE
                if path and Path(path).exists():
                    files[path] = contents(Path(path))
        asked = None if evaluation is None else list(evaluation)
        return cls(config.model_dump(mode="json"), sources.data, sources.model, sources.hook, asked, files)


@dataclass
class Record:
    """``job.json``.

    Attributes:
        wanted: what was asked for when it began; ``None`` before that.
        state: ``new``, ``running``, ``finished``, ``failed`` or ``interrupted``.
        reason: why it failed.
        adapter: SHA-256 of the adapter that training ended with.
        evaluation: SHA-256 of the finished ``evaluation.json``.
        process: who works on it, or did last.
        seconds: of this job's processes, over all starts.
        at_a_time: most jobs that ran beside it and itself.
    """

    wanted: Wanted | None = None
    state: str = "new"
    reason: str = ""
    adapter: str | None = None
    evaluation: str | None = None
    process: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    at_a_time: int = 1

    def write(self, folder: Path) -> None:
        """Replace the file."""
        self.process = status.this_process()
        write_atomically(folder / RECORD, json.dumps(asdict(self), indent=1) + "\n")


def read(folder: Path) -> Record:
    """The record of a job; a new one where there is none.

    Raises:
        UserError: it cannot be read.
    """
    path = folder / RECORD
    if not path.is_file():
        return Record()
    try:
        raw = json.loads(path.read_text())
        wanted = Wanted(**raw.pop("wanted")) if raw.get("wanted") else None
        return Record(
            **{"wanted": wanted} | {k: v for k, v in raw.items() if k in {f.name for f in fields(Record)} - {"wanted"}}
        )
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a job's record ({error}); remove {folder} and the run beside it") from None


def training_changes(before: Wanted, current: RunConfig, now: Wanted) -> list[str]:
    """The keys and files that would make it another training, each with both values."""
    from igascale.resuming.mathematics import compare
    from igascale.resuming.sources import Sources

    changes = compare(
        before.config, current, Sources(before.data, before.model, before.hook), Sources(now.data, now.model, now.hook)
    )
    told = []
    for change in changes:
        if change.key in ("data.train", "model.path", "hook.source"):
            told += [] if change.kind == "none" else [f"{change.key} has other contents"]
        elif change.kind != "none":
            told.append(f"{change.key} was {change.before!r}, is {change.now!r}")
    return told


def evaluation_changes(before: Wanted, now: Wanted) -> list[str]:
    """The same of the evaluation."""
    told = []
    if before.evaluation != now.evaluation:
        told.append(f"options were '{_shown(before.evaluation)}', are '{_shown(now.evaluation)}'")
    contents = set(before.files.values())
    told += [f"{path} has other contents" for path, digest in now.files.items() if digest not in contents]
    return told


def _shown(arguments: Sequence[str] | None) -> str:
    return "no evaluation" if arguments is None else " ".join(arguments)


def sha256(path: Path) -> str:
    """Of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(text: str) -> str:
    """Of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def contents(path: Path) -> str:
    """The same of a file, or of everything in a folder, read again only where a name, a size or a time has changed."""
    if path.is_file():
        return sha256(path)
    found = sorted(p for p in path.rglob("*") if p.is_file())
    return _of_folder(path, tuple((str(p.relative_to(path)), p.stat().st_size, p.stat().st_mtime_ns) for p in found))


@cache
def _of_folder(folder: Path, listing: tuple[tuple[str, int, int], ...]) -> str:
    lines = "".join(f"{sha256(folder / name)} {name}\n" for name, _, _ in listing)
    return hashlib.sha256(lines.encode()).hexdigest()


def digest_or_none(path: Path) -> str | None:
    """The same; ``None`` where there is no such file."""
    return sha256(path) if path.is_file() else None


@contextmanager
def held(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder's lock, which the kernel frees however this process ends.

    Raises:
        UserError: another process has it, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{what} is in use: {_holder(descriptor)}; wait for it, or stop it") from None
        except OSError:
            pass  # a file system without locks
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps({"host": os.uname().nodename, "pid": os.getpid()}).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    try:
        holder: Mapping[str, Any] = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {holder['pid']} on {holder['host']} works on it"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process works on it"
