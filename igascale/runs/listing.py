"""The table of ``igascale runs ls``."""

from __future__ import annotations

from datetime import datetime

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from igascale import status
from igascale.runs.reading import BROKEN, DIED, STALLED, Run

COLOURS = {
    status.RUNNING: "green",
    status.INTERRUPTED: "yellow",
    STALLED: "yellow",
    status.FAILED: "red",
    DIED: "red",
    BROKEN: "red",
}
_COLUMNS = ("run", "rule", "state", "step", "loss", "ID", "OOD", "checkpoints", "ranks", "started", "ran")


def show(runs: list[Run], console: Console) -> None:
    """Print the table, and below it a line for each run about which there is something to say."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in _COLUMNS:
        right = name in ("step", "loss", "ID", "OOD", "ranks", "ran")
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "run", overflow="fold")
    for run in runs:
        table.add_row(*_row(run))
    console.print(table)
    for run in runs:
        if run.message:
            console.print(
                Text(f"{run.name}: {run.message.splitlines()[0]}", COLOURS.get(run.state, "")), soft_wrap=True
            )


def _row(run: Run) -> list[str | Text]:
    state = run.state
    if state == status.RUNNING and run.silent_seconds is not None:
        state += f" ({duration(run.silent_seconds)} ago)"
    step = "" if run.step is None else f"{run.step}/{run.total}" if run.total else str(run.step)
    saved = f"{len(run.checkpoints)}, last {run.checkpoints[-1]}" if run.checkpoints else "none"
    return [
        run.name,
        run.method or run.hook or "",
        Text(state, COLOURS.get(run.state, "")),
        step,
        figure(run.loss),
        figure(run.validation.get("id")),
        figure(run.validation.get("ood")),
        saved,
        str(run.world_size or ""),
        _local(run.started),
        duration(run.ran_seconds),
    ]


def figure(value: float | None) -> str:
    """A loss, or nothing."""
    return "" if value is None else f"{value:.4f}"


def duration(seconds: float | None) -> str:
    """``45s``, ``12m``, ``3h20m``, ``2d4h``; nothing for ``None``.

    Example:
        >>> duration(45), duration(750), duration(12000), duration(187200)
        ('45s', '12m', '3h20m', '2d4h')
    """
    if seconds is None:
        return ""
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if days:
        return f"{days}d{hours % 24}h"
    if hours:
        return f"{hours}h{minutes % 60:02}m"
    return f"{minutes}m" if minutes else f"{seconds:.0f}s"


def _local(started: str | None) -> str:
    """A recorded time on this machine's clock."""
    try:
        return datetime.fromisoformat(started or "").astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return ""
