"""What `igascale eval` shows while it works: a bar with the time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

_EVERY = 30.0  # seconds between two lines where there is no terminal


class Display:
    """Progress by stage on stderr; on a terminal something else may stand above it.

    Args:
        title: in front of every line where there is no terminal.
    """

    def __init__(self, title: str = ""):
        from rich.console import Console
        from rich.live import Live
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TaskID,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.title = title
        self._console = Console(stderr=True)
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn())
        self._bar = Progress(TextColumn("{task.description}"), *columns)
        self._live = Live(self._bar, console=self._console, transient=True, refresh_per_second=4)
        self._above: RenderableType | None = None
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, tuple[float, int]] = {}  # stage -> when it began, and how much was done then
        self._said = time.monotonic()

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def live(self) -> bool:
        """Whether there is a terminal."""
        return self._console.is_terminal

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._console.is_terminal:
            self._live.stop()

    def show_above(self, what: RenderableType) -> None:
        """Put a table above the bar."""
        from rich.console import Group

        self._above = what
        self._live.update(Group(what, self._bar))

    def say(self, line: str) -> None:
        """A line that stays."""
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)

    def restart(self, title: str) -> None:
        """Begin with another evaluation."""
        for task in self._tasks.values():
            self._bar.remove_task(task)
        self._tasks, self._began, self.title = {}, {}, title

    def update(self, stage: str, done: int, total: int) -> None:
        """The stage is so far; 0 in all where that is not known."""
        if stage not in self._tasks:
            self._began[stage] = (time.monotonic(), done)
            self._tasks[stage] = self._bar.add_task(stage, total=total or None, completed=done)
        self._bar.update(self._tasks[stage], completed=done, total=total or None)
        now = time.monotonic()
        if not self._console.is_terminal and total and now - self._said > _EVERY:
            self._said = now
            print(f"{self.title}{stage}: {done}/{total}{self._left(stage, done, total)}", file=sys.stderr, flush=True)

    def _left(self, stage: str, done: int, total: int) -> str:
        began, before = self._began[stage]
        if done <= before or done == total:
            return ""
        seconds = (time.monotonic() - began) / (done - before) * (total - done)
        return f", ETA {seconds / 60:.0f} min" if seconds > 90 else f", ETA {seconds:.0f} s"
