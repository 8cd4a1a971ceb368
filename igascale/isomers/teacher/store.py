"""What the factory has paid for and decided: one SQLite file that survives a kill at any moment.

``answers``
    by the key of their request (:mod:`~igascale.isomers.teacher.request`). Usable ones only; an error is never kept as an answer.
``failures``
    what went wrong on the way, with a count. Unusable answers were paid for, so they count as attempts, across restarts too.
``spending``, ``sent``
    counters by stage, and the requests under way: an answer, its price and the end of its request are one transaction.
``outcomes``
    what became of each seed under a *recipe* (a hash of all that decides it), with the record to show for it.

A store belongs to the thread that opened it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from igascale.errors import UserError
from igascale.isomers.teacher.database import open_for_reading, open_for_writing, told
from igascale.isomers.teacher.store_lock import StoreLock
from igascale.status import now

_PAGE = 256  # outcomes read at a time


@dataclass(frozen=True)
class StoredAnswer:
    """An answer as it was received. ``about`` records model, temperature, seed and what the server said of itself."""

    text: str
    input_tokens: int
    output_tokens: int
    stage: str = ""
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What became of a seed: ``status`` (``accepted``, ``rejected``, ...), why, at which stage, and the record as JSON text."""

    seed_id: str
    recipe: str
    status: str
    reason: str
    stage: str
    record: str


@dataclass(frozen=True)
class Failure:
    """How often a request failed for a reason. ``max_tokens`` is the limit it was sent with."""

    key: str
    reason: str
    max_tokens: int
    stage: str
    detail: str
    count: int


@dataclass(frozen=True)
class Spent:
    """Counters of a stage, or what to add to them.

    Attributes:
        requests: sent, whatever came of them.
        answers: usable.
        unusable: answered and paid for, but not usable.
        refused: turned away or failed at the server (429, 5xx, no connection): not paid for.
        lost: cut or timed out: whether they were paid for is not known.
        input_tokens: of all answers, also unusable ones.
        output_tokens: likewise.
        cost: US dollars, at the prices set when it was paid.
        lost_cost: US dollars reserved for lost requests: the most they can have cost.
    """

    requests: int = 0
    answers: int = 0
    unusable: int = 0
    refused: int = 0
    lost: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    lost_cost: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(*(getattr(self, name) + getattr(other, name) for name in SPENT))


SPENT = tuple(Spent.__dataclass_fields__)
_SPENT = ", ".join(SPENT)
_ADD = (
    f"INSERT INTO spending (stage, {_SPENT}) VALUES (?{', ?' * len(SPENT)}) "
    f"ON CONFLICT (stage) DO UPDATE SET {', '.join(f'{name} = {name} + excluded.{name}' for name in SPENT)}"
)


class Store:
    """See the module. Made by :meth:`open` or :meth:`open_readonly`; closes itself at the end of a ``with`` block."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: StoreLock | None):
        self.path, self._db, self._lock = path, connection, lock

    @classmethod
    def open(cls, path: str | Path, create: bool = True) -> Store:
        """To build with; nobody else can meanwhile.

        Args:
            path: the SQLite file; ``PATH.lock`` beside it is the lock.
            create: make it, and its folder, where there is none.

        Raises:
            UserError: somebody builds with it (host and pid are named), or the file is missing, not a store, read-only, damaged.
        """
        path = Path(path)
        if not create and not path.exists():
            raise UserError(f"{path}: no such store; `igascale data build` makes one")
        if create:
            with _told_of_folder(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
        lock = StoreLock(path)
        try:
            return cls(path, open_for_writing(path, create), lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open_readonly(cls, path: str | Path) -> Store:
        """To look at, also while somebody builds with it; takes no lock and writes nothing.

        Raises:
            UserError: the file is missing, not a store, or damaged.
        """
        return cls(Path(path), open_for_reading(Path(path)), None)

    def close(self) -> None:
        """Twice is nothing."""
        self._db.close()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Answers

    def get(self, key: str) -> StoredAnswer | None:
        """The answer to the request of this key, if it was ever had."""
        row = self._one("SELECT text, input_tokens, output_tokens, stage, about FROM answers WHERE key = ?", key)
        return StoredAnswer(row[0], row[1], row[2], row[3], json.loads(row[4])) if row else None

    def put(self, key: str, answer: StoredAnswer, spent: Spent | None = None, sent: int | None = None) -> None:
        """Keep a usable answer; on the disk when this returns.

        Args:
            key: of its request.
            answer: what came back.
            spent: to add to the counters of ``answer.stage``.
            sent: the number from :meth:`log_sent` that this settles.
        """
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)",
                (key, answer.stage, answer.text, answer.input_tokens, answer.output_tokens, _dump(answer.about), now()),
            )
            self._settle(answer.stage, spent, sent)

    def count_answers(self) -> dict[str, int]:
        """Answers by stage, counted from the answers themselves."""
        return dict(self._all("SELECT stage, count(*) FROM answers GROUP BY stage ORDER BY stage"))

    # Failures and spending

    def log_failure(
        self,
        key: str,
        stage: str,
        reason: str,
        detail: str,
        max_tokens: int = 0,
        spent: Spent | None = None,
        sent: int | None = None,
        durable: bool = True,
    ) -> None:
        """Note that a request failed; never kept as an answer.

        Args:
            key: of the request.
            stage: of the request.
            reason: one word; failures are counted by it.
            detail: what exactly; the last one is kept.
            max_tokens: that the answer might have had, where that matters.
            spent: to add to the counters of the stage.
            sent: as in :meth:`put`.
            durable: on the disk when this returns.
        """
        with self._transaction(durable):
            self._db.execute(
                "INSERT INTO failures VALUES (?, ?, ?, ?, ?, 1, ?) ON CONFLICT (key, reason, max_tokens) "
                "DO UPDATE SET count = count + 1, detail = excluded.detail, at = excluded.at",
                (key, reason, max_tokens, stage, _encodable(detail), now()),
            )
            self._settle(stage, spent, sent)

    def failures(self, key: str) -> list[Failure]:
        """What went wrong with the request of this key."""
        return [Failure(*row) for row in self._all(f"{_FAILURES} WHERE key = ? ORDER BY reason, max_tokens", key)]

    def count_failures(self) -> dict[tuple[str, str], int]:
        """Failures by (stage, reason)."""
        rows = self._all("SELECT stage, reason, sum(count) FROM failures GROUP BY stage, reason ORDER BY stage, reason")
        return {(stage, reason): count for stage, reason, count in rows}

    def log_sent(self, key: str, stage: str, reserved: float) -> int:
        """Note a request that is about to be sent; survives a kill, but is not worth waiting for the disk.

        Args:
            key: of the request.
            stage: of the request.
            reserved: US dollars, the most that it can cost.

        Returns:
            Its number, for :meth:`put`, :meth:`log_failure` or :meth:`settle`.
        """
        with self._transaction(durable=False):
            row = (key, stage, reserved, now())
            return (
                self._db.execute("INSERT INTO sent (key, stage, reserved, at) VALUES (?, ?, ?, ?)", row).lastrowid or 0
            )

    def settle(self, stage: str, spent: Spent, sent: int) -> None:
        """A request that came to nothing."""
        with self._transaction(durable=False):
            self._settle(stage, spent, sent)

    def settle_lost(self) -> Spent:
        """Count the requests that were under way when the last builder died as lost; returns what was added."""
        rows = self._all("SELECT stage, count(*), sum(reserved) FROM sent GROUP BY stage")
        lost = [(stage, Spent(requests=count, lost=count, lost_cost=cost)) for stage, count, cost in rows]
        if lost:
            with self._transaction():
                for stage, spent in lost:
                    self._settle(stage, spent, None)
                self._db.execute("DELETE FROM sent")
        return sum((spent for _, spent in lost), Spent())

    def spending(self) -> dict[str, Spent]:
        """The counters of every stage, since the store was made."""
        return {row[0]: Spent(*row[1:]) for row in self._all(f"SELECT stage, {_SPENT} FROM spending ORDER BY stage")}

    # Outcomes

    def put_outcome(self, seed_id: str, recipe: str, status: str, reason: str, stage: str, record_json: str) -> None:
        """Decide a seed under a recipe, or decide it anew; on the disk when this returns."""
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO outcomes (recipe, seed_id, status, reason, stage, at, record) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (recipe, seed_id, status, reason, stage, now(), record_json),
            )

    def get_outcome(self, seed_id: str, recipe: str) -> Outcome | None:
        """What became of a seed, if that is decided."""
        row = self._one(f"{_OUTCOMES} WHERE recipe = ? AND seed_id = ?", recipe, seed_id)
        return Outcome(*row) if row else None

    def undecided(self, seed_ids: Iterable[str], recipe: str) -> Iterator[str]:
        """Those of the seeds without an outcome, in their order; the records are not read."""
        for seed_id in seed_ids:
            if not self._one("SELECT 1 FROM outcomes WHERE recipe = ? AND seed_id = ?", recipe, seed_id):
                yield seed_id

    def iter_outcomes(self, recipe: str, status: str | None = None) -> Iterator[Outcome]:
        """Outcomes in the order of their seed ids, a few at a time; the store may be written to in between.

        Args:
            recipe: the recipe.
            status: only those of this status.
        """
        chosen, wanted = ("", ()) if status is None else ("AND status = ? ", (status,))
        query, after = f"{_OUTCOMES} WHERE recipe = ? AND seed_id > ? {chosen}ORDER BY seed_id LIMIT {_PAGE}", ""
        if first := self._one(f"{_OUTCOMES} WHERE recipe = ? AND seed_id = '' {chosen}", recipe, *wanted):
            yield Outcome(*first)
        while rows := self._all(query, recipe, after, *wanted):
            yield from (Outcome(*row) for row in rows)
            after = rows[-1][0]

    def count_outcomes(self, recipe: str) -> dict[tuple[str, str, str], int]:
        """Outcomes by (status, stage, reason), counted by SQL."""
        rows = self._all(
            "SELECT status, stage, reason, count(*) FROM outcomes WHERE recipe = ? GROUP BY status, stage, reason",
            recipe,
        )
        return {(status, stage, reason): count for status, stage, reason, count in rows}

    def forget(self, reasons: Collection[str], recipe: str) -> int:
        """Undo rejections for these reasons, so that their seeds are decided anew; all or nothing.

        A seed that is rejected for ``reply_X`` had a request whose answers were unusable, which count as attempts: those attempts are
        forgotten too, whatever their reasons. What was spent stays counted.

        Args:
            reasons: of rejected outcomes.
            recipe: of the outcomes.

        Returns:
            How many outcomes were removed.
        """
        marks = ", ".join("?" * len(reasons))
        unusable = [reason.removeprefix("reply_") for reason in reasons if reason.startswith("reply_")]
        unusable += [f"declined: {reason}" for reason in unusable]
        with self._transaction():
            removed = self._db.execute(
                f"DELETE FROM outcomes WHERE recipe = ? AND status = 'rejected' AND reason IN ({marks})",
                (recipe, *reasons),
            ).rowcount
            if removed and unusable:
                self._db.execute(
                    "DELETE FROM failures WHERE key IN "
                    f"(SELECT key FROM failures WHERE reason IN ({', '.join('?' * len(unusable))}))",
                    unusable,
                )
        return removed

    def recipes(self) -> dict[str, int]:
        """Recipes that have outcomes, and how many."""
        return dict(self._all("SELECT recipe, count(*) FROM outcomes GROUP BY recipe ORDER BY recipe"))

    # Meta

    def get_meta(self, name: str) -> str | None:
        """A text kept with the store."""
        row = self._one("SELECT value FROM meta WHERE name = ?", name)
        return str(row[0]) if row else None

    def put_meta(self, name: str, value: str) -> None:
        """Keep a text with the store."""
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def _settle(self, stage: str, spent: Spent | None, sent: int | None) -> None:
        if spent is not None:
            self._db.execute(_ADD, (stage, *(getattr(spent, name) for name in SPENT)))
        if sent is not None:
            self._db.execute("DELETE FROM sent WHERE id = ?", (sent,))

    @contextmanager
    def _transaction(self, durable: bool = True) -> Iterator[None]:
        """All or nothing. Not durable: survives this process, not a power cut."""
        with told(self.path):
            if not durable:
                self._db.execute("PRAGMA synchronous=NORMAL")
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
            finally:
                if not durable:
                    self._db.execute("PRAGMA synchronous=FULL")

    def _one(self, query: str, *values: Any) -> Any:
        with told(self.path):
            return self._db.execute(query, values).fetchone()

    def _all(self, query: str, *values: Any) -> list[Any]:
        with told(self.path):
            return self._db.execute(query, values).fetchall()


_FAILURES = "SELECT key, reason, max_tokens, stage, detail, count FROM failures"
_OUTCOMES = "SELECT seed_id, recipe, status, reason, stage, record FROM outcomes"


@contextmanager
def _told_of_folder(folder: Path) -> Iterator[None]:
    """The folder's own errors as one line.

    Raises:
        UserError: instead of ``OSError``.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {error.strerror}; name another folder for the store") from None


def _dump(about: dict[str, Any]) -> str:
    return json.dumps(about, sort_keys=True)


def _encodable(text: str) -> str:
    """Half a surrogate pair, which a teacher may well write, does not go into a database."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
