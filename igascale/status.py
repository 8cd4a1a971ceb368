"""How a run is doing, in one small file of its folder, ``status.json``: written by rank 0, read by ``igascale runs``.

::

    {"state": "running", "step": 120, "total": 975, "message": "", "exit_code": null, "started": "2026-06-05T10:00:00+00:00",
     "updated": "2026-06-05T10:11:53+00:00", "ran_seconds": 713.2, "process": {"host": ..., "pid": ..., ...}}

``state`` is ``running``, ``finished``, ``interrupted`` (stopped on request; a checkpoint is there) or ``failed``. ``started`` is this
attempt's; the run's first start is in ``environment.json``. ``ran_seconds`` adds up all attempts' training. A process that is killed leaves
``running`` behind; ``process`` tells a reader on the same machine that it is gone.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from igascale.errors import BUG, UserError
from igascale.files import write_atomically

STATUS = "status.json"
RUNNING, FINISHED, INTERRUPTED, FAILED = "running", "finished", "interrupted", "failed"
BEAT_SECONDS = 10.0  # how old the file of a run that takes steps may be
_telling = threading.Lock()  # of how a run ended: two threads may have something to say


class RunStatus:
    """Tells of one attempt: *running* from its start on, and how it ended when the ``with`` block does.

    A file that cannot be written (a full disk) never stops a run: the next beat tries again.

    Args:
        folder: the run folder; ``None`` on ranks that write nothing.
        total: steps of the whole run, once that is known.
        step: steps taken so far.
    """

    def __init__(self, folder: Path | None, total: int | None = None, step: int = 0):
        self.folder, self.total, self.step = folder, total, step
        self._start = self._written = time.monotonic()
        self._before = 0.0
        self._fixed: dict[str, Any] = {}
        if folder is None:
            return
        process = this_process()
        before = read(folder)
        # The same process told "running" when it opened the folder: then this is that attempt, further on.
        same = before.get("process") == process
        self._before = before.get("ran_seconds") or 0.0
        self._fixed = {"started": before["started"] if same else now(), "process": process}
        self._write(RUNNING)

    def __enter__(self) -> RunStatus:
        return self

    def beat(self, step: int) -> None:
        """Note a step; written every :data:`BEAT_SECONDS`."""
        self.step = step
        if time.monotonic() - self._written >= BEAT_SECONDS:
            self._write(RUNNING)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            state, message, code = outcome(error)
            with _telling:
                # A verdict may have been told meanwhile by the thread that hears it; this exception is its consequence.
                if self.folder is None or code != BUG or read(self.folder).get("state") == RUNNING:
                    self._write(state, message, code, durable=True)
        elif self.total is not None and self.step < self.total:
            self._write(INTERRUPTED, "stopped on request (--stop-after)", 0, durable=True)
        else:
            self._write(FINISHED, "", 0, durable=True)

    def _write(self, state: str, message: str = "", exit_code: int | None = None, durable: bool = False) -> None:
        if self.folder is None:
            return
        self._written = time.monotonic()
        record = {
            "state": state,
            "step": self.step,
            "total": self.total,
            "message": message,
            "exit_code": exit_code,
            "updated": now(),
            "ran_seconds": round(self._before + self._written - self._start, 1),
            **self._fixed,
        }
        _put(self.folder, record, durable)


def outcome(error: BaseException) -> tuple[str, str, int]:
    """State, message and exit code of a run that an exception ended."""
    signum = getattr(error, "signum", None)  # igascale.trainer.Interrupted
    if signum is not None:
        return INTERRUPTED, f"stopped by {signal.Signals(signum).name}", 128 + signum
    if isinstance(error, KeyboardInterrupt):
        return FAILED, "stopped by SIGINT before a checkpoint could be written", 130
    if isinstance(error, UserError):
        return FAILED, str(error), int(getattr(error, "exit_code", 2))
    return FAILED, f"{type(error).__name__}: {error}", BUG


def conclude(folder: Path, state: str, message: str, exit_code: int) -> None:
    """Record an end on behalf of a rank 0 that could not: from a thread that is about to exit, or from the launcher.

    Where the run has already told how it ended, or has no status, nothing is changed; but a verdict on all ranks outranks the
    exception (exit code 1) that rank 0 met when it lost another.
    """
    with _telling:
        record = read(folder)
        if record.get("state") == RUNNING or record.get("exit_code") == BUG:
            _put(folder, record | {"state": state, "message": message, "exit_code": exit_code, "updated": now()}, True)


def conclude_quickly(folder: Path, state: str, message: str, exit_code: int, seconds: float = 2.0) -> None:
    """The same for a process that must end now: a file system that hangs may be the very reason."""
    work = threading.Thread(target=conclude, args=(folder, state, message, exit_code), daemon=True)
    work.start()
    work.join(seconds)


def read(folder: Path) -> dict[str, Any]:
    """The status of a run; empty where there is none, or none that can be read."""
    try:
        record = json.loads((folder / STATUS).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) and isinstance(record.get("state"), str) else {}


def this_process() -> dict[str, Any]:
    """This process, so that another on the same machine can tell whether it still lives."""
    pid = os.getpid()
    return {"host": os.uname().nodename, "machine": machine(), "pid": pid, "started_ticks": _started_ticks(pid)}


def machine() -> str:
    """Names the kernel's boot and the process namespace: within one of these, process ids mean the same."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def is_gone(process: Any) -> bool:
    """Whether a recorded process has certainly ended; ``False`` where that cannot be known from here."""
    if not isinstance(process, dict) or not machine() or process.get("machine") != machine():
        return False
    return not isinstance(process.get("pid"), int) or _started_ticks(process["pid"]) != process.get("started_ticks")


def _started_ticks(pid: int) -> int | None:
    """When a living process started, in the kernel's clock, which nobody can set; ``None`` where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def now() -> str:
    """The time as it stands in every record: UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _put(folder: Path, record: dict[str, Any], durable: bool) -> None:
    with suppress(OSError):
        write_atomically(folder / STATUS, json.dumps(record, indent=1) + "\n", durable)
