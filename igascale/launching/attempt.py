"""One start of all ranks, from the first process to the last."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType

from igascale.errors import TRY_AGAIN
from igascale.launchers.base import Command
from igascale.launching.children import Children
from igascale.supervision.monitor import STOPPED, Monitor

#: Seconds that processes have to end once all ranks have said goodbye, or a launcher of one node has failed.
GRACE = 15.0
#: The same once there is a verdict: ranks leave at once, and one that is stopped or stuck in the kernel never does.
AFTER_VERDICT = 6.0
#: Seconds after a command's failure in which the ranks may still say what it was.
HEARSAY = 3.0
#: Seconds for the Monitor to read what ranks said whose processes have ended.
LAST_WORDS = 10.0
_TICK = 0.1


class Signals:
    """Notes SIGINT, SIGTERM and SIGUSR1 while it is entered, in place of ending this process.

    Attributes:
        received: in the order they came.
    """

    def __init__(self) -> None:
        self.received: list[int] = []

    def __enter__(self) -> Signals:
        def note(signum: int, frame: FrameType | None) -> None:
            self.received.append(signum)

        self._before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
        return self

    def __exit__(self, *error: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    Attributes:
        exit_code: of ``igascale launch``.
        reason: one line for the user and for the record.
        asked: whether a signal asked for the end.
        rank: the one at fault, or -1.
    """

    exit_code: int
    reason: str
    asked: bool = False
    rank: int = -1


class Attempt:
    """Runs commands to their end under a Monitor, or without one.

    Args:
        commands: what to start.
        forwarded: variables of every rank, on top of this process's own.
        world_size: ranks over all nodes.
        monitor: who hears of the ranks; ``None`` where ranks of other nodes are started by somebody else.
        signals: what this process was asked.
        refresh: called about ten times a second, to show what goes on.
        on_line: called with each line that the commands print, and whether it was on standard error.
        on_late: called instead once a rank has said how it ended, or why all must: what a stock launcher then prints is its own
            account of the same, a traceback even for a stop that was asked for.
        end_stuck: called when ranks have had their time after a verdict, to end those on other hosts that are still there.
    """

    def __init__(
        self,
        commands: Sequence[Command],
        forwarded: Mapping[str, str],
        world_size: int,
        monitor: Monitor | None,
        signals: Signals,
        refresh: Callable[[], None],
        on_line: Callable[[str, bool], None],
        on_late: Callable[[str], None],
        end_stuck: Callable[[], None],
    ):
        self.commands, self.forwarded, self.world_size = commands, forwarded, world_size
        self.monitor, self.signals, self.refresh = monitor, signals, refresh
        self.on_line, self.on_late, self.end_stuck = on_line, on_late, end_stuck
        self._told = 0  # signals that have been passed on
        self._failed: float | None = None  # when a command's failure was first seen

    def run(self) -> Outcome:
        """Start, wait, end. Nothing that was started is left when this returns, however it returns."""
        children = Children(self.commands, {**os.environ, **self.forwarded}, self._hear)
        try:
            self._wait(children)
        finally:
            children.end(0)
        self._hear_out()
        return self._conclude(children.statuses)

    def _hear(self, line: str, is_error: bool) -> None:
        ended = self.monitor is not None and any(status.ended is not None for status in self.monitor.ranks.values())
        if ended or (self.monitor is not None and self.monitor.verdict is not None):
            self.on_late(line)
        else:
            self.on_line(line, is_error)

    def _all_ended(self) -> bool:
        """Whether every rank has said goodbye."""
        ranks = self.monitor.ranks.values() if self.monitor else ()
        return len(ranks) == self.world_size and all(status.ended is not None for status in ranks)

    def _hear_out(self) -> None:
        """What was started has ended; on a machine that stood still the Monitor may not have read yet what it said last."""
        deadline = time.monotonic() + LAST_WORDS
        while self.monitor is not None and self.monitor.verdict is None and self.monitor.connected:
            if time.monotonic() > deadline:  # ranks of other hosts, which live on
                return
            time.sleep(0.02)

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
            if deadline is None and (grace := self._grace(children.statuses)):
                deadline = time.monotonic() + grace
            if deadline is not None and time.monotonic() > deadline:
                self.end_stuck()
                children.end(5)
                return

    def _grace(self, statuses: Sequence[int | None]) -> float | None:
        """Seconds that processes still have, where nothing more is to be expected than that they end."""
        if self.monitor is None:
            return GRACE if any(statuses) else None  # one is neither running nor 0
        if self.monitor.verdict is not None:
            return AFTER_VERDICT
        if self._all_ended():
            return GRACE
        code = next((_exit_code(s) for s in statuses if s), None)
        if code is None:
            return None
        self._failed = self._failed or time.monotonic()
        if time.monotonic() - self._failed > HEARSAY and code not in STOPPED:
            self.monitor.abort(describe_status(self.commands, statuses), code)
        return None

    def _pass_on_signals(self, children: Children) -> bool:
        """Tell the ranks of a signal that came; ``False`` when all is to end at once."""
        asked = self.signals.received[self._told :]
        if not asked:
            return True
        first, self._told = self._told == 0, len(self.signals.received)
        if self.monitor is None:
            if first:
                children.pass_on(asked[0])
            return first
        if first and self.monitor.ranks:
            self.monitor.stop(asked[0])
            return True
        # Nobody is there to hear it, and nothing would be lost; or the user does not want to wait.
        self.monitor.abort(_at_once(asked[0], first), 128 + asked[0])
        children.end(1)
        return False

    def _conclude(self, statuses: Sequence[int | None]) -> Outcome:
        asked = next(iter(self.signals.received), 0)
        ranks = self.monitor.ranks if self.monitor else {}
        codes = [status.ended for status in ranks.values()]
        arrived = len(codes) == self.world_size and None not in codes
        if arrived and not any(codes):
            return Outcome(0, "done", bool(asked))
        if self._told > 1 or (asked and self.monitor and not ranks):
            return Outcome(128 + asked, _at_once(asked, self._told < 2), True)
        if self.monitor and (verdict := self.monitor.verdict):
            return Outcome(verdict.exit_code, verdict.message, bool(asked), verdict.rank)
        if arrived:
            code = next(code for code in codes if code)
            return Outcome(code, f"stopped on {signal.Signals(code - 128).name} after a checkpoint", True)
        code = next((_exit_code(status) for status in statuses if status), 0)
        if code == 0 and self.monitor:
            return Outcome(TRY_AGAIN, "the launcher ended, but not every rank said that it was done", bool(asked))
        reason = describe_status(self.commands, statuses) if code else "done"
        return Outcome(128 + asked if asked and code else code, reason, bool(asked))


def _at_once(signum: int, first: bool) -> str:
    name = signal.Signals(signum).name
    return (
        f"ended by {name} before a rank was ready" if first else f"ended at once by a second {name}: the step is lost"
    )


def _exit_code(status: int | None) -> int:
    """A child's status as ours: where a signal killed it, or its launcher says so (256 - signal, 128 + signal), a retry may help.

    Example:
        >>> [_exit_code(s) for s in (0, 2, 130, -9, 247, 137)]
        [0, 2, 130, 75, 75, 75]
    """
    if not status:
        return 0
    return TRY_AGAIN if _killed_by(status) and status not in STOPPED else status


def _killed_by(status: int) -> int:
    """The signal that an exit status speaks of, or 0."""
    if status < 0:
        return -status
    return 256 - status if status > 256 - 65 else status - 128 if 128 < status < 128 + 65 else 0


def describe_status(commands: Sequence[Command], statuses: Sequence[int | None]) -> str:
    """One line on the first child that failed.

    Example:
        >>> describe_status([Command(("python",), where="rank 0")], [-9])
        'rank 0: python was killed by SIGKILL'
    """
    command, status = next((c, s) for c, s in zip(commands, statuses) if s)
    assert status
    try:
        how = f"was killed by {signal.Signals(_killed_by(status)).name}"
    except ValueError:
        how = f"ended with status {status}"
    return f"{command.where}: {command.argv[0].rpartition('/')[2]} {how}"
