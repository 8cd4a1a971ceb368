"""What a user sees while seeds are asked for: a live panel on a terminal, a line every so often elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from igascale.isomers.factory.pipeline import ACCEPTED
from igascale.isomers.teacher.store import Spent

if TYPE_CHECKING:
    from igascale.isomers.teacher.teacher import Teacher

_EVERY = 30.0  # seconds between lines where there is no terminal
_REASONS = 6  # shown live


class Progress:
    """Counts outcomes and shows them. A context manager; `tick` is called now and then in between.

    Args:
        console: where.
        total: seeds to decide.
    """

    def __init__(self, console: Console, total: int) -> None:
        self.console, self.total = console, total
        self.known = self.new = self.accepted = 0
        self.reasons: Counter[tuple[str, str]] = Counter()
        self.failed: dict[str, str] = {}
        self.teacher: Teacher | None = None
        self._before = Spent()
        self._began = self._said = time.monotonic()
        self._live = Live(self, console=console, refresh_per_second=4, transient=True) if console.is_terminal else None

    def watch(self, teacher: Teacher) -> None:
        """Show this teacher's counters."""
        self.teacher, self._before = teacher, teacher.spending.total

    def __enter__(self) -> Progress:
        self._began = self._said = time.monotonic()
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, line: str) -> None:
        """One line, above the live panel where there is one."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def outcome(self, status: str, stage: str, reason: str, known: bool) -> None:
        """A seed has an outcome; `known`: from an earlier run."""
        self.known += known
        self.new += not known
        self.accepted += status == ACCEPTED
        if status != ACCEPTED:
            self.reasons[(stage, reason)] += 1

    def unavailable(self, seed_id: str, why: str) -> None:
        """The teacher failed on a seed."""
        if not self.failed:
            self.say(
                f"warning: seed '{seed_id}' has no outcome yet, the teacher fails on it ({why}); it is left for the next run"
            )
        self.failed[seed_id] = why

    def tick(self) -> None:
        """Say a line where there is no live panel and the last one is a while ago."""
        if self._live is None and time.monotonic() - self._said >= _EVERY:
            self._said = time.monotonic()
            self.say(self.line())

    def line(self) -> str:
        """Everything in one line."""
        top = ", ".join(f"{stage}/{reason} {count}" for (stage, reason), count in self.reasons.most_common(3))
        return "; ".join([self._seeds(), *self._traffic(), *([f"rejected: {top}"] if top else [])])

    def __rich__(self) -> RenderableType:
        parts: list[RenderableType] = [
            ProgressBar(total=max(self.total, 1), completed=self.decided, width=40),
            Text(self._seeds()),
            Text("; ".join(self._traffic()), style="dim"),
        ]
        if self.reasons:
            table = Table.grid(padding=(0, 2))
            for (stage, reason), count in self.reasons.most_common(_REASONS):
                table.add_row(Text(f"{count}", style="yellow"), Text(f"{stage}: {reason}"))
            parts.append(table)
        return Group(*parts)

    @property
    def decided(self) -> int:
        """Seeds with an outcome."""
        return self.known + self.new

    def forecast(self, seeds: int) -> str:
        """What so many seeds would take, by what the new ones of this run took; empty where there were none."""
        if self.teacher is None or not self.new:
            return ""
        spent, before = self.teacher.spending.total, self._before
        requests, tokens = spent.requests - before.requests, spent.output_tokens - before.output_tokens
        cost = f", ${(spent.cost - before.cost) / self.new * seeds:,.2f}" if spent.cost else ""
        return (
            f"{requests / self.new:.1f} requests a seed; at this rate all {seeds:,} seeds take about "
            f"{requests / self.new * seeds:,.0f} requests, {tokens / self.new * seeds:,.0f} output tokens{cost}"
        )

    def _seeds(self) -> str:
        share = f", yield {self.accepted / self.decided:.0%}" if self.decided else ""
        earlier = f" ({self.known} from before)" if self.known else ""
        failed = f", {len(self.failed)} left for the next run" if self.failed else ""
        return f"{self.decided}/{self.total} seeds{earlier}, {self.accepted} accepted{share}{failed}"

    def _traffic(self) -> list[str]:
        if self.teacher is None:
            return []
        spent, elapsed = self.teacher.spending.total, max(time.monotonic() - self._began, 1e-9)
        parts = [
            f"{(spent.requests - self._before.requests) / elapsed:.1f} requests/s, "
            f"{self.teacher.in_flight} of {self.teacher.concurrency} under way",
            f"{spent.input_tokens:,} + {spent.output_tokens:,} tokens",
        ]
        if spent.cost:
            parts.append(f"${spent.cost:.2f}")
        if self.new and self.decided < self.total:
            parts.append(f"ETA {_duration((self.total - self.decided) * elapsed / self.new)}")
        return parts


def _duration(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}h {minute:02d}m" if hours else f"{minute}m {second:02d}s"
