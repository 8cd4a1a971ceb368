"""Answers as they come, in files that survive a kill: what is finished is not asked again. Plain Python.

``OUT/answers/rank-0000.jsonl`` is written by one process alone; every process reads all of them. A line holds a key, which is a
hash of everything that decides the answer, so that no answer is ever used under another setting, model or problem.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from igascale.errors import UserError
from igascale.evaluation.generator import Answered

ANSWERS = "answers"
_PATIENCE = 10.0  # seconds that a start waits for the process before it, which may be about to end


@dataclass(frozen=True)
class Kept:
    """An answer, and the seconds that it took of its process."""

    answered: Answered
    seconds: float


class AnswerStore:
    """Keeps answers by key, in memory and, given a folder, on disk.

    Args:
        deciding: everything but the problem that decides an answer: model, decoding, token limit, precision, ...
        folder: the ``answers`` folder, made if it is missing; ``None`` keeps them in memory only.
        rank: names the file that this process appends to; ``None`` only reads.

    Raises:
        UserError: the folder cannot be written, or another process writes this rank's file.
    """

    def __init__(self, deciding: Mapping[str, Any], folder: Path | None = None, rank: int | None = 0):
        self._deciding = json.dumps(dict(deciding), sort_keys=True, ensure_ascii=False)
        self.folder = folder
        self._kept: dict[str, Kept] = {}
        self._new: list[str] = []  # keys since the last look
        self._read: dict[Path, int] = {}  # file -> bytes that were read
        self._file: BinaryIO | None = None
        if folder is not None and rank is not None:
            self._file = _open(folder, rank)
            self._read_on(Path(self._file.name), self._file)
        self.refresh()

    def key(self, suite: str, version: str, side: str, id_: str, prompt: str) -> str:
        """What decides one answer, as a hash."""
        parts = json.dumps([self._deciding, suite, version, side, id_, prompt], ensure_ascii=False)
        return hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()

    def get(self, key: str) -> Kept | None:
        """The answer of that key, if there is one."""
        return self._kept.get(key)

    def take_new(self) -> list[str]:
        """Keys that have come since the last call, so that who counts need not look at all of them again."""
        new, self._new = self._new, []
        return new

    def put(self, answers: Iterable[tuple[str, Answered, float]]) -> None:
        """Keep some answers; they are handed to the system in one write.

        Raises:
            UserError: the disk is full.
        """
        answers = list(answers)
        self._kept |= {key: Kept(answered, seconds) for key, answered, seconds in answers}
        self._new += [key for key, _, _ in answers]
        if self._file is None:
            return
        lines = [
            json.dumps({"key": key, **vars(answered), "seconds": round(seconds, 4)})
            for key, answered, seconds in answers
        ]
        try:
            self._file.write("".join(f"{line}\n" for line in lines).encode())
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"{self._file.name}: cannot be written ({error.strerror}); the answers before are kept"
            ) from None

    def refresh(self) -> None:
        """Take up what other processes have written since."""
        own = self._file and Path(self._file.name)
        for path in sorted(self.folder.glob("rank-*.jsonl")) if self.folder is not None else ():
            if path != own:  # to close a second descriptor of it would free its lock on some file systems
                with suppress(FileNotFoundError), path.open("rb") as file:
                    self._read_on(path, file)

    def _read_on(self, path: Path, file: BinaryIO) -> None:
        file.seek(self._read.get(path, 0))
        content = file.read()
        whole = content.rfind(b"\n") + 1  # the last line may be half written
        self._read[path] = self._read.get(path, 0) + whole
        for line in content[:whole].splitlines():
            self._take(line)

    def _take(self, line: bytes) -> None:
        """A line that a kill or a power cut has spoilt is no answer."""
        try:
            r = json.loads(line)
            kept = Kept(Answered(r["text"], r["new_tokens"], r["finished"]), r["seconds"])
            fits = isinstance(r["key"], str) and isinstance(r["text"], str) and isinstance(r["new_tokens"], int)
        except (ValueError, KeyError, TypeError):
            return
        if fits:
            self._kept.setdefault(r["key"], kept)
            self._new.append(r["key"])

    def close(self) -> None:
        """Let another process write the file; one without an answer is removed."""
        if self._file is not None:
            path, empty = Path(self._file.name), self._file.tell() == 0
            if empty:
                path.unlink(missing_ok=True)
            with suppress(OSError):  # of a full disk, where what could not be written is tried again: told by put
                self._file.close()
            self._file = None
            if empty:
                with suppress(OSError):  # others have written
                    path.parent.rmdir()


def _open(folder: Path, rank: int) -> BinaryIO:
    path = folder / f"rank-{rank:04d}.jsonl"
    try:
        file = _open_and_lock(path)
        if file.seek(0, os.SEEK_END) and _last_byte(file) != b"\n":
            file.write(b"\n")  # ends a line that a kill has cut off
            file.flush()
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --out") from None
    return file


def _open_and_lock(path: Path) -> BinaryIO:
    """The file of that name, ours alone. Whoever had nothing to keep removes file and folder, which may be while we open them."""
    gone: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    for _ in range(100):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("ab+")
        except (FileNotFoundError, FileExistsError) as error:  # mkdir has found a folder, and then it has not
            gone = error
            continue
        try:
            _lock(file, path)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return file
        except BaseException:
            file.close()
            raise
        file.close()
    raise gone


def _lock(file: BinaryIO, path: Path) -> None:
    """One process per file; the system frees it however the process dies."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except (PermissionError, BlockingIOError):
            if time.monotonic() > end:
                raise UserError(
                    f"{path.parent} is in use: another igascale eval writes there; wait for it, or choose another --out"
                ) from None
            time.sleep(0.1)
        except OSError:  # a file system without locks
            return


def _last_byte(file: BinaryIO) -> bytes:
    file.seek(-1, os.SEEK_END)
    return bytes(file.read(1))
