"""Which lifeline this process has: to the launcher's Monitor, to rank 0's, or none."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn, Protocol

import click

from igascale.supervision.lifeline import STOP_SIGNALS, Lifeline, write_line
from igascale.supervision.monitor import Monitor
from igascale.supervision.rank import RankLifeline

_current: Lifeline | None = None


class Section(Protocol):
    """What is needed of the configuration's ``supervision`` section."""

    @property
    def heartbeat_timeout(self) -> float: ...  # noqa: D102
    @property
    def hang_timeout(self) -> float | None: ...  # noqa: D102
    @property
    def start_timeout(self) -> float: ...  # noqa: D102


def exit_on_signals() -> None:
    """While libraries are imported: a stop signal ends this process at once, by its number and without a traceback."""
    for signum in STOP_SIGNALS:
        signal.signal(signum, lambda signum, frame: os._exit(128 + signum))


@contextmanager
def leaving_on_signals() -> Iterator[None]:
    """For a launcher that has started nothing yet: a stop signal ends it at once, by its number.

    An exception would not do: libraries catch everything while they are imported, and the run would begin all the same.
    """

    def leave(signum: int, frame: FrameType | None) -> None:
        with suppress(Exception):  # the signal may have come in the middle of a write
            sys.stdout.flush()
        write_line(f"stopped by {signal.Signals(signum).name}")
        os._exit(128 + signum)

    before = {s: signal.signal(s, leave) for s in STOP_SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def begin(section: Section, environ: Mapping[str, str] = os.environ) -> Lifeline:
    """Open this process's lifeline, before it waits for any other rank, and take the stop signals.

    With ``igascale launch`` it is connected at once. Under a plain launcher only signals and the start's time are watched until
    :func:`host_monitor`. A process on its own needs none.
    """
    global _current
    if "IGASCALE_MONITOR" in environ:
        _current = _to_launcher(environ, section.heartbeat_timeout)
    elif _world_size(environ) > 1:
        _current = RankLifeline(int(environ.get("RANK", "0")), section.heartbeat_timeout, keeper="rank 0")
        if "TORCHELASTIC_RUN_ID" in environ:
            _current.watch_parents(1)
        elif (
            "CROSS_RANK" in environ
        ):  # deepspeed's: a process of the node, and the runner (or the ssh session) above it
            _current.watch_parents(2)
    else:
        _current = Lifeline()
    _current.take_signals()
    if isinstance(_current, RankLifeline):
        where = f"{environ.get('MASTER_ADDR', '?')}:{environ.get('MASTER_PORT', '?')}"
        _current.exit_after(
            section.start_timeout,
            f"{_current.name} waited {section.start_timeout:g} s (supervision.start_timeout) for all {_world_size(environ)} ranks "
            f"to meet at {where}: some never came, or a firewall or the wrong network interface is between",
        )
    return _current


def meet(
    lifeline: Lifeline, section: Section, gather_objects: Callable[[Any], list[Any]], environ: Mapping[str, str]
) -> None:
    """The ranks have found each other; where no launcher watches them, rank 0 does. Call it on every rank.

    Args:
        lifeline: of :func:`begin`.
        section: the configuration's.
        gather_objects: of :class:`igascale.engine.Collectives`.
        environ: ``MASTER_ADDR`` is where rank 0 is.
    """
    if not isinstance(lifeline, RankLifeline):
        return
    lifeline.exit_after(None)
    if lifeline.attached:
        return
    monitor, address = None, ("", "")
    if lifeline.rank == 0:
        host = environ.get("MASTER_ADDR", "127.0.0.1")
        local = host in ("localhost", "::1") or host.startswith("127.")
        everywhere = "::" if ":" in host else ""
        monitor = Monitor(
            _world_size(environ),
            heartbeat_timeout=section.heartbeat_timeout,
            hang_timeout=section.hang_timeout,
            start_timeout=section.start_timeout,
            bind="127.0.0.1" if local else everywhere,
            on_line=lambda rank, text: click.secho(text, err=True, fg="yellow"),
        )
        found = monitor.environment("127.0.0.1" if local else host)
        address = (found["IGASCALE_MONITOR"], found["IGASCALE_MONITOR_TOKEN"])
    address = gather_objects(address)[0]
    lifeline.attach(*address, speaks=lifeline.rank == 0, before_exit=monitor.close if monitor else None)


def current(environ: Mapping[str, str] = os.environ) -> Lifeline:
    """This process's lifeline; one to the launcher is opened for last words where there is none yet."""
    global _current
    if _current is None:
        _current = _to_launcher(environ, 60.0) if "IGASCALE_MONITOR" in environ and "RANK" in environ else Lifeline()
    return _current


def leave(exit_code: int) -> NoReturn:
    """End this process, all of whose work is done. A rank's launcher does not wait until Python has taken all modules apart."""
    if _world_size(os.environ) > 1:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)


def _to_launcher(environ: Mapping[str, str], heartbeat_timeout: float) -> RankLifeline:
    lifeline = RankLifeline(int(environ.get("RANK", "0")), heartbeat_timeout)
    lifeline.attach(environ["IGASCALE_MONITOR"], environ.get("IGASCALE_MONITOR_TOKEN", ""))
    return lifeline


def _world_size(environ: Mapping[str, str]) -> int:
    return int(environ.get("WORLD_SIZE", "1"))
