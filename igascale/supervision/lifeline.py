"""What the trainer and the command line tell of this process; here for one that nobody watches, :mod:`~.rank` for a rank."""

from __future__ import annotations

import math
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Protocol

from igascale.supervision.verdict import Beat

STOP_SIGNALS = (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM)
_SAME = 2.0  # seconds in which signals are one request: a terminal and a launcher both pass Ctrl-C on
_STEPS = 20  # over which times are averaged
_SETTLED = 5  # steps before own times count: the first ones allocate and compile


class WaitClock(Protocol):
    """What the collective operations tell; see :class:`igascale.engine.collectives.Waiting`."""

    begun: int
    inside: bool


def vote(signum: int) -> float:
    """A number for a stop signal, or for none (0), such that the sum over ranks tells what :func:`elected` wants to know."""
    return float(2 ** (16 * STOP_SIGNALS.index(signal.Signals(signum)))) if signum else 0.0


def elected(total: float) -> int:
    """The signal that all ranks stop for, from the sum of their votes (fewer than 65536 of each); 0 for none."""
    return max((int(s) for s in STOP_SIGNALS if total >= vote(s)), key=vote, default=0)


class Lifeline:
    """What a process without a Monitor has: it only counts signals. All methods are cheap and safe to call.

    Attributes:
        stop_signal: the signal that asked for a stop after this step, or 0.
        own_log: whether this process's output goes to a file of its own; then :meth:`say` is what the user sees.
        cleanup: called before a verdict ends this process, in whatever state the main thread is.
        epitaph: called then with the message and the exit code, to be written down; it may not take long.
    """

    def __init__(self) -> None:
        self.stop_signal = 0
        self.own_log = False
        self.cleanup: Callable[[], object] = do_nothing
        self.epitaph: Callable[[str, int], object] = do_nothing
        self._graceful = False
        self._first_signal = -math.inf
        self._beat = Beat()
        self._step_seconds, self._own_seconds = deque[float](maxlen=_STEPS), deque[float](maxlen=_STEPS)
        self._clock: WaitClock | None = None

    # What the trainer says.

    @property
    def phase(self) -> str:
        """Where the main thread is."""
        return self._beat.phase

    @property
    def place(self) -> str:
        """The step too, once there is one."""
        return f"step {self._beat.step}, {self.phase}" if self._beat.step else self.phase

    def pulse(self, phase: str, step: int | None = None) -> None:
        """The main thread has come to ``phase`` (again); ``step`` counts from 1."""
        beat = self._beat
        beat.phase = phase
        if step is not None:
            beat.step = step
        beat.progress += 1

    def figures(self, total_steps: int, seconds: float, own_seconds: float, loss: float) -> None:
        """What a step took, and how much of that was this rank's own work, in seconds."""
        self._step_seconds.append(seconds)
        self._own_seconds.append(own_seconds)
        beat, own = self._beat, self._own_seconds
        beat.total_steps, beat.loss = total_steps, loss
        beat.seconds_per_step = sum(self._step_seconds) / len(self._step_seconds)
        beat.own_seconds = sum(own) / len(own) if len(own) >= _SETTLED else 0.0

    def watch(self, clock: WaitClock) -> None:
        """Tell with each beat whether this rank waits for others."""
        self._clock = clock

    def stop_gracefully(self, graceful: bool = True) -> None:
        """From now on a signal asks for a stop after the step; before, there is nothing to save and it ends the process."""
        self._graceful = graceful

    def say(self, line: str) -> None:
        """Show a line on the launching terminal, where this process's output goes elsewhere."""

    # How it leaves.

    def last_words(self, message: str, exit_code: int) -> None:
        """Make ``message`` the run's verdict. Does not return where a Monitor hears it; the caller speaks otherwise."""

    def hold(self) -> None:
        """Wait a moment for the verdict that explains why other ranks were lost. Returns where none comes."""

    def goodbye(self, exit_code: int = 0) -> None:
        """Announce that this process ends as it should, or with a stop that was asked for."""

    # Signals.

    def take_signals(self) -> Callable[[], None]:
        """Let SIGINT, SIGUSR1 and SIGTERM ask for a stop; returns what puts the old handlers back. Main thread only."""
        before = {s: signal.signal(s, self._in_main_thread) for s in STOP_SIGNALS}

        def restore() -> None:
            for signum, handler in before.items():
                signal.signal(signum, handler)

        return restore

    def _in_main_thread(self, signum: int, frame: FrameType | None) -> None:
        self._on_signal(signum)

    def _on_signal(self, signum: int) -> None:
        now = time.monotonic()
        if not self._graceful:
            self._leave_at_once(signum, "before the first step: there is nothing to save")
        elif not self.stop_signal:
            self.stop_signal, self._first_signal = signum, now
            self._announce_stop()
        elif now - self._first_signal > _SAME:
            self._leave_at_once(signum, "for the second time: checkpoints are intact, the step is lost")

    def _announce_stop(self) -> None:
        write_line("stopping after this step, with a checkpoint ...")

    def _leave_at_once(self, signum: int, when: str) -> None:
        write_line(f"stopped by {signal.Signals(signum).name} {when}")
        os._exit(128 + signum)


def write_line(text: str) -> None:
    """Write to standard error, past Python's buffers, whose lock the main thread may hold."""
    with suppress(OSError):
        os.write(2, f"{text}\n".encode(errors="replace"))


def do_nothing(*_: object) -> None:
    """For callbacks that nobody set."""
