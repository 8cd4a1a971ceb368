"""One of several processes that answer: ``python -m igascale.evaluation.worker``, started by :mod:`igascale.evaluation.ranks`.

The first line of its standard input says what to do. The input stays open for as long as the parent lives: when it ends, so
does this process, however the parent died.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from igascale.errors import UserError
from igascale.evaluation.answering import Share
from igascale.evaluation.request import Request
from igascale.evaluation.store import ANSWERS

PROGRESS = "progress.json"
_EVERY = 0.3  # seconds between two lines of progress


def main() -> None:
    """Answer this process's share; what goes wrong is the last line of its log."""
    from dataclasses import replace

    from igascale.evaluation.loading import device_of_rank
    from igascale.evaluation.perform import perform

    told = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    request, share = Request.from_json(told["request"]), Share(told["rank"], told["world"])
    try:
        request = replace(request, device=device_of_rank(request.device, share.rank))
        perform(request, share, _Teller(Path(request.out) / ANSWERS / PROGRESS) if share.rank == 0 else None)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)


def _end_with_parent() -> None:
    while os.read(0, 1):  # not by sys.stdin, whose lock would be held when this process ends first
        pass
    os._exit(1)


class _Teller:
    """Leaves how far all processes are where the parent reads it."""

    def __init__(self, path: Path):
        self._path, self._last = path, 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last >= _EVERY or done == total:
            self._last = now
            self._write({"stage": stage, "done": done, "total": total})

    def _write(self, record: dict[str, Any]) -> None:
        new = self._path.with_suffix(".tmp")
        try:
            new.write_text(json.dumps(record))
            new.replace(self._path)
        except OSError:  # a full disk: the answers will say so
            return


if __name__ == "__main__":
    main()
