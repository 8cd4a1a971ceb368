"""The processes of one run: those whose environment or command line holds the run's marker, an unguessable path.

Every process of a run inherits the marker by PYTHONPATH, through any launcher and through ssh, so nothing else is ever found,
and nothing of the run escapes by changing its session or parent.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path


def of_run(marker: str) -> dict[int, str]:
    """Pid and command line of the living processes that carry ``marker``, this one left out."""
    sought, found = marker.encode(), {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):  # it has just ended, or is not ours to look at
            command = Path(entry.path, "cmdline").read_bytes()
            if command and (sought in command or sought in Path(entry.path, "environ").read_bytes()):
                found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def kill(pid: int, signum: int = signal.SIGKILL) -> bool:
    """Signal one process; false where it is gone."""
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return False
    return True


def end_all(marker: str) -> None:
    """Kill what a failed run left, so that its resume is not disturbed."""
    deadline = time.monotonic() + 10
    while (left := of_run(marker)) and time.monotonic() < deadline:
        for pid in left:
            kill(pid)
        time.sleep(0.05)


def shown(processes: dict[int, str]) -> str:
    """For a message."""
    return "; ".join(f"{pid} {command[:110]}" for pid, command in processes.items())
