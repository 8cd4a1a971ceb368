"""Reading files while a run writes them: metrics that a resumed run rewrites, and the ranks' logs."""

from __future__ import annotations

import json
import os
import re
from collections import deque
from pathlib import Path
from typing import Any, BinaryIO

_ANCHOR = 256  # bytes before the place where reading goes on, which must still be there
_LOG_START, _METRICS_START = 1 << 18, 1 << 23  # of what is there already, so many bytes at the end are read
_STEPS = 4000  # training records that are kept
#: What in a rank's log is worth a user's attention.
_NOTABLE = re.compile(
    r"^\s*(warning\b|error\b|Traceback \(most recent|\w*(Error|Exception)\b: |\[?(WARNING|ERROR|CRITICAL)\b)"
    r"|\b(out of memory|NCCL (error|WARN)|Segmentation fault)\b"
)


class Follower:
    """Gives the new whole lines of a file at each :meth:`poll`.

    A file that no longer continues what was read (a resumed run drops the steps that it takes again) is read anew.

    Args:
        path: the file, which need not exist yet.
        last_bytes: begin so far from the end of what is there; ``None`` for the beginning.
    """

    def __init__(self, path: Path, last_bytes: int | None = None):
        self.path, self._offset, self._anchor = path, 0, b""
        self._last_bytes, self._fresh = last_bytes, True

    def poll(self) -> tuple[bool, list[bytes]]:
        """Whether the file began anew since the last poll, and its new lines."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset - len(self._anchor))
                anew = file.read(len(self._anchor)) != self._anchor
                if anew or self._fresh:
                    self._begin(file)
                new = file.read()
        except OSError:  # not there yet
            return False, []
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        self._anchor = (self._anchor + whole)[-_ANCHOR:]
        return anew, whole.splitlines()

    def _begin(self, file: BinaryIO) -> None:
        """Go to the beginning, or to the first whole line of the end that is wanted."""
        start = 0 if self._last_bytes is None else max(0, file.seek(0, os.SEEK_END) - self._last_bytes)
        file.seek(start)
        if start:
            file.readline()
        self._offset, self._anchor, self._fresh = file.tell(), b"", False


class Metrics:
    """The last records of ``metrics.jsonl``.

    Attributes:
        steps: training records.
        validation: the last validation.
    """

    def __init__(self, path: Path):
        self._follower = Follower(path, _METRICS_START)
        self.steps: deque[dict[str, Any]] = deque(maxlen=_STEPS)
        self.validation: dict[str, Any] = {}

    def poll(self) -> tuple[int | None, list[dict[str, Any]]]:
        """The step that the run was taken back to since the last poll, if it was, and the records that are new."""
        anew, lines = self._follower.poll()
        records = [record for line in lines for record in _parsed(line)]
        back_at = None
        if anew:
            known = {r["step"]: r for r in self.steps}
            kept = [r for r in records if known.get(r["step"]) == r]
            back_at = max((r["step"] for r in kept), default=0)
            self.steps.clear()
            self.steps.extend(kept)
            earlier = [r for r in records if r.get("kind") == "validation" and r["step"] <= back_at]
            self.validation = earlier[-1] if earlier else {}
            records = [r for r in records if r["step"] > back_at]
        for record in records:
            if record.get("kind") == "train":
                self.steps.append(record)
            elif record.get("kind") == "validation":
                self.validation = record
        return back_at, records


def _parsed(line: bytes) -> list[dict[str, Any]]:
    """The record of a line, if it is whole: the last may have been cut off when the run was killed."""
    try:
        record = json.loads(line)
        return [record] if isinstance(record["step"], int) else []
    except (ValueError, KeyError, TypeError):
        return []


class Logs:
    """Warnings and errors in ``logs/rank-NNNN.log``, the same one of many ranks told once."""

    def __init__(self, folder: Path, keep: int = 200):
        self.folder = folder
        self.notable: deque[tuple[str, str]] = deque(maxlen=keep)  # rank's file, line
        self._followers: dict[str, Follower] = {}
        self._seen: set[str] = set()

    def poll(self) -> list[tuple[str, str]]:
        """The notable lines that are new: name of the log, line."""
        new = []
        for path in sorted(self.folder.glob("*.log")):
            follower = self._followers.setdefault(path.stem, Follower(path, _LOG_START))
            for raw in follower.poll()[1]:
                line = raw.decode(errors="replace").rstrip()
                if _NOTABLE.search(line) and line not in self._seen:
                    self._seen.add(line)
                    new.append((path.stem, line.strip()))
        self.notable.extend(new)
        return new
