"""How many requests may be under way at once, and how long to wait before one is tried again.

The limit adapts as TCP does: it starts at the ceiling, is halved when the server says "too many" and grows by one for every limit's worth
of answers. It is halved once per window: refusals of requests that were sent before the last cut tell nothing new.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from contextlib import suppress


class AdaptiveLimit:
    """A semaphore whose size follows the server.

    Args:
        ceiling: the most requests under way, ever.

    Attributes:
        limit: how many may be under way now; a fraction counts once it adds up.
        in_flight: how many are.
        cuts: how often the limit was halved.
    """

    def __init__(self, ceiling: int):
        self.ceiling, self.limit, self.in_flight, self.cuts = ceiling, float(ceiling), 0, 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._last_cut = self._paused_until = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def acquire(self) -> None:
        """Wait for a turn, first come, first served."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with suppress(ValueError):  # passed over already
                    self._waiting.remove(turn)
            else:  # its turn had come
                self.release()
            raise

    def release(self) -> None:
        """The request is no longer under way."""
        self.in_flight -= 1
        self._admit()

    def succeeded(self) -> None:
        """The server answered: grow."""
        self.limit = min(float(self.ceiling), self.limit + 1.0 / self.limit)

    def refused(self, sent_at: float, retry_after: float | None) -> bool:
        """The server said "too many": shrink, and be quiet for as long as it asks.

        Args:
            sent_at: when the request was sent, by ``time.monotonic()``.
            retry_after: seconds, where the server named them.

        Returns:
            Whether the limit was halved.
        """
        at = time.monotonic()
        if retry_after is not None:
            self._paused_until = max(self._paused_until, at + retry_after)
        if sent_at <= self._last_cut:
            return False
        self._last_cut, self.limit, self.cuts = at, max(1.0, self.limit / 2), self.cuts + 1
        return True

    @property
    def paused(self) -> float:
        """Seconds for which nothing is sent, as the server asked."""
        return max(0.0, self._paused_until - time.monotonic())

    def _admit(self) -> None:
        if self._waiting and (pause := self.paused):
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(pause, self._resume)
            return
        while self._waiting and self.in_flight < int(self.limit):
            turn = self._waiting.popleft()
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)

    def wake(self) -> None:
        """No silence any more: whoever waits gets a turn, to learn that nothing is sent."""
        self._paused_until = 0.0
        self._resume()

    def _resume(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._admit()


def backoff(tries: int, base: float, cap: float) -> float:
    """Seconds to wait before the next try: exponential with full jitter, so that those turned away together do not return together.

    Args:
        tries: failures in a row so far, at least 1.
        base: seconds, the most after the first failure.
        cap: seconds, the most ever.
    """
    return random.uniform(0.0, min(cap, base * 2.0 ** min(tries - 1, 60)))
