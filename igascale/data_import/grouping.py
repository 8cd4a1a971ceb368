"""Rows put together by group outside memory: a temporary SQLite file."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from types import TracebackType

from igascale.data_import.texts import Texts
from igascale.errors import UserError
from igascale.isomers.schema import Instance, IsomerGroup

_SCHEMA = """
CREATE TABLE groups (number INTEGER PRIMARY KEY, name TEXT UNIQUE, seed TEXT, kind TEXT, place TEXT);
CREATE TABLE rows (number INTEGER, domain INTEGER, place TEXT, problem TEXT, cot TEXT, answer TEXT);
CREATE TABLE domains (number INTEGER PRIMARY KEY, name TEXT UNIQUE, rows INTEGER);
"""
_LARGE = 16  # MiB of the database that SQLite keeps in memory


@dataclass(frozen=True)
class Incomplete:
    """A group that is not one instance of each domain.

    Attributes:
        group: its id.
        place: of its first row.
        why: what is wrong, for a message.
    """

    group: str
    place: str
    why: str


class Grouping:
    """Takes rows in any order, and gives groups in the order of their first rows.

    Raises:
        UserError: from any method: the disk is full.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="igascale-import-")
        self._base = sqlite3.connect(f"{self._folder.name}/rows.sqlite", isolation_level=None)
        self._base.executescript(
            f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-{_LARGE * 1024}; PRAGMA temp_store=FILE; {_SCHEMA} BEGIN;"
        )

    def __enter__(self) -> Grouping:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._base.close()
        self._folder.cleanup()
        if isinstance(error, sqlite3.OperationalError):
            raise UserError(
                f"cannot sort the rows in {tempfile.gettempdir()} ({error}); make room there or set TMPDIR"
            ) from None

    def add(self, place: str, group: str, domain: str, texts: Texts, seed: str | None, kind: str | None) -> str | None:
        """Take a row; what is wrong with it beside the rows before, or nothing.

        Args:
            place: where it stands.
            group: its group.
            domain: its domain.
            texts: what it says.
            seed: its seed problem; ``None``: the group is its own.
            kind: of reasoning.
        """
        execute = self._base.execute
        execute(
            "INSERT OR IGNORE INTO groups (name, seed, kind, place) VALUES (?, ?, ?, ?)", (group, seed, kind, place)
        )
        number, *first = execute("SELECT number, seed, kind, place FROM groups WHERE name = ?", (group,)).fetchone()
        for name, mine, theirs in (("seed", seed, first[0]), ("kind", kind, first[1])):
            if mine != theirs:
                return f"group '{group}' has {name} '{mine}' here and '{theirs}' at {first[2]}"
        self.note_domain(domain)
        execute("UPDATE domains SET rows = rows + 1 WHERE name = ?", (domain,))
        execute(
            "INSERT INTO rows VALUES (?, (SELECT number FROM domains WHERE name = ?), ?, ?, ?, ?)",
            (number, domain, place, texts.problem, texts.cot, texts.answer),
        )
        return None

    def note_domain(self, domain: str) -> None:
        """There is such a domain, whether its rows are taken or not."""
        self._base.execute("INSERT OR IGNORE INTO domains (name, rows) VALUES (?, 0)", (domain,))

    def domains(self) -> dict[str, int]:
        """Domain -> rows, in the order first seen."""
        return dict(self._base.execute("SELECT name, rows FROM domains ORDER BY number"))

    def groups(self, domains: Sequence[str]) -> Iterator[IsomerGroup | Incomplete]:
        """Every group, with its instances in the order of ``domains``."""
        rows = self._base.execute(
            "SELECT g.number, g.name, g.seed, g.kind, g.place, d.name, r.place, r.problem, r.cot, r.answer FROM rows r "
            "JOIN groups g ON g.number = r.number JOIN domains d ON d.number = r.domain ORDER BY r.number, r.rowid"
        )
        for (_, name, seed, kind, first), members in groupby(rows, key=itemgetter(0, 1, 2, 3, 4)):
            told: dict[str, tuple[str, Instance]] = {}
            twice = ""
            for domain, place, problem, cot, answer in (row[5:] for row in members):
                if domain in told:
                    twice = twice or f"has domain '{domain}' twice: {told[domain][0]} and {place}"
                told.setdefault(domain, (place, Instance(domain, problem, cot, answer, f"{name}/{domain}")))
            lacking = [domain for domain in domains if domain not in told]
            if twice:
                yield Incomplete(name, first, twice)
            elif lacking:
                yield Incomplete(name, first, f"has no instance of domain {', '.join(lacking)}")
            else:
                yield IsomerGroup(name, seed or name, tuple(told[domain][1] for domain in domains), kind)
