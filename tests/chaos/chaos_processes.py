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

_EXITING, _KERNEL_THREAD = 0x4, 0x200000  # PF_EXITING, PF_KTHREAD of the kernel


def of_run(marker: str) -> dict[int, str]:
    """Pid and command line of the living processes that carry ``marker``, this one left out."""
    sought, found = marker.encode(), {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):  # it has just ended, or is not ours to look at
            command, environment = _settled(Path(entry.path))
            if command and (sought in command or sought in environment):
                found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def _settled(process: Path) -> tuple[bytes, bytes]:
    """Command line and environment; a process in the middle of an exec has neither for a moment, which is waited out."""
    deadline = time.monotonic() + 30
    while True:
        before = _program(process)
        command, environment = ((process / name).read_bytes() for name in ("cmdline", "environ"))
        if (command and environment) or before == _program(process) != 0 or time.monotonic() > deadline:
            return command, environment
        time.sleep(0.001)


def _program(process: Path) -> int:
    """A number that every exec changes: 0 in the middle of one, -1 for what runs no program (any more)."""
    fields = (process / "stat").read_text().rpartition(")")[2].split()  # the third of proc(5) is the first here
    state, flags, end_of_environment = fields[0], int(fields[6]), int(fields[48])
    return -1 if state in "ZX" or flags & (_KERNEL_THREAD | _EXITING) else end_of_environment


def kill(pid: int, signum: int = signal.SIGKILL) -> bool:
    """Signal one process; false where it is gone."""
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return False
    return True


def end_all(marker: str) -> None:
    """Kill what a failed run left, so that its resume is not disturbed."""
    deadline = time.monotonic() + 60
    while (left := of_run(marker)) and time.monotonic() < deadline:
        for pid in left:
            kill(pid)
        time.sleep(0.05)


def shown(processes: dict[int, str]) -> str:
    """For a message."""
    return "; ".join(f"{pid} {command[:110]}" for pid, command in processes.items())
