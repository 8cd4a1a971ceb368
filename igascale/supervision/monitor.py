"""The side that watches: a small TCP server in a thread of ``igascale launch``, or of rank 0 where there is no launcher."""

from __future__ import annotations

import hmac
import queue
import secrets
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from igascale.errors import BAD_INPUT, DONE, TRY_AGAIN
from igascale.supervision.verdict import (
    Beat,
    RankStatus,
    Verdict,
    Watched,
    died,
    find_hung,
    find_missing,
    find_silent,
    find_slow,
)
from igascale.supervision.wire import Wire, shorten

#: Exit codes of a stop that was asked for; they are no failure.
STOPPED = tuple(128 + s for s in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM))
_TICK = 0.1  # seconds between looks at the clock
_STALL = 3.0  # this thread itself stood still for longer: the ranks are not to blame for what it did not hear
_STRANGERS = 64  # connections that have not said who they are, at once
_HELLO_TIMEOUT = 10.0  # seconds to say it


class Monitor:
    """Listens to the ranks of one run, and ends all of them with one message when one fails.

    Args:
        world_size: how many ranks there will be.
        heartbeat_timeout: seconds without a beat after which a rank is lost.
        hang_timeout: seconds without progress on any rank after which the one behind is at fault; ``None``: never.
        start_timeout: seconds for all ranks to arrive; and, if longer, what ``hang_timeout`` is before the first step.
        bind: the address to listen on; whoever lacks the token is turned away.
        on_line: called in a thread of its own with ``(rank, text)``, for what is to be shown to the user.

    Attributes:
        port: where it listens.
    """

    def __init__(
        self,
        world_size: int,
        *,
        heartbeat_timeout: float,
        hang_timeout: float | None,
        start_timeout: float = 600.0,
        bind: str = "127.0.0.1",
        on_line: Callable[[int, str], None],
    ):
        self.world_size, self.on_line = world_size, on_line
        self.heartbeat_timeout, self.hang_timeout, self.start_timeout = heartbeat_timeout, hang_timeout, start_timeout
        self._token = secrets.token_hex(16)
        family = socket.AF_INET6 if ":" in bind else socket.AF_INET
        self._listener = socket.create_server((bind, 0), family=family, backlog=max(128, world_size))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.RLock()  # over everything below
        self._watched: dict[int, Watched] = {}
        self._verdict: Verdict | None = None
        self._wires: dict[int, Wire] = {}
        self._strangers: dict[Wire, float] = {}
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stop_signal = 0
        self._closing = False
        self._started = time.monotonic()
        # A terminal that takes no more (Ctrl-S) must not keep this thread from answering the ranks.
        self._lines: queue.SimpleQueue[tuple[int, str] | None] = queue.SimpleQueue()
        self._teller = threading.Thread(target=self._tell, name="igascale-monitor-lines", daemon=True)
        self._teller.start()
        self._thread = threading.Thread(target=self._serve, name="igascale-monitor", daemon=True)
        self._thread.start()

    # What others ask and order, from any thread.

    def environment(self, advertised_host: str) -> dict[str, str]:
        """The variables that tell a rank where to connect; the second is a secret."""
        return {"IGASCALE_MONITOR": f"{advertised_host}:{self.port}", "IGASCALE_MONITOR_TOKEN": self._token}

    @property
    def ranks(self) -> dict[int, RankStatus]:
        """The ranks that have arrived, as they are now."""
        now = time.monotonic()
        with self._lock:
            return {rank: self._watched[rank].status(now) for rank in sorted(self._watched)}

    @property
    def connected(self) -> set[int]:
        """The ranks whose connections are open: after a verdict, those that have not left."""
        with self._lock:
            return set(self._wires)

    @property
    def verdict(self) -> Verdict | None:
        """The first thing that went wrong."""
        with self._lock:
            return self._verdict

    def stop(self, signum: int) -> None:
        """Ask every rank, also those yet to arrive, to stop after its step with a checkpoint."""
        self._commands.put(lambda: self._broadcast_stop(signum))

    def abort(self, message: str, exit_code: int = TRY_AGAIN, rank: int = -1) -> None:
        """End every rank at once with a message, unless there is a verdict already."""

        def conclude() -> None:
            host = self._watched[rank].host if rank in self._watched else ""
            self._conclude(Verdict(shorten(message), rank, host, exit_code))

        self._commands.put(conclude)

    def close(self, wait: float = 2.0) -> None:
        """Stop listening; ranks that are still there go on without a Monitor.

        Args:
            wait: seconds for the ranks to say goodbye first, or to leave with the verdict.
        """
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline and self._thread.is_alive():
            with self._lock:
                left = [w for r, w in self._watched.items() if w.ended is None and r in self._wires]
            if not left and self._commands.empty():
                break
            time.sleep(0.02)
        self._closing = True
        if threading.current_thread() is not self._thread:
            self._thread.join(wait + 1)
        self._lines.put(None)
        if threading.current_thread() is not self._teller:
            self._teller.join(wait)

    # The thread.

    def _serve(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            last = time.monotonic()
            while not self._closing:
                events = selector.select(_TICK)
                now = time.monotonic()
                stalled, last = now - last, now
                with self._lock:
                    if stalled > _STALL:
                        self._forgive(stalled)
                    for key, _ in events:
                        if key.fileobj is self._listener:
                            self._accept(selector)
                        else:
                            self._read(key.data, now)
                    while not self._commands.empty():
                        self._commands.get()()
                    if self._verdict is None:
                        self._judge(now)
                    self._sweep(selector, now)
            for wire in self._wires.values():
                wire.send("bye")
            for wire in [*self._wires.values(), *self._strangers]:
                wire.close()
        self._listener.close()

    def _accept(self, selector: selectors.BaseSelector) -> None:
        try:
            connection, _ = self._listener.accept()
            wire = Wire(connection)
        except OSError:  # gone again, or no descriptors left: whoever it was tries again
            time.sleep(_TICK)
            return
        if len(self._strangers) >= _STRANGERS:  # the oldest has had its time
            oldest = min(self._strangers, key=self._strangers.__getitem__)
            oldest.closed = True
        self._strangers[wire] = time.monotonic()
        selector.register(wire, selectors.EVENT_READ, wire)

    def _read(self, wire: Wire, now: float) -> None:
        for message in wire.receive():
            rank = next((r for r, w in self._wires.items() if w is wire), None)
            if rank is not None:
                self._hear(self._watched[rank], wire, message, now)
            elif not self._greet(wire, message, now):
                wire.closed = True
                return

    def _greet(self, wire: Wire, message: dict[str, Any], now: float) -> bool:
        """Whether a stranger's first message makes it a rank of this run."""
        token, rank, host, pid = (message.get(key) for key in ("token", "rank", "host", "pid"))
        if message["kind"] != "hello" or not isinstance(token, str):
            return False
        if not hmac.compare_digest(token.encode(errors="replace"), self._token.encode()):
            return False
        if type(rank) is not int or type(pid) is not int or not isinstance(host, str):
            return False
        if not 0 <= rank < self.world_size or rank in self._watched:
            known = f"{self._watched[rank].name} is there already" if rank in self._watched else "there is no such rank"
            said = f"rank {rank} of {self.world_size} ({host[:255]}, pid {pid}): {known}; was it started twice?"
            _send_verdict(wire, Verdict(said, rank, host[:255], BAD_INPUT))
            return True  # it leaves by itself, or is let go as a stranger
        del self._strangers[wire]
        self._wires[rank] = wire
        self._watched[rank] = Watched(rank, host[:255], pid, now, now)
        wire.send("welcome")
        if self._verdict is not None:
            _send_verdict(wire, self._verdict)
        elif self._stop_signal:
            wire.send("stop", signum=self._stop_signal)
        return True

    def _hear(self, watched: Watched, wire: Wire, message: dict[str, Any], now: float) -> None:
        watched.heard = now
        kind, text, code = message["kind"], message.get("text"), message.get("exit_code")
        code = code if type(code) is int else TRY_AGAIN
        if kind == "beat":
            beat = Beat.parse(message)
            if beat.progress != watched.beat.progress:
                watched.moved = now
            watched.beat = beat
            wire.send("pong")
        elif kind == "line" and isinstance(text, str):
            self._lines.put((watched.rank, text))
        elif kind == "last words" and isinstance(text, str):
            self._conclude(watched.accuse(text, code))
        elif kind == "goodbye":
            watched.ended = code
            if code not in (DONE, *STOPPED):
                self._conclude(watched.accuse(f"{watched.name} ended with status {code}", code))

    def _judge(self, now: float) -> None:
        ranks = list(self._watched.values())
        verdict = find_silent(ranks, self.heartbeat_timeout, now)
        if verdict is None and self.hang_timeout is not None and len(ranks) == self.world_size:
            verdict = find_hung(ranks, self.hang_timeout, self.start_timeout, now)
        if verdict is None and now - self._started > self.start_timeout:
            verdict = find_missing(self._watched, self.world_size, self.start_timeout)
        if verdict is not None:
            self._conclude(verdict)
            return
        for watched, warning in find_slow(ranks):
            self._lines.put((watched.rank, f"warning: {warning}"))

    def _sweep(self, selector: selectors.BaseSelector, now: float) -> None:
        """Send what is queued; let go of connections that have ended, and of strangers that say nothing."""
        for wire, since in list(self._strangers.items()):
            if wire.closed or now - since > _HELLO_TIMEOUT:
                del self._strangers[wire]
                selector.unregister(wire)
                wire.close()
        for rank, wire in list(self._wires.items()):
            wire.flush()
            if wire.closed:
                del self._wires[rank]
                selector.unregister(wire)
                wire.close()
                if self._watched[rank].ended is None:
                    self._conclude(died(self._watched[rank]))

    def _conclude(self, verdict: Verdict) -> None:
        if self._verdict is None:
            self._verdict = verdict
            for wire in self._wires.values():
                _send_verdict(wire, verdict)

    def _broadcast_stop(self, signum: int) -> None:
        self._stop_signal = signum
        for wire in self._wires.values():
            wire.send("stop", signum=signum)

    def _forgive(self, stalled: float) -> None:
        """This process was stopped or starved: what the ranks sent meanwhile is read only now."""
        self._started += stalled
        for watched in self._watched.values():
            watched.heard += stalled
            watched.moved += stalled

    def _tell(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self.on_line(*line)
            except Exception as error:  # the caller's terminal is no reason to lose the run
                print(f"igascale: cannot show a line of rank {line[0]}: {error}", file=sys.stderr)


def _send_verdict(wire: Wire, verdict: Verdict) -> None:
    wire.send(
        "abort",
        text=verdict.message,
        rank=verdict.rank,
        host=verdict.host,
        exit_code=verdict.exit_code,
        stacks=verdict.stacks,
    )
