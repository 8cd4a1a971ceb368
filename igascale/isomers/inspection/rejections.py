"""What a build turned down: ``rejected.jsonl``, one object a line with the seed, the stage and the reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from igascale.errors import UserError, did_you_mean
from igascale.isomers.inspection.side_by_side import visible

_NAMED = ("seed_id", "stage", "reason", "detail", "problem")  # what has a place of its own when an entry is shown
_ROWS = 40  # of a table of reasons
_LONG = 300  # characters of a field that has no place of its own; more are not printed in the terminal


class Rejections:
    """The entries of a file that are wanted; iterating reads it line by line and counts all, and yields the first `limit`.

    Args:
        path: the file.
        seeds: only those of these seeds; all when empty.
        text: only those that hold this text anywhere, in whatever case.
        limit: how many to yield.
    """

    def __init__(self, path: Path, seeds: tuple[str, ...] = (), text: str | None = None, limit: int = 5) -> None:
        self.path, self.seeds, self.text, self.limit = path, seeds, text, limit
        self.total = 0
        self.reasons: Counter[tuple[str, str]] = Counter()  # (stage, reason) of what matches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the first entries, then read on to count.

        Raises:
            UserError: the file cannot be read, a line is not such an object, or a seed is not there.
        """
        seen: dict[str, None] = {}
        matching = 0
        for entry in self._entries():
            self.total += 1
            seen |= {entry["seed_id"]: None} if self.seeds else {}
            if self.seeds and entry["seed_id"] not in self.seeds:
                continue
            if self.text is not None and self.text.casefold() not in json.dumps(entry, ensure_ascii=False).casefold():
                continue
            self.reasons[(entry["stage"], entry["reason"])] += 1
            matching += 1
            if matching <= self.limit:
                yield entry
        for name in self.seeds:
            if name not in seen:
                raise UserError(f"{self.path}: nothing of seed '{name}' was rejected{did_you_mean(name, seen)}")

    def rows(self) -> list[tuple[str, str, int]]:
        """(stage, reason, how many), the most frequent first; what a long table leaves out is its last row."""
        rows = [(stage, reason, count) for (stage, reason), count in self.reasons.most_common()]
        if len(rows) > _ROWS:
            rest = rows[_ROWS - 1 :]
            rows = [*rows[: _ROWS - 1], ("...", f"{len(rest)} other reasons", sum(count for *_, count in rest))]
        return rows

    def summary(self) -> str:
        """How many were shown and counted, once all were read."""
        matching = sum(self.reasons.values())
        shown = f"{min(self.limit, matching):,} of {matching:,} rejections shown"
        return shown if matching == self.total else f"{shown} (of {self.total:,} in the file, the others do not match)"

    def _entries(self) -> Iterator[dict[str, Any]]:
        try:
            with self.path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield _entry(line, f"{self.path}:{number}")
        except OSError as error:
            raise UserError(f"{self.path}: cannot read this file of rejections ({error.strerror})") from None


def rest_of(entry: dict[str, Any]) -> dict[str, Any]:
    """What an entry holds beside what has a place of its own."""
    return {key: value for key, value in entry.items() if key not in _NAMED and value not in (None, "", [], {})}


def print_rejected(console: Console, rejections: Rejections) -> None:
    """Print the first entries, then how often each reason came up."""
    for entry in rejections:
        title = Text.assemble((visible(entry["seed_id"]), "bold"), " · ", visible(entry["stage"]), " · ")
        console.print(Rule(title.append(visible(entry["reason"]), "yellow"), align="left"))
        for key in ("detail", "problem"):
            if entry.get(key):
                console.print(Text.assemble((f"{key}: ", "bold"), visible(as_text(entry[key]))))
        for key, value in rest_of(entry).items():
            text = as_text(value)
            text = (
                text if len(text) <= _LONG else f"({len(text):,} characters, in {rejections.path.name} and on the page)"
            )
            console.print(Text.assemble((f"{visible(key)}: ", "bold"), visible(text)))
        console.print()
    table = Table("stage", "reason", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("rejected", justify="right")
    for stage, reason, count in rejections.rows():
        table.add_row(Text(visible(stage)), Text(visible(reason)), f"{count:,}")
    if rejections.reasons:
        console.print(table)


def as_text(value: Any) -> str:
    """A string as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _entry(line: bytes, where: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:  # also what is not UTF-8
        raise UserError(f"{where}: not valid JSON ({error}); one rejection a line") from None
    if not isinstance(entry, dict):
        raise UserError(f"{where}: must be an object with seed_id, stage and reason")
    for key in ("seed_id", "stage", "reason"):
        if not isinstance(entry.get(key), str):
            raise UserError(f"{where}: field '{key}': must be a string")
    return entry
