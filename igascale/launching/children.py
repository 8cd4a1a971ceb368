"""Processes that this one started: begun in groups of their own, ended by their ids and never by a name."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import IO

import psutil

from igascale.errors import UserError
from igascale.launchers.base import Command

#: DeepSpeed's own account of what it starts, and that a CPU is one; by pdsh it cannot be asked to keep quiet.
_NOISE = re.compile(
    r"^(\S+: )?\[[-0-9 :,]+\] (\[INFO\] \[(launch|runner|multinode_runner)|\[\w+\] \[real_accelerator)\.py"
)

#: Seconds for what ended processes have printed to be read; what somebody else keeps open is not waited for any longer.
_LAST_LINES = 10.0


class Children:
    """The commands of one attempt.

    Each gets a process group of its own, so that Ctrl-C on the terminal reaches this process alone.

    Args:
        commands: what to start.
        environ: the caller's environment.
        on_line: called in a thread with every line that they print, and whether it was on standard error.

    Raises:
        UserError: a program is missing. What had been started is ended.
    """

    def __init__(self, commands: Sequence[Command], environ: Mapping[str, str], on_line: Callable[[str, bool], None]):
        self.commands, self.on_line = commands, on_line
        self.processes: list[subprocess.Popen[str]] = []
        self._readers: list[threading.Thread] = []
        self._known: dict[int, psutil.Process] = {}
        for command in commands:
            try:
                self._start(command, environ)
            except OSError as error:
                self.end(0)
                raise UserError(f"{command.argv[0]}: cannot be started ({error.strerror})") from None

    @property
    def running(self) -> bool:
        """Whether any of them is left."""
        return any(process.poll() is None for process in self.processes)

    @property
    def statuses(self) -> list[int | None]:
        """Exit statuses, as :class:`subprocess.Popen` has them."""
        return [process.poll() for process in self.processes]

    def look(self) -> None:
        """Remember which processes descend from ours: one that loses its parent could not be found afterwards."""
        for process in self.processes:
            if process.poll() is None:
                with suppress(psutil.NoSuchProcess):
                    for child in psutil.Process(process.pid).children(recursive=True):
                        self._known.setdefault(child.pid, child)

    def pass_on(self, signum: int) -> None:
        """Send a signal to the commands themselves, which tell their ranks; where nothing else reaches those."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signum)

    def end(self, grace: float) -> None:
        """SIGTERM, and SIGKILL after ``grace`` seconds, to all that is left of what we started.

        A command that does harm on SIGTERM is only killed.
        """
        self.look()
        if grace > 0:
            for command, process in zip(self.commands, self.processes):
                if command.on_sigterm and process.poll() is None:
                    process.terminate()
            deadline = time.monotonic() + grace
            while time.monotonic() < deadline and (self.running or self._left()):
                time.sleep(0.05)
        for process in self.processes:
            if process.poll() is None:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
        for child in self._left():
            with suppress(psutil.NoSuchProcess):
                child.kill()
        for process in self.processes:
            process.wait()
        deadline = time.monotonic() + _LAST_LINES
        for reader in self._readers:
            reader.join(max(0.0, deadline - time.monotonic()))

    def _left(self) -> list[psutil.Process]:
        """Descendants that run; :mod:`psutil` compares the start time, so a process id used again is not taken for ours."""
        return [child for child in self._known.values() if child.is_running() and _alive(child)]

    def _start(self, command: Command, environ: Mapping[str, str]) -> None:
        process = subprocess.Popen(
            command.argv,
            env={**environ, **command.environment},
            process_group=0,
            stdin=subprocess.DEVNULL if command.script is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self.processes.append(process)
        for stream, is_error in ((process.stdout, False), (process.stderr, True)):
            reader = threading.Thread(target=self._read, args=(stream, is_error), daemon=True)
            reader.start()
            self._readers.append(reader)
        if command.script is not None:
            assert process.stdin
            with suppress(BrokenPipeError):  # it has ended already; its status says why
                process.stdin.write(command.script)
                process.stdin.close()

    def _read(self, stream: IO[str], is_error: bool) -> None:
        for line in stream:
            if not _NOISE.match(line):
                self.on_line(line.rstrip("\n"), is_error)


def _alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False
