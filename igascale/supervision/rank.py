"""The lifeline of a rank: a thread that beats, hears verdicts and signals, and ends the process when it must.

The main thread may wait for other ranks in a call that nothing interrupts. So what must happen in any case happens in this thread,
which leaves by ``os._exit``: nothing that the main thread could still do helps a run that is lost, and checkpoints are whole
at any moment.
"""

from __future__ import annotations

import faulthandler
import math
import os
import queue
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from igascale.errors import TRY_AGAIN
from igascale.supervision.lifeline import STOP_SIGNALS, Lifeline, do_nothing, write_line
from igascale.supervision.wire import Wire, shorten

_BEAT = 1.0  # seconds between beats
_STALL = 3.0  # this process itself stood still for longer: the Monitor is not to blame for what it could not hear
_REFUSED = 5.0  # seconds to go on knocking where nobody listens
_ANSWER = 5.0  # seconds to wait for the verdict after last words, or after other ranks were lost


class RankLifeline(Lifeline):
    """The lifeline of one rank: a thread that beats, listens, and ends the process when it must.

    Args:
        rank: of this process.
        heartbeat_timeout: seconds without an answer after which the Monitor is lost.
        keeper: what the Monitor is to the user: ``"igascale launch"``, or ``"rank 0"``.
    """

    def __init__(self, rank: int, heartbeat_timeout: float, keeper: str = "igascale launch"):
        super().__init__()
        self.rank, self.keeper, self.heartbeat_timeout = rank, keeper, heartbeat_timeout
        self.host, self.pid = socket.gethostname(), os.getpid()
        self.name = f"rank {rank} ({self.host}, pid {self.pid})"
        self._speaks = False  # whether a verdict goes to this process's stderr though it has no log of its own
        self._before_exit: Callable[[], object] = do_nothing
        self._restore_signals: Callable[[], object] = do_nothing
        self._address: tuple[str, int] | None = None
        self._token = ""
        self._wire: Wire | None = None
        self._outbox: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
        self._ended = threading.Event()  # goodbye was said; what happens to the connection matters no more
        self._gone = threading.Event()  # the thread has ended
        self._deadline: tuple[float, str, int] | None = None  # when the thread ends the process, with what
        self._leaving = False
        self._generations, self._parents = 0, tuple[int, ...]()
        self._wake, self._waker = socket.socketpair()
        for end in (self._wake, self._waker):
            end.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="igascale-lifeline", daemon=True)
        self._thread.start()

    def attach(
        self, address: str, token: str, *, speaks: bool = False, before_exit: Callable[[], None] | None = None
    ) -> None:
        """Connect to a Monitor.

        Args:
            address: ``host:port``.
            token: the Monitor's.
            speaks: this rank prints a verdict for all.
            before_exit: called before a verdict ends this process.
        """
        host, _, port = address.rpartition(":")
        self._speaks, self._token = speaks, token
        self._before_exit = before_exit or do_nothing
        self._address = (host.strip("[]"), int(port))
        self._nudge()

    @property
    def attached(self) -> bool:
        """Whether there is a Monitor, or will be one."""
        return self._address is not None

    def watch_parents(self, generations: int) -> None:
        """Leave when the processes that started this one die: where no Monitor of theirs is missed, their pids are."""
        self._generations, self._parents = generations, _parents(generations)

    def exit_after(self, seconds: float | None, message: str = "", exit_code: int = TRY_AGAIN) -> None:
        """End the process with ``message`` unless this is called again, with ``None``, within so many seconds."""
        self._deadline = None if seconds is None else (time.monotonic() + seconds, message, exit_code)

    def pulse(self, phase: str, step: int | None = None) -> None:
        """See the base class; the first step is told at once, so that nobody who is lost in it was last heard of before it."""
        first = step is not None and not self._beat.step
        super().pulse(phase, step)
        if first and self.attached:
            self._post("beat", **vars(self._beat))

    def say(self, line: str) -> None:
        """See the base class."""
        if self.own_log and self.attached:
            self._post("line", text=shorten(line))

    def last_words(self, message: str, exit_code: int) -> None:
        """See the base class."""
        if not self.attached or self._ended.is_set():
            return
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        self._post("last words", text=shorten(message), exit_code=exit_code)
        self._gone.wait(_ANSWER)
        self._exit(message, exit_code, speak=True)

    def hold(self) -> None:
        """See the base class."""
        if self.attached:
            self._gone.wait(_ANSWER)

    def goodbye(self, exit_code: int = 0) -> None:
        """See the base class."""
        if not self._ended.is_set():
            self._restore_signals()
            self._ended.set()
            self._post("goodbye", exit_code=exit_code)
            self._gone.wait(_ANSWER if self.attached else 0)
            self._before_exit()

    def take_signals(self) -> Callable[[], None]:
        """See the base class; they reach the thread even while the main thread waits in a call that nothing interrupts."""
        restore = super().take_signals()
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)

        def restore_all() -> None:
            signal.set_wakeup_fd(-1)
            restore()

        self._restore_signals = restore_all
        return restore_all

    def _in_main_thread(self, signum: int, frame: FrameType | None) -> None:
        """Nothing: the thread hears of it through the wake-up descriptor."""

    def _announce_stop(self) -> None:
        if self.rank == 0:
            super()._announce_stop()
            self.say("stopping after this step, with a checkpoint ...")

    def _leave_at_once(self, signum: int, when: str) -> None:
        """In the thread: tell the others, so that none waits for this rank, and go."""
        self._leave(f"{self.name} stopped by {signal.Signals(signum).name} {when}", 128 + signum)

    def _leave(self, message: str, exit_code: int) -> None:
        """In the thread: make ``message`` the verdict, and go when it comes back, or a moment later if it does not."""
        if not self._leaving:
            self._leaving = True
            if self._wire is not None:
                self._wire.send("last words", text=message, exit_code=exit_code)
            self.exit_after(1.0 if self._wire is not None else 0.0, message, exit_code)

    def _watch_parents(self) -> None:
        if self._parents != _parents(self._generations) and not self._ended.is_set():
            self._leave(
                f"{self.name} exits: the launcher that started it (pid {self._parents[-1]}) is gone; --resume auto continues from "
                "the last checkpoint",
                TRY_AGAIN,
            )

    def _watch_deadline(self, now: float) -> None:
        if self._deadline is not None and now >= self._deadline[0]:
            _, message, exit_code = self._deadline
            if self._leaving:
                self._exit(message, exit_code, speak=True)
            self._leave(message, exit_code)

    # The thread.

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE, *STOP_SIGNALS])
        try:
            self._serve()
        except Exception as error:  # a rank without its lifeline could be orphaned
            self._exit(f"{self.name}: the lifeline failed: {type(error).__name__}: {error}", TRY_AGAIN, speak=True)
        finally:
            self._gone.set()

    def _serve(self) -> None:
        next_beat = heard = last = time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ)
            while True:
                if self._address is not None and self._wire is None:
                    self._wire = self._connect()
                    if self._wire is None:
                        return
                    selector.register(self._wire, selectors.EVENT_READ)
                    next_beat = heard = last = time.monotonic()
                due = min(next_beat, self._deadline[0] if self._deadline else math.inf)
                selector.select(max(0.0, min(due - time.monotonic(), _BEAT)))
                now = time.monotonic()
                heard += now - last if now - last > _STALL else 0.0
                last = now
                self._hear_signals()
                if self._wire is None:
                    if self._ended.is_set() and self._address is None:
                        return
                else:
                    if self._wire_has_news():
                        heard = now
                    if self._send_all(now >= next_beat):
                        return
                    if self._lost(now - heard):
                        selector.unregister(self._wire)
                        self._wire.close()
                        self._wire = None
                if now >= next_beat:
                    next_beat = now + _BEAT
                    self._watch_parents()
                self._watch_deadline(now)

    def _connect(self) -> Wire | None:
        """The connection; ``None`` where there is none and the run is over anyway. Ends the process where it should go on."""
        assert self._address is not None
        started = time.monotonic()
        while True:
            try:
                connection = socket.create_connection(self._address, timeout=5)
                if connection.getsockname() == connection.getpeername():  # TCP met itself: nobody listens on the port
                    connection.close()
                    raise ConnectionRefusedError("connection refused")
                wire = Wire(connection)
                wire.send("hello", token=self._token, rank=self.rank, host=self.host, pid=self.pid)
                return wire
            except OSError as error:
                limit = _REFUSED if isinstance(error, ConnectionRefusedError) else self.heartbeat_timeout
                if self._ended.is_set():
                    return None
                if time.monotonic() - started > limit:
                    where = "{}:{}".format(*self._address)
                    self._exit(
                        f"{self.name} cannot reach {self.keeper} at {where} ({error}): it has ended, or a firewall is between",
                        TRY_AGAIN,
                        speak=True,
                    )
                self._hear_signals()
                self._watch_deadline(time.monotonic())
                time.sleep(0.2)

    def _hear_signals(self) -> None:
        with suppress(BlockingIOError):
            for byte in self._wake.recv(4096):
                if byte in STOP_SIGNALS:
                    self._on_signal(byte)

    def _wire_has_news(self) -> bool:
        assert self._wire is not None
        messages = self._wire.receive()
        for message in messages:
            if message["kind"] == "abort":
                self._abort(message)
            elif message["kind"] == "stop" and message.get("signum") in STOP_SIGNALS:
                self._on_signal(message["signum"])
            elif message["kind"] == "bye":  # the Monitor ends in good order: from now on nobody watches
                self._address = None
        return bool(messages)

    def _send_all(self, beat: bool) -> bool:
        """Send what is queued, and a beat where it is due; true when a goodbye was among it."""
        assert self._wire is not None
        goodbye = False
        while not self._outbox.empty():
            kind, fields = self._outbox.get()
            self._wire.send(kind, **fields)
            goodbye = goodbye or kind == "goodbye"
        if goodbye:
            self._wire.finish(_ANSWER)
            return True
        if beat:
            if self._clock is not None:
                self._beat.collectives, self._beat.waiting = self._clock.begun, self._clock.inside
            self._wire.send("beat", **vars(self._beat))
        else:
            self._wire.flush()
        return False

    def _lost(self, silent: float) -> bool:
        """Whether the Monitor has ended as it should; ends the process where it is gone without a word."""
        assert self._wire is not None
        if not self._wire.closed and silent <= self.heartbeat_timeout:
            return False
        if self._address is None or self._ended.is_set():
            return True
        how = "ended" if self._wire.closed else f"was silent for {silent:.0f} s (supervision.heartbeat_timeout)"
        return self._exit(
            f"{self.name} exits: {self.keeper} {how} without a word; --resume auto continues from the last checkpoint",
            TRY_AGAIN,
            speak=True,
        )

    def _abort(self, verdict: Mapping[str, Any]) -> NoReturn:
        exit_code = verdict.get("exit_code")
        if verdict.get("stacks") and (self.own_log or verdict.get("rank") == self.rank):
            with suppress(OSError, ValueError):
                faulthandler.dump_traceback(sys.__stderr__ or sys.stderr)
        self._exit(str(verdict.get("text")), exit_code if type(exit_code) is int else TRY_AGAIN)

    def _exit(self, message: str, exit_code: int, speak: bool = False) -> NoReturn:
        if speak or self._speaks or self.own_log:
            write_line(f"error: {message}")
        with suppress(Exception):
            self.epitaph(message, exit_code)
            self.cleanup()
        with suppress(Exception):
            if self._wire is not None:
                self._wire.socket.close()  # a Monitor in this process waits for all connections to end
            self._before_exit()
        os._exit(exit_code)

    def _post(self, kind: str, **fields: Any) -> None:
        self._outbox.put((kind, fields))
        self._nudge()

    def _nudge(self) -> None:
        with suppress(BlockingIOError):  # full: it is awake
            self._waker.send(b"\0")


def _parents(generations: int) -> tuple[int, ...]:
    """Process ids of the parent, its parent, and so on; 0 where that cannot be read."""
    pids: list[int] = []
    for generation in range(generations):
        parent = os.getppid() if generation == 0 else 0
        if generation and pids[-1]:
            with suppress(OSError, ValueError, IndexError):  # the name in brackets may hold anything
                parent = int(Path(f"/proc/{pids[-1]}/stat").read_text().rpartition(")")[2].split()[1])
        pids.append(parent)
    return tuple(pids)
