"""One start of all ranks, from the first process to the last."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from igascale.launchers.base import Command
from igascale.launching.children import Children
from igascale.supervision.monitor import Monitor

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
#: Seconds that ranks have to leave once one has failed, or all have said goodbye, before their processes are ended.
GRACE = 15.0
_TICK = 0.1
LOST = 75


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    Attributes:
        exit_code: of ``igascale launch``.
        reason: one line for the user and for the record.
        asked: the signal that asked for the end, or 0.
    """

    exit_code: int
    reason: str
    asked: int = 0


class Attempt:
    """Runs commands to their end under a Monitor, or without one.

    Args:
        commands: what to start.
        forwarded: variables of every rank, on top of this process's own.
        world_size: ranks over all nodes.
        monitor: who hears of the ranks; ``None`` where ranks of other nodes are started by somebody else.
        refresh: called about ten times a second, to show what goes on.
    """

    def __init__(
        self,
        commands: Sequence[Command],
        forwarded: Mapping[str, str],
        world_size: int,
        monitor: Monitor | None,
        refresh: Callable[[], None],
    ):
        self.commands, self.forwarded, self.world_size = commands, forwarded, world_size
        self.monitor, self.refresh = monitor, refresh
        self._signals: list[int] = []
        self._told = 0

    def run(self) -> Outcome:
        """Start, wait, end. Nothing that was started is left when this returns, however it returns."""
        with self._catch_signals():
            children = Children(self.commands, {**os.environ, **self.forwarded})
            try:
                self._wait(children)
            finally:
                children.end(0)
            return self._conclude(children)

    def _wait(self, children: Children) -> None:
        """Until every child has ended, or has had its time to."""
        deadline, looked = None, 0.0
        while children.running:
            time.sleep(_TICK)
            self.refresh()
            if time.monotonic() - looked > 2:
                children.look()
                looked = time.monotonic()
            if not self._pass_on_signals(children):
                return
            if deadline is None and self._over(children):
                deadline = time.monotonic() + GRACE
            if deadline is not None and time.monotonic() > deadline:
                children.end(5)
                return

    def _over(self, children: Children) -> bool:
        """Whether nothing more is to be expected than that processes end."""
        if any(children.statuses):  # neither running nor 0
            if self.monitor is not None and self.monitor.verdict is None and not self._signals:
                self.monitor.abort(_describe_status(self.commands, children.statuses))
            return True
        if self.monitor is None:
            return False
        ended = [status.ended is not None for status in self.monitor.ranks.values()]
        return self.monitor.verdict is not None or (len(ended) == self.world_size and all(ended))

    def _pass_on_signals(self, children: Children) -> bool:
        """Tell the ranks of a signal that came; ``False`` when all is to end at once."""
        asked = self._signals[self._told :]
        if not asked:
            return True
        first, self._told = self._told == 0, len(self._signals)
        if not first:
            if self.monitor is not None:
                self.monitor.abort("stopped at once by a second signal; the step under way is lost")
                time.sleep(0.5)
            return False
        if self.monitor is None:
            children.signal_ranks(asked[0])
        else:
            self.monitor.stop(asked[0])
            if not self.monitor.ranks:  # nobody is there to hear it, and nothing would be lost
                children.end(2)
                return False
        return True

    def _conclude(self, children: Children) -> Outcome:
        asked = self._signals[0] if self._signals else 0
        statuses, monitor = children.statuses, self.monitor
        if monitor is not None:
            ranks, verdict = monitor.ranks, monitor.verdict
            codes = [status.ended for status in ranks.values()]
            if len(codes) == self.world_size and not any(codes) and None not in codes:
                return Outcome(0, "done", asked)
            if len(self._signals) > 1 or (asked and not ranks):
                return Outcome(128 + asked, f"ended at once on {signal.Signals(asked).name}", asked)
            if verdict is not None:
                return Outcome(verdict.exit_code, verdict.message, asked)
            stopped = [code for code in codes if code]
            if stopped and None not in codes:
                return Outcome(stopped[0], _describe_code(stopped[0]), asked or max(0, stopped[0] - 128))
        if asked:
            return Outcome(128 + asked, f"stopped on {signal.Signals(asked).name}", asked)
        code = next((_exit_code(status) for status in statuses if status), 0)
        if code == 0 and monitor is not None:
            return Outcome(LOST, "the launcher ended well, but not every rank said that it was done")
        return Outcome(code, "done" if code == 0 else _describe_status(self.commands, statuses))

    @contextmanager
    def _catch_signals(self) -> Iterator[None]:
        def note(signum: int, frame: FrameType | None) -> None:
            self._signals.append(signum)

        handlers = {signum: signal.signal(signum, note) for signum in STOP_SIGNALS}
        try:
            yield
        finally:
            for signum, handler in handlers.items():
                signal.signal(signum, handler)


def _exit_code(status: int | None) -> int:
    """A child's status as ours: one that a signal killed, or whose launcher says so (256 - signal, 128 + SIGKILL), is worth a retry.

    Example:
        >>> [_exit_code(s) for s in (0, 2, 130, -9, 247, 137)]
        [0, 2, 130, 75, 75, 75]
    """
    if not status:
        return 0
    killed = (
        status < 0 or status >= 256 - 64 or status in (128 + signal.SIGKILL, 128 + signal.SIGSEGV, 128 + signal.SIGABRT)
    )
    return LOST if killed else status


def _describe_code(code: int) -> str:
    known = {128 + signum: f"stopped on {signal.Signals(signum).name} after a checkpoint" for signum in STOP_SIGNALS}
    return known.get(code, f"ended with status {code}")


def _describe_status(commands: Sequence[Command], statuses: Sequence[int | None]) -> str:
    """One line on the first child that failed.

    Example:
        >>> _describe_status([Command(("python",), where="rank 0")], [-9])
        'rank 0: python was killed by SIGKILL'
    """
    command, status = next((c, s) for c, s in zip(commands, statuses) if s)
    assert status
    signum = -status if status < 0 else 256 - status if status > 192 else 0
    try:
        how = f"was killed by {signal.Signals(signum).name}" if signum else f"ended with status {status}"
    except ValueError:
        how = f"ended with status {status}"
    return f"{command.where}: {command.argv[0].rpartition('/')[2]} {how}"
