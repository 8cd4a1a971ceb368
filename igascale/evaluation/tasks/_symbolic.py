"""Whether two formulas are equivalent, told by a process of its own that can be ended: no formula can hang the evaluation."""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import igascale
from igascale.errors import UserError
from igascale.evaluation.tasks._formulas import Tree

#: Processor time for one comparison: independent of what else the machine does, so that verdicts are repeatable.
SECONDS = 5
#: How many times as long it may take by the clock, where processors are shared.
_PATIENCE = 12
_START = 120
_WORKER = "igascale.evaluation.tasks._symbolic_worker"


class Comparer:
    """Keeps one worker process, starts it when it is first needed and again when it had to be ended. Threads may share it.

    Args:
        seconds: of processor time for one comparison.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def equivalent(self, first: Tree, second: Tree) -> bool | None:
        """Whether two trees are the same function; ``None``: that could not be told in time.

        Args:
            first, second: from :func:`igascale.evaluation.tasks._formulas.expression`.

        Raises:
            UserError: the worker does not start.
        """
        request = json.dumps([self._seconds, first, second]).encode() + b"\n"
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            try:
                process.stdin.write(request)
                process.stdin.flush()
                answer = self._line(process, self._seconds * _PATIENCE)
            except BrokenPipeError:
                answer = b""
            if not answer:
                self._end()
                return None
            verdict: bool | None = json.loads(answer)
            return verdict

    def close(self) -> None:
        """End the worker."""
        with self._lock:
            self._end()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._owner != os.getpid():  # a fork: the worker is the parent's
            self._process = None
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        places = [str(Path(igascale.__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))}
        command, pipe = [sys.executable, "-m", _WORKER], subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment)
        self._process, self._owner = process, os.getpid()
        if self._line(process, _START) != b"ready\n":
            self._end()
            raise UserError(
                f"the process that compares formulas does not start; {sys.executable} -m {_WORKER} says why"
            )
        return process

    @staticmethod
    def _line(process: subprocess.Popen[bytes], seconds: float) -> bytes:
        """One line of the worker; empty where it ended or the time did."""
        assert process.stdout is not None
        until, line = time.monotonic() + seconds, b""
        while not line.endswith(b"\n"):
            left = until - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                return b""
            piece = os.read(process.stdout.fileno(), 4096)
            if not piece:
                return b""
            line += piece
        return line

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()


_COMPARER = Comparer()
atexit.register(_COMPARER.close)


@lru_cache(maxsize=4096)
def equivalent(first: Tree, second: Tree) -> bool | None:
    """As :meth:`Comparer.equivalent`, by the worker that all tasks of this process share."""
    return _COMPARER.equivalent(first, second)
