"""The processes of jobs: started here, stopped by their ids, never left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from igascale.launchers.environment import redact, secret_values
from igascale.status import now

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_END = 1 << 16  # bytes of a log in which the reason of a failure is looked for


class Processes:
    """What runs now, of all jobs; a stop reaches every process, and those that would start after it.

    Attributes:
        stopped: the signal that asked for the end, once one has.
    """

    def __init__(self) -> None:
        self.stopped: int | None = None
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    def run(self, arguments: Sequence[str], log: Path, environ: Mapping[str, str] | None = None) -> Ended:
        """Run ``igascale ARGUMENTS`` to its end; call it in any thread.

        Args:
            arguments: of the command line.
            log: where its output is appended, under a line that says what was started.
            environ: variables on top of this process's.
        """
        with log.open("ab") as output:
            shown = " ".join(redact(a, secret_values(os.environ)) for a in arguments)
            output.write(f"==== {now()} igascale {shown}\n".encode())
            output.flush()
            start = output.tell()
            with self._lock:
                if self.stopped is not None:
                    return Ended(128 + self.stopped, "", True)
                process = subprocess.Popen(
                    [sys.executable, "-m", "igascale.studies.child", str(os.getpid()), *arguments],
                    env={**os.environ, **(environ or {})},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    process_group=0,  # Ctrl-C on the terminal reaches the study alone, which passes it on
                )
                self._running.add(process)
            try:
                code = process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)
                if process.poll() is None:  # an exception in this thread
                    process.terminate()
        return Ended(code, _reason(code, log, start), self.stopped is not None)

    def stop(self, signum: int) -> None:
        """Pass a signal on; nothing is started any more."""
        with self._lock:
            self.stopped = self.stopped or signum
            for process in self._running:
                with suppress(ProcessLookupError):
                    process.send_signal(signum)


class Ended:
    """How a process ended.

    Attributes:
        code: exit status; negative for the signal that killed it.
        reason: one line, empty where all went well.
        asked: it was asked to stop.
    """

    def __init__(self, code: int, reason: str, asked: bool):
        self.code, self.reason, self.asked = code, reason, asked


def _reason(code: int, log: Path, start: int) -> str:
    """Why, in one line: the last error that the process told, or its last words, or the signal that killed it."""
    if code == 0:
        return ""
    with log.open("rb") as file:
        file.seek(max(start, file.seek(0, os.SEEK_END) - _END))
        text = _COLOUR.sub("", file.read().decode(errors="replace"))
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    if code < 0:
        told = f"killed by {signal.Signals(-code).name}"
        return told + (", as the system does when memory runs out" if -code == signal.SIGKILL else "")
    errors = [line for line in lines if re.match(r"error( \(rank \d+\))?: ", line)]
    last = errors[-1].partition(": ")[2] if errors else lines[-1] if lines else "it said nothing"
    return f"{last} (exit status {code})"
