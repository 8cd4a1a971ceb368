"""What a user sees while a run goes on: a live line on a terminal, a line every so often elsewhere."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from igascale.step import StepReport


class Reporter:
    """Prints on the main rank and is silent on the others.

    Args:
        active: whether this is the main rank.
        total_steps: of the whole run.
        done: steps that a resumed run has behind it.
        title: shown in front of the bar.
        tell: also gets every line, where another terminal shows them.
    """

    def __init__(
        self, active: bool, total_steps: int, done: int, title: str, tell: Callable[[str], None] | None = None
    ):
        self.active, self._tell = active, tell
        self.total = total_steps
        self.console = Console(quiet=not active, highlight=False)
        self.every = max(1, total_steps // 20)
        self.alarms: Counter[str] = Counter()
        self.bar: Progress | None = None
        if active and sys.stdout.isatty():
            columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn())
            self.bar = Progress(TextColumn(title, style="bold"), *columns)
            self.task = self.bar.add_task("train", total=total_steps, completed=done)
            self.live = Live(self.bar, console=self.console, refresh_per_second=4)

    def __enter__(self) -> Reporter:
        if self.bar:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.live.stop()

    def say(self, message: str, style: str | None = None) -> None:
        """Print one line above the bar."""
        self.console.print(message, style=style, markup=False, soft_wrap=True)
        if self.active and self._tell is not None:
            self._tell(message)

    def warn(self, message: str) -> None:
        """Print one line that the user should not miss."""
        self.say(f"warning: {message}", style="yellow")

    def alarm(self, step: int, messages: Mapping[str, str]) -> None:
        """Show each alarm the first time, count it afterwards."""
        for name, message in messages.items():
            self.alarms[name] += 1
            if self.alarms[name] == 1:
                self.warn(f"step {step}: {message}")

    def conclude(self, steps: int) -> None:
        """Say how often each alarm went off in this process's ``steps`` steps."""
        for name, count in self.alarms.items():
            self.warn(f"{name}: in {count} of {steps} steps (the first one is explained above)")

    def step(
        self,
        number: int,
        report: StepReport,
        domains: tuple[str, ...],
        lr: float,
        tokens_per_second: float,
        eta: float,
    ) -> None:
        """Show one optimizer step; ``number`` counts from 1, ``eta`` is in seconds."""
        if report.skipped:
            self.warn(f"step {number} skipped on every rank: {report.skipped}")
        losses = " ".join(f"{name} {loss:.3f}" for name, loss in zip(domains, report.losses))
        mask = "".join(
            f" {label} {report.stats[key]:.3g}"
            for key, label in (("mean_mask", "mask"), ("relative_change", "change"))
            if key in report.stats
        )
        figures = (
            f"loss {sum(report.losses) / len(report.losses):.3f} [{losses}] "
            f"|g| {report.norm_before:.3g}->{report.norm_after:.3g}{mask} lr {lr:.1e} {tokens_per_second:.0f} tok/s"
        )
        if self.bar:
            self.bar.update(self.task, completed=number)
            self.live.update(Group(self.bar, Text(figures, style="dim")))
        elif number % self.every == 0 or number in (1, self.total):
            self.say(f"step {number}/{self.total} {figures} ETA {eta:.0f}s")
