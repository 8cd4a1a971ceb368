"""What a Monitor knows of each rank, and what it concludes: pure functions of records and a time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from igascale.errors import TRY_AGAIN

#: The phases of a run in their order, so that "who is behind" has an answer within a step; others count as the last.
PHASES = (
    "starting",
    "loading the model",
    "preparing",
    "forward and backward",
    "reducing",
    "combining (the hook)",
    "gathering",
    "stepping",
    "validating",
    "comparing replicas",
    "writing a checkpoint",
    "finishing",
)
#: A rank is called slow when its own work takes this many times the median, and this many seconds more, in a step.
SLOW_RATIO, SLOW_SECONDS = 2.0, 0.2


@dataclass(frozen=True)
class Verdict:
    """The first thing that went wrong; every rank leaves with it.

    Attributes:
        message: for the user, one line.
        rank: the culprit, -1 where there is none.
        host: its host, "" where that is unknown.
        exit_code: of every rank.
        stacks: whether each rank writes the stacks of its threads to its own log.
    """

    message: str
    rank: int
    host: str
    exit_code: int
    stacks: bool = False


@dataclass(frozen=True)
class RankStatus:
    """One rank, as :attr:`Monitor.ranks` shows it.

    Attributes:
        rank: its number.
        host: its host's name.
        pid: its process there.
        step: optimizer step that it is in, counted from 1; 0 before the first.
        total_steps: of the run; 0 until that is known.
        phase: of the step, of :data:`PHASES`.
        seconds_per_step: recent mean, all in; NaN before the first step.
        loss: of the last step, the mean over domains; NaN before the first.
        silent_for: seconds since its last beat.
        still_for: seconds since its main thread came to another phase or micro-batch.
        ended: exit code that it announced, or ``None``.
    """

    rank: int
    host: str
    pid: int
    step: int
    total_steps: int
    phase: str
    seconds_per_step: float
    loss: float
    silent_for: float
    still_for: float
    ended: int | None


@dataclass
class Beat:
    """What a rank says of itself once a second.

    Attributes:
        step: see :class:`RankStatus`; so are ``total_steps``, ``phase``, ``seconds_per_step`` and ``loss``.
        progress: how often its main thread reported anything.
        collectives: how many operations with the other ranks it has begun; the same sequence on every rank.
        waiting: whether it is in one of them.
        own_seconds: of the last steps' mean, outside those operations; 0 until there are enough steps.
    """

    step: int = 0
    total_steps: int = 0
    phase: str = PHASES[0]
    seconds_per_step: float = math.nan
    loss: float = math.nan
    progress: int = 0
    collectives: int = 0
    waiting: bool = False
    own_seconds: float = 0.0

    @classmethod
    def parse(cls, fields: Mapping[str, object]) -> Beat:
        """A beat from a message; what is missing or of another type keeps its default."""
        beat = cls()
        for name, default in vars(beat).items():
            value = fields.get(name)
            if type(default) is float and type(value) is int:
                value = float(value)
            if type(value) is type(default):
                setattr(beat, name, value)
        return beat


@dataclass
class Watched:
    """A connected rank. Times are ``time.monotonic()``.

    Attributes:
        heard: when its last message came.
        moved: when its progress last changed.
        told_slow: whether it has been called slow.
    """

    rank: int
    host: str
    pid: int
    heard: float
    moved: float
    beat: Beat = field(default_factory=Beat)
    ended: int | None = None
    told_slow: bool = False

    @property
    def name(self) -> str:
        """``rank 3 (host, pid 42)``."""
        return f"rank {self.rank} ({self.host}, pid {self.pid})"

    @property
    def place(self) -> str:
        """Where it was last seen."""
        step = f"step {self.beat.step}, " if self.beat.step else ""
        return f"{step}{self.beat.phase}"

    def status(self, now: float) -> RankStatus:
        """The snapshot for users."""
        beat = self.beat
        known = (beat.step, beat.total_steps, beat.phase, beat.seconds_per_step, beat.loss)
        return RankStatus(self.rank, self.host, self.pid, *known, now - self.heard, now - self.moved, self.ended)

    def accuse(self, message: str, exit_code: int = TRY_AGAIN, stacks: bool = False) -> Verdict:
        """A verdict with this rank as the culprit."""
        return Verdict(message, self.rank, self.host, exit_code, stacks)


def died(watched: Watched) -> Verdict:
    """The connection of a rank ended without a goodbye."""
    return watched.accuse(
        f"{watched.name} died without a word, last heard of at {watched.place}: it was killed, crashed or ran out of memory "
        f"(its log, and dmesg on {watched.host}, may know)"
    )


def find_silent(ranks: Iterable[Watched], timeout: float, now: float) -> Verdict | None:
    """A rank whose beats have stopped although its connection stands."""
    silent = [w for w in ranks if w.ended is None and now - w.heard > timeout]
    if not silent:
        return None
    first = min(silent, key=lambda w: w.heard)
    return first.accuse(
        f"{first.name} has not been heard of for {now - first.heard:.0f} s (supervision.heartbeat_timeout), last at "
        f"{first.place}: the process is stopped, or its host or the network is down",
        stacks=True,
    )


def find_hung(ranks: Iterable[Watched], timeout: float, start_timeout: float, now: float) -> Verdict | None:
    """Every rank beats and none gets on: the one behind all others holds them up.

    Until each is in its first step they load libraries and a model, in few and long phases: ``start_timeout`` holds then, if it
    is longer.
    """
    running = [w for w in ranks if w.ended is None]
    key = "supervision.hang_timeout"
    if start_timeout > timeout and any(w.beat.step == 0 for w in running):
        key, timeout = "supervision.start_timeout", start_timeout
    if not running or any(now - w.moved <= timeout for w in running):
        return None
    # The ranks that wait for it have come at least as far, and have begun the operation that it has not.
    last = min(running, key=lambda w: (w.beat.step, _order(w.beat.phase), w.beat.collectives, w.beat.waiting, w.moved))
    others = f"; the other {len(running) - 1} wait for it" if len(running) > 1 else ""
    return last.accuse(
        f"{last.name} hangs at {last.place}: no rank got on for {timeout:g} s ({key}){others}. Raise "
        "the timeout where this phase may take so long",
        stacks=True,
    )


def find_missing(ranks: Mapping[int, Watched], world_size: int, timeout: float) -> Verdict | None:
    """The start is over and not everyone has come."""
    missing = [r for r in range(world_size) if r not in ranks]
    if not missing:
        return None
    names = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
    hosts = ", ".join(sorted({w.host for w in ranks.values()})) or "no host"
    return Verdict(
        f"{len(missing)} of {world_size} ranks did not arrive within {timeout:g} s (supervision.start_timeout): "
        f"{'rank' if len(missing) == 1 else 'ranks'} {names}; those that did came from {hosts}",
        missing[0],
        "",
        TRY_AGAIN,
        stacks=False,
    )


def find_slow(ranks: Iterable[Watched]) -> list[tuple[Watched, str]]:
    """Ranks whose own work, waiting left out, takes far more than the others'; each is named once."""
    measured = [w for w in ranks if w.ended is None and w.beat.own_seconds > 0]
    if len(measured) < 2:
        return []
    middle = statistics.median_low(w.beat.own_seconds for w in measured)
    found = []
    for w in measured:
        seconds = w.beat.own_seconds
        if not w.told_slow and seconds > SLOW_RATIO * middle and seconds > middle + SLOW_SECONDS:
            w.told_slow = True
            found.append(
                (
                    w,
                    f"{w.name} is slow: {seconds:.2f} s of its own work per step, the median is {middle:.2f} s; all wait",
                )
            )
    return found


def _order(phase: str) -> int:
    return PHASES.index(phase) if phase in PHASES else len(PHASES)
