"""What the launching terminal shows: a live table of all ranks, or plain lines where the output is no terminal."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import groupby

from rich.console import Console
from rich.live import Live
from rich.table import Table

from igascale.supervision.verdict import RankStatus

#: Up to so many ranks have a line each; more are shown by host.
EACH = 16
_REDRAW = 0.5  # seconds


class Display:
    """Shows lines and, on a terminal, the ranks below them.

    Args:
        world_size: how many ranks there will be.
        title: of the table.
    """

    def __init__(self, world_size: int, title: str):
        self.world_size, self.title = world_size, title
        self.out, self.err = Console(highlight=False), Console(highlight=False, stderr=True)
        self.live = Live(console=self.out, refresh_per_second=4, auto_refresh=False) if sys.stdout.isatty() else None
        self._told, self._drawn = False, 0.0

    def __enter__(self) -> Display:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.live.stop()

    def rank_line(self, rank: int, text: str) -> None:
        """A line that a rank wants the user to see."""
        self.line(text if rank == 0 else f"[rank {rank}] {text}")

    def line(self, text: str, error: bool = False, style: str | None = None) -> None:
        """One line above the table; never wrapped, so that it can be searched for."""
        console = self.err if error and not self.live else self.out
        console.print(text, style=style, markup=False, soft_wrap=True)

    def update(self, ranks: Mapping[int, RankStatus]) -> None:
        """Show the ranks as they are now."""
        if self.live and time.monotonic() - self._drawn > _REDRAW:
            self._drawn = time.monotonic()
            self.live.update(table(ranks, self.world_size, self.title), refresh=True)
        elif not self.live and not self._told and len(ranks) == self.world_size:
            self._told = True
            hosts = {host: sum(1 for _ in group) for host, group in groupby(sorted(s.host for s in ranks.values()))}
            self.line(f"{self.world_size} ranks: {', '.join(f'{host} {count}' for host, count in hosts.items())}")


def table(ranks: Mapping[int, RankStatus], world_size: int, title: str) -> Table:
    """The ranks as a table: a row each, or one for each host where there are many."""
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False)
    each = world_size <= EACH
    names = ("rank", "host", "pid") if each else ("host", "ranks", "")
    for name in (*names, "step", "phase", "s/step", "loss", "last beat"):
        shown.add_column(name, no_wrap=True, justify="left" if name in ("host", "phase") else "right")
    for row in (_row(s) for s in ranks.values()) if each else _host_rows(list(ranks.values())):
        shown.add_row(*row)
    if len(ranks) < world_size:
        shown.caption = f"{world_size - len(ranks)} of {world_size} ranks have not arrived yet"
    return shown


def _row(status: RankStatus) -> tuple[str, ...]:
    phase = status.phase if status.ended is None else f"ended ({status.ended})"
    return (
        str(status.rank),
        status.host,
        str(status.pid),
        _steps(status.step, status.total_steps),
        phase,
        _number(status.seconds_per_step),
        _number(status.loss),
        f"{status.silent_for:.0f} s ago",
    )


def _host_rows(ranks: Sequence[RankStatus]) -> list[tuple[str, ...]]:
    """A row per host, of the rank that is furthest behind."""
    rows = []
    for host, group in groupby(sorted(ranks, key=lambda s: (s.host, s.rank)), key=lambda s: s.host):
        members = list(group)
        last = min(members, key=lambda s: (s.step, -s.still_for))
        rest = _row(last)[3:-1]
        silent = max(s.silent_for for s in members)
        rows.append((host, str(len(members)), f"rank {last.rank}", *rest, f"{silent:.0f} s ago"))
    return rows


def _steps(step: int, total: int) -> str:
    return f"{step}/{total}" if total else "-"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
