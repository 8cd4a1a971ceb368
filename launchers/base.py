"""What every launcher shares: the specification of a launch, and running a command while forwarding signals.

A backend is one file with a pure ``build_command(spec) -> argv``, so that it is tested as data.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType

import psutil


@dataclass(frozen=True)
class LaunchSpec:
    """What is to be started.

    Attributes:
        num_processes: ranks on this node.
        module: Python module that each rank runs.
        arguments: its arguments.
        master_port: where ranks meet; see :func:`free_port`.
    """

    num_processes: int
    module: str
    arguments: tuple[str, ...]
    master_port: int


def free_port() -> int:
    """A TCP port that is free on this host now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(command: list[str], environment: Mapping[str, str]) -> int:
    """Run a launcher to its end and return its exit status.

    The launcher starts in a process group of its own, so that Ctrl-C reaches this process alone. SIGINT and SIGTERM are
    passed on once, to the innermost launcher process, which asks the ranks to stop; they finish their step and write a
    checkpoint. Only processes that descend from this one are ever signalled.

    Args:
        command: the launcher's argv.
        environment: defaults; what the caller's environment sets wins.

    Returns:
        The launcher's status; ``128 + signal`` where a signal was passed on.
    """
    child = subprocess.Popen(command, process_group=0, env={**environment, **os.environ})
    received = 0

    def forward(signum: int, frame: FrameType | None) -> None:
        nonlocal received
        received = signum
        _pass_on(child.pid, signum)

    handlers = {s: signal.signal(s, forward) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = child.wait()
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
    return 128 + received if received else status


def _pass_on(pid: int, signum: int) -> None:
    """Signal the launcher process that watches the ranks: the runner's own child, or the runner while it has none."""
    with suppress(psutil.NoSuchProcess):  # it has just ended by itself
        parent = psutil.Process(pid)
        for process in parent.children() or [parent]:
            process.send_signal(signum)
