"""Processes that this one started: begun in groups of their own, ended by their ids and never by a name."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import psutil

from igascale.errors import UserError
from igascale.launchers.base import Command


class Children:
    """The commands of one attempt.

    Each gets a process group of its own, so that Ctrl-C on the terminal reaches this process alone.

    Args:
        commands: what to start.
        environ: the caller's environment.

    Raises:
        UserError: a program is missing. What had been started is ended.
    """

    def __init__(self, commands: Sequence[Command], environ: Mapping[str, str]):
        self.commands = commands
        self.processes: list[subprocess.Popen[str]] = []
        self._known: dict[int, psutil.Process] = {}
        for command in commands:
            try:
                self.processes.append(_start(command, environ))
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

    def signal_ranks(self, signum: int) -> None:
        """Pass a signal on where nothing else reaches the ranks: to the innermost launcher, which tells them."""
        for process in self.processes:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                process.send_signal(signum)

    def end(self, grace: float) -> None:
        """SIGTERM, and SIGKILL after ``grace`` seconds, to all that is left of what we started.

        A command that does harm on SIGTERM is only killed.
        """
        self.look()
        if grace > 0:
            for command, process in zip(self.commands, self.processes):
                if command.on_sigterm:
                    with suppress(ProcessLookupError):
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

    def _left(self) -> list[psutil.Process]:
        """Descendants that run; :mod:`psutil` compares the start time, so a process id used again is not taken for ours."""
        return [child for child in self._known.values() if child.is_running() and _alive(child)]


def _alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def _start(command: Command, environ: Mapping[str, str]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        command.argv,
        env={**environ, **command.environment},
        process_group=0,
        stdin=subprocess.DEVNULL if command.script is None else subprocess.PIPE,
        text=True,
    )
    if command.script is not None:
        assert process.stdin
        with suppress(BrokenPipeError):  # it has ended already; its status says why
            process.stdin.write(command.script)
            process.stdin.close()
    return process
