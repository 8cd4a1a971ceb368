"""JSON objects, one per line, over a TCP connection that never blocks its reader or its writer."""

from __future__ import annotations

import json
import select
import socket
import time
from contextlib import suppress
from typing import Any

#: Bytes of one message; more without a line's end is not from us, and closes the connection.
LONGEST_MESSAGE = 128 * 1024
#: Characters of a text that is sent on: six bytes each at most (an escaped control character) stay below the limit.
LONGEST_TEXT = 16 * 1024
#: Bytes that may wait to be sent before the other side counts as lost.
_LONGEST_BACKLOG = 1024 * 1024


class Wire:
    """One connection.

    Args:
        connection: a connected socket; it is made non-blocking.

    Attributes:
        closed: the other side has gone, or sent what is no message of ours. Nothing is received or sent from then on.
    """

    def __init__(self, connection: socket.socket):
        self.socket = connection
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.closed = False
        self._incoming, self._outgoing = b"", b""

    def fileno(self) -> int:
        """For selectors."""
        return self.socket.fileno()

    def send(self, kind: str, **fields: Any) -> None:
        """Queue a message and send what the network takes at once; :meth:`flush` sends the rest."""
        text = json.dumps({"kind": kind, **fields}, ensure_ascii=False)
        self._outgoing += text.encode(errors="replace") + b"\n"
        self.flush()

    def flush(self) -> None:
        """Send what is queued, as far as it goes without waiting."""
        try:
            while self._outgoing and not self.closed:
                # On a rank SIGPIPE ends the process (igascale.cli); a peer that is gone must not.
                sent = self.socket.send(self._outgoing, socket.MSG_NOSIGNAL)
                self._outgoing = self._outgoing[sent:]
        except BlockingIOError:
            if len(self._outgoing) > _LONGEST_BACKLOG:
                self.closed = True
        except OSError:
            self._outgoing = b""  # there may still be something to read: a verdict, then the end

    def receive(self) -> list[dict[str, Any]]:
        """The messages that have arrived; sets :attr:`closed` at the end of the stream and at the first that is none."""
        if self.closed:
            return []
        try:
            data = self.socket.recv(65536)
            self.closed = not data
        except BlockingIOError:
            return []
        except OSError:
            data, self.closed = b"", True
        *lines, self._incoming = (self._incoming + data).split(b"\n")
        messages = []
        for line in lines:
            message = _parse(line)
            if message is None:
                self.closed = True
                break
            messages.append(message)
        if len(self._incoming) > LONGEST_MESSAGE:
            self.closed = True
        return messages

    def finish(self, seconds: float) -> None:
        """End the connection so that the other side has read everything: what is unread here would cut it short."""
        deadline = time.monotonic() + seconds
        self.flush()
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
        while not self.closed and (left := deadline - time.monotonic()) > 0:
            select.select([self.socket], [], [], left)
            self.receive()
        self.close()

    def close(self) -> None:
        """End the connection at once."""
        self.flush()
        self.closed = True
        self.socket.close()


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) and isinstance(message.get("kind"), str) else None


def shorten(text: str) -> str:
    """``text``, cut in the middle where it is longer than a message may be."""
    half = LONGEST_TEXT // 2
    return text if len(text) <= LONGEST_TEXT else f"{text[:half]} [...] {text[-half:]}"
