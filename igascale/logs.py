"""Each rank's own log, ``RUN/logs/rank-NNNN.log``: what it prints goes there, what the user should see goes by the lifeline."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_HEADER = "=== attempt"
#: Lines of a traceback that are shown on the launching terminal.
_TAIL = 30


def log_file(folder: str | Path, rank: int) -> Path:
    """Where a rank writes."""
    return Path(folder) / f"rank-{rank:04d}.log"


def redirect(rank: int, world_size: int, environ: Mapping[str, str]) -> bool:
    """Send this process's output to its log from now on, where the launcher has named a folder for logs.

    The descriptors themselves are exchanged, so that what C++ libraries print goes along.

    Returns:
        Whether it was done. A folder that cannot be written is no reason to stop a run: output stays where it was.
    """
    folder = environ.get("IGASCALE_LOG_DIR")
    if not folder:
        return False
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        log = os.open(log_file(folder, rank), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        print(f"warning: no log of rank {rank}: {folder}: {error.strerror}", file=sys.stderr)
        return False
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    attempt = environ.get("IGASCALE_ATTEMPT", "1")
    who = f"rank {rank} of {world_size}, {socket.gethostname()}, pid {os.getpid()}"
    os.write(log, f"{_HEADER} {attempt}: {who}, {now} ===\n".encode())
    sys.stdout.flush()
    sys.stderr.flush()
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.close(log)
    return True


def append(file: Path, line: str) -> None:
    """Add a line to a log whose folder may not be there: that of a run which was refused is gone."""
    with suppress(OSError), file.open("a") as log:
        log.write(f"{line}\n")


def last_traceback(folder: str | Path, rank: int) -> list[str]:
    """The end of a rank's log of its last attempt from its last traceback on, if it holds one."""
    try:
        lines = log_file(folder, rank).read_text(errors="replace").splitlines()
    except OSError:
        return []
    starts = [n for n, line in enumerate(lines) if line.startswith(_HEADER)]
    lines = lines[starts[-1] + 1 if starts else 0 :]
    found = [n for n, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    return lines[found[-1] :][-_TAIL:] if found else []
