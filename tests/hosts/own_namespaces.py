"""A host of its own on this machine: network, host name and mounts, held by one process; processes and disk are shared.

The namespaces have no names, so they end with the last process in them. Their holder reads from a pipe: when the test session ends,
even by SIGKILL, it ends every process in its network, by process id, and itself.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_HOLD = """
hostname {name} && mount --bind {hosts} /etc/hosts && ip link set lo up || exit 1
{setup}
touch {ready}
cat >/dev/null
own=$(readlink /proc/$$/ns/net)
for process in /proc/[0-9]*; do
    pid=${{process#/proc/}}
    [ "$pid" != $$ ] && [ "$(readlink $process/ns/net)" = "$own" ] && kill -9 "$pid"
done 2>/dev/null
exit 0
"""


class Host:
    """A network, a host name and mounts of their own.

    Args:
        name: its host name.
        address: what names in its ``/etc/hosts`` will say; it is not set up here.
        folder: for its files.
        setup: shell commands that run in it first.
    """

    def __init__(self, name: str, address: str, folder: Path, setup: str = ""):
        self.name, self.address, self.folder = name, address, folder
        folder.mkdir(parents=True)
        self.hosts_file = folder / "hosts"
        self.hosts_file.touch()
        ready = folder / "ready"
        script = _HOLD.format(name=name, hosts=self.hosts_file, setup=setup, ready=ready)
        command = ["unshare", "--net", "--mount", "--uts", "sh", "-c", script]
        self._holder = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        wait_for(ready.exists, f"namespaces of {name}", self._holder)

    @property
    def holder(self) -> int:
        """The process that keeps the namespaces."""
        return self._holder.pid

    def enter(self, argv: Sequence[str], cwd: Path | str = "/") -> list[str]:
        """The command that runs ``argv`` here, in the same process."""
        go = ["sh", "-c", 'cd "$0" && exec "$@"', str(cwd), *argv]
        return ["nsenter", f"--target={self.holder}", "--net", "--uts", "--mount", *go]

    def run(
        self, *argv: str, cwd: Path | str = "/", env: Mapping[str, str] | None = None, timeout: float = 400
    ) -> subprocess.CompletedProcess[str]:
        """Run a command here to its end."""
        return subprocess.run(
            self.enter(argv, cwd), env=env, capture_output=True, text=True, timeout=timeout, check=False
        )

    def must(self, *argv: str) -> str:
        """Run a command here that has to succeed."""
        done = self.run(*argv)
        assert done.returncode == 0, f"{self.name}: {' '.join(argv)}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, *argv: str, cwd: Path | str = "/", env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command here, as from a terminal of its own."""
        return subprocess.Popen(
            self.enter(argv, cwd),
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def processes(self) -> dict[int, str]:
        """Pid and command line of all that runs in this network but the holder; dead but unburied ones are left out.

        In the middle of an exec a process has no command line for a moment, and still runs.
        """
        network = os.stat(f"/proc/{self.holder}/ns/net").st_ino
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != self.holder:
                with suppress(OSError):
                    if os.stat(entry / "ns" / "net").st_ino == network:
                        command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                        state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                        if command or state not in "ZX":
                            found[int(entry.name)] = command.strip()
        return found

    def close(self) -> None:
        """End all that runs here; the namespaces go with it."""
        assert self._holder.stdin is not None
        self._holder.stdin.close()
        self._holder.wait(120)


def wait_for(condition: Callable[[], object], what: str, needs: subprocess.Popen[bytes] | None = None) -> None:
    """Return when the condition holds; fail when it does not within five minutes, or ``needs`` has ended."""
    deadline = time.monotonic() + 300
    while not condition():
        ended = needs is not None and needs.poll() is not None
        assert not ended and time.monotonic() < deadline, f"{what}: did not come"
        time.sleep(0.02)
