"""One write at a time, in a thread beside the training."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from igascale.checkpoints.publish import Published


@dataclass(frozen=True)
class Outcome:
    """How a write ended.

    Attributes:
        step: of the checkpoint.
        published: what was written, or ``None``.
        error: why not.
    """

    step: int
    published: Published | None = None
    error: Exception | None = None


def attempt(step: int, work: Callable[[], Published]) -> Outcome:
    """Do the work here and now; whatever goes wrong is part of the outcome."""
    try:
        return Outcome(step, work())
    except Exception as error:
        return Outcome(step, error=error)


class BackgroundWriter:
    """Does one piece of work at a time in a thread; nobody is told of its end but by asking."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._outcome: Outcome | None = None

    @property
    def busy(self) -> bool:
        """Whether a write is under way."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, step: int, work: Callable[[], Published]) -> None:
        """Begin a write; the one before must have been taken."""
        assert self._thread is None, "one write at a time"

        def run() -> None:
            self._outcome = attempt(step, work)

        self._thread = threading.Thread(target=run, name=f"checkpoint-{step}", daemon=True)
        self._thread.start()

    def take(self, wait: bool = False) -> Outcome | None:
        """How the last write ended, once; ``None`` where none is left to hear of.

        Args:
            wait: for its end, if it is still under way.
        """
        if self._thread is None or (self.busy and not wait):
            return None
        self._thread.join()
        outcome, self._thread, self._outcome = self._outcome, None, None
        return outcome
