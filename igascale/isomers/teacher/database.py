"""The store's SQLite file: made, opened and checked; and what goes wrong with it, in one line.

WAL with ``synchronous=FULL``: what was committed is there after a kill and after a power cut. The write-ahead log needs shared memory, so
the file belongs on a local disk, not on a network file system.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from igascale.errors import UserError

APPLICATION = 0x49474146  # "IGAF": SQLite's application_id, by which a file of another program is told apart
VERSION = 1

_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE answers (
    key TEXT PRIMARY KEY, stage TEXT NOT NULL, text TEXT NOT NULL,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, about TEXT NOT NULL, at TEXT NOT NULL);
CREATE TABLE failures (
    key TEXT NOT NULL, reason TEXT NOT NULL, max_tokens INTEGER NOT NULL, stage TEXT NOT NULL, detail TEXT NOT NULL,
    count INTEGER NOT NULL, at TEXT NOT NULL, PRIMARY KEY (key, reason, max_tokens));
CREATE TABLE spending (
    stage TEXT PRIMARY KEY, requests INTEGER NOT NULL, answers INTEGER NOT NULL, unusable INTEGER NOT NULL, refused INTEGER NOT NULL,
    lost INTEGER NOT NULL, input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, cost REAL NOT NULL, lost_cost REAL NOT NULL);
CREATE TABLE sent (id INTEGER PRIMARY KEY, key TEXT NOT NULL, stage TEXT NOT NULL, reserved REAL NOT NULL, at TEXT NOT NULL);
CREATE TABLE outcomes (
    recipe TEXT NOT NULL, seed_id TEXT NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL, stage TEXT NOT NULL,
    at TEXT NOT NULL, record TEXT NOT NULL, UNIQUE (recipe, seed_id));
CREATE INDEX outcomes_by_reason ON outcomes (recipe, status, stage, reason);
"""

_CAUSES = {
    "SQLITE_FULL": "the disk is full; free some space and run the same command again, nothing that was stored is lost",
    "SQLITE_READONLY": "it is read-only; make file and folder writable and run the same command again",
    "SQLITE_NOTADB": "it is not an SQLite file; name another file, or move this one away",
    "SQLITE_CORRUPT": "it is damaged; move it away, or get what can be read by `sqlite3 FILE .recover`",
    "SQLITE_BUSY": "another program has it locked; close that program and run the same command again",
    "SQLITE_CANTOPEN": "it cannot be opened; check that its folder exists and is writable",
}


@contextmanager
def told(path: Path) -> Iterator[None]:
    """SQLite's errors as one line that names the file and the remedy.

    Raises:
        UserError: instead of ``sqlite3.Error``.
    """
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "") or ""
        cause = next((text for code, text in _CAUSES.items() if name.startswith(code)), None)
        cause = cause or f"{error} ({name or type(error).__name__}); nothing that was stored is lost"
        raise UserError(f"{path}: {cause}") from None


def open_for_writing(path: Path, create: bool) -> sqlite3.Connection:
    """The database, made where it is missing. Takes the same time however much is in it.

    Args:
        path: the file.
        create: make it where there is none.

    Raises:
        UserError: missing, not a store, of another version, damaged, read-only or on a full disk.
    """
    missing = not path.exists() or path.stat().st_size == 0
    if missing and not create:
        raise UserError(f"{path}: no such store; `igascale data build` makes one")
    with told(path):
        connection = sqlite3.connect(path, isolation_level=None, timeout=10.0)
        try:
            if missing:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.executescript(
                    f"BEGIN IMMEDIATE; {_TABLES} PRAGMA application_id={APPLICATION}; PRAGMA user_version={VERSION}; COMMIT;"
                )
            _check(connection, path)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("BEGIN IMMEDIATE")  # a read-only file is found out now, not after the first paid answer
            connection.execute("ROLLBACK")
        except BaseException:
            connection.close()
            raise
    return connection


def open_for_reading(path: Path) -> sqlite3.Connection:
    """The database as it is now, also while somebody builds with it, and from a read-only folder.

    Raises:
        UserError: missing, not a store, of another version or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such store; `igascale data build` makes one")
    log = path.with_name(path.name + "-wal")
    with told(path):
        try:
            return _checked(path, "mode=ro")
        except sqlite3.OperationalError:
            # A folder that cannot be written: no shared memory for the log. Without a log the file itself is all there is.
            if log.exists() and log.stat().st_size:
                raise
            return _checked(path, "mode=ro&immutable=1")


def _checked(path: Path, how: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, isolation_level=None, timeout=10.0)
    try:
        _check(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection, path: Path) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION:
        raise UserError(
            f"{path}: an SQLite file of another program, not a store of `igascale data build`; name another file"
        )
    if version != VERSION:
        raise UserError(
            f"{path}: a store of version {version}; this igascale reads version {VERSION}. Use the igascale that made it, or a new store"
        )
