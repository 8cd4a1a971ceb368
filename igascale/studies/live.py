"""What is seen of a study while it runs: a picture that moves on a terminal, elsewhere a line for each thing that happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from statistics import fmean

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from igascale import status
from igascale.runs.listing import duration
from igascale.studies.jobs import FAILED, FINISHED, TRAINING, Job, Outcome
from igascale.studies.queue import Listener

_LAST = 8  # ended jobs that stay in sight
_SIGNS = {FINISHED: ("done", "green"), FAILED: ("failed", "red")}


class Progress(Listener):
    """Counts jobs, shows those that run, and says how long the rest will take.

    Args:
        jobs: that are to be done in this start.
        done: finished before.
        failed: failed before, and not tried again.
        at_a_time: how many run at once.
        console: where to.
    """

    def __init__(self, jobs: Sequence[Job], done: int, failed: int, at_a_time: int, console: Console):
        self.console, self.at_a_time = console, at_a_time
        self.left, self.done, self.failed = len(jobs), done, failed
        self._running: dict[str, tuple[Job, str, float]] = {}
        self._ended: list[Text] = []
        self._seconds: list[float] = []
        self._lock = threading.Lock()
        self._live = (
            Live(console=console, auto_refresh=False, transient=True, get_renderable=self._picture)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def stage(self, job: Job, stage: str) -> None:
        """See the base class."""
        with self._lock:
            began = self._running[job.name][2] if job.name in self._running else time.monotonic()
            self._running[job.name] = (job, stage, began)
        if not self._live:
            self._say(Text(f"{job.name}: {stage}"))

    def ended(self, outcome: Outcome) -> None:
        """See the base class."""
        with self._lock:
            *_, began = self._running.pop(outcome.job.name, (None, "", None))
        self.left -= 1
        if outcome.state == FINISHED:
            self.done += 1
            if began is not None:
                self._seconds.append(time.monotonic() - began)
        elif outcome.state == FAILED:
            self.failed += 1
        sign, style = _SIGNS.get(outcome.state, (outcome.state, "yellow"))
        line = Text.assemble((f"{sign:>11}", style), f"  {outcome.job.name}")
        if outcome.reason:
            line.append(f": {outcome.reason}", style)
        else:
            line.append(f"  {duration(outcome.seconds)}", "dim")
        if not self._live:
            line.append(f"  ({self._counts()})", "dim")
        self._say(line)

    def tick(self) -> None:
        """See the base class."""
        if self._live:
            self._live.refresh()

    def _say(self, line: Text) -> None:
        self.console.print(line, soft_wrap=True)

    def _counts(self) -> str:
        told = f"{self.done} done, {self.failed} failed, {len(self._running)} running, {self.left - len(self._running)} left"
        eta = self.eta()
        return told if eta is None else f"{told}, about {duration(eta)} to go"

    def eta(self) -> float | None:
        """Seconds until all is done, by the mean of the jobs that ended; ``None`` before the first."""
        if not self._seconds or not self.left:
            return None
        mean, now = fmean(self._seconds), time.monotonic()
        running = [max(0.0, mean - (now - began)) for *_, began in list(self._running.values())]
        waiting = max(0, self.left - len(running))
        return (sum(running) + waiting * mean) / max(1, min(self.at_a_time, self.left))

    def _picture(self) -> Group:
        table = Table.grid(padding=(0, 2))
        with self._lock:
            running = list(self._running.values())
        for job, stage, began in running:
            told = status.read(job.folder) if stage == TRAINING else {}
            step = f"step {told['step']}/{told['total']}" if told.get("total") else ""
            table.add_row(Text(job.name, "bold"), stage, step, Text(duration(time.monotonic() - began), "dim"))
        return Group(table, Text(self._counts(), "cyan"))
