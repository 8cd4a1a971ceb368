"""A conversation with the process that examines a host: a line of JSON there, a line of JSON back, always with a time limit."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from igascale.launchers import ssh
from igascale.launchers.base import export_lines

#: What stands before everything that is meant for us; login scripts print as well.
MARK = "IGASCALE-DOCTOR "
_END = object()


class NoAnswer(Exception):
    """The host did not do what was asked of it.

    Attributes:
        found: what happened.
        remedy: what to do.
    """

    def __init__(self, found: str, remedy: str):
        super().__init__(found)
        self.found, self.remedy = found, remedy


class Conversation:
    """Starts the examining process of one host and speaks with it.

    Args:
        host: its name for ssh.
        remote: whether ssh is needed at all.
        environment: variables that the process gets, those that ranks would get.
        folder: its working folder.
        config_file: ``-F`` of ssh.
        port: ``-p`` of ssh.
    """

    def __init__(
        self,
        host: str,
        *,
        remote: bool,
        environment: Mapping[str, str],
        folder: str,
        config_file: str | None = None,
        port: int | None = None,
    ):
        self.host = host
        self._remote = remote
        self._started = time.monotonic()
        examine = [sys.executable, "-m", "igascale.preflight"]
        if remote:
            command, cwd = ssh.ssh_command(host, config_file, port), None
            change = f"cd {ssh.shlex.quote(folder)} || exit 2\n"
            script = f"echo {MARK}\n{export_lines(environment)}{change}exec {ssh.shlex.join(examine)}\n"
        else:
            command, cwd, script = examine, folder, ""
        self._process = subprocess.Popen(
            command, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            errors="replace", start_new_session=True,
        )  # fmt: skip
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._errors: list[str] = []
        self._readers = [
            threading.Thread(target=self._read_answers, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        self._count = 0
        self._write(script)

    def await_shell(self, timeout: float) -> float:
        """Seconds until a shell answered on the host.

        Raises:
            NoAnswer: ssh failed, or nothing came in time.
        """
        if self._remote:
            self._next(timeout, f"ssh gave no shell within {timeout:.0f} s")
        return time.monotonic() - self._started

    def await_python(self, timeout: float) -> None:
        """Wait until the examining process is there; only then may it be asked.

        Raises:
            NoAnswer: there is no such interpreter, folder or igascale, or it took too long.
        """
        self._next(timeout, f"Python and igascale did not start within {timeout:.0f} s")

    def ask(self, action: str, timeout: float, /, **arguments: Any) -> Any:
        """Have ``action`` done there and return what it returned.

        Raises:
            NoAnswer: it raised, took longer than ``timeout`` seconds, or the process is gone.
        """
        self._count += 1
        self._write(json.dumps({"id": self._count, "do": action, "with": arguments}) + "\n")
        deadline = time.monotonic() + timeout
        while True:
            late = f"no answer within {timeout:.0f} s ({action})"
            answer = json.loads(self._next(deadline - time.monotonic(), late))
            if answer["id"] != self._count:  # to a question that we have given up on
                continue
            if "error" in answer:
                raise NoAnswer(f"{action}: {answer['error']}", "this should not happen: please report it")
            return answer["result"]

    def close(self) -> None:
        """End the examining process and what it started."""
        with suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _write(self, text: str) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # it has ended; reading says how
            self._process.stdin.write(text)
            self._process.stdin.flush()

    def _next(self, timeout: float, late: str) -> str:
        try:
            answer = self._answers.get(timeout=max(0.0, timeout))
        except queue.Empty:
            raise NoAnswer(
                late, f"is the host overloaded, or a network disk hanging? try `ssh {self.host} date`"
            ) from None
        if answer is _END:
            raise self._explain_end()
        return str(answer)

    def _explain_end(self) -> NoAnswer:
        status = self._process.wait()
        self._readers[1].join(10)  # what it said is all there, unless something else keeps its stderr open
        said = "".join(self._errors)
        if self._remote and status == 255:
            told = ssh.explain(subprocess.CompletedProcess([], status, "", said), self.host)
            found, _, remedy = told.removeprefix(f"host '{self.host}': ").rpartition("; ")
            return NoAnswer(found, remedy)
        last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), f"status {status}")
        return NoAnswer(last, f"every host needs the same environment at {sys.prefix} and the same working folder")

    def _read_answers(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK.rstrip()):
                self._answers.put(line[len(MARK) :])
        self._answers.put(_END)

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._errors = [*self._errors[-50:], line]
