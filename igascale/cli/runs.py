"""``igascale runs``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from igascale.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from igascale.runs.view import Watched

_INTERVAL = 0.5  # seconds between two looks


@click.group("runs")
def command() -> None:
    """Look at run folders: all of them in a table, or one while it goes on.

    \b
    Examples:
      igascale runs ls
      igascale runs tail runs/first
    """


@command.command("ls")
@click.argument("folder", type=click.Path(path_type=Path), default="runs")
@click.option("--json", "as_json", is_flag=True, help="A list of objects, with everything in full.")
def ls(folder: Path, as_json: bool) -> None:
    """List the runs of FOLDER (default: runs/), the oldest first.

    State: running, finished, interrupted (stopped on request), failed, died (killed without a word), stalled? (no sign for ten
    minutes or twenty steps), unknown (an older folder that does not tell), broken. docs/runs.md explains every column.

    \b
    Examples:
      igascale runs ls
      igascale runs ls runs/demo --json | jq '.[] | select(.state == "failed") | .path'
    """
    import json

    from rich.console import Console

    from igascale.runs.listing import show
    from igascale.runs.reading import find_runs, read_run

    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name the one that your runs lie in: igascale runs ls FOLDER")
    runs = [read_run(path, _name(path, folder)) for path in find_runs(folder)]
    runs.sort(key=lambda run: (run.started or "", run.name))
    if as_json:
        click.echo(json.dumps([run.to_json() for run in runs], indent=1))
    elif not runs:
        click.echo(f"no runs in {folder}")
    else:
        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=200)
        show(runs, console)


@command.command("tail")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), default=10, show_default=True, help="Of the past, to begin with."
)
@click.option("--once", is_flag=True, help="Show how it is now, and end.")
@click.option("--json", "as_json", is_flag=True, help="Records as JSON lines; the last one is the run's status.")
def tail(run: Path, lines: int, once: bool, as_json: bool) -> None:
    """Watch a run until it ends: progress, losses per domain, the curve so far, checkpoints, warnings of all ranks.

    On a terminal it is a picture that moves, elsewhere a line per record. To watch changes nothing; Ctrl-C ends the watching.

    \b
    Examples:
      igascale runs tail runs/first
      igascale runs tail runs/first --once
      igascale runs tail runs/first --json | jq 'select(.kind == "train") | .loss'
    """
    from rich.console import Console

    from igascale.runs.reading import find_runs
    from igascale.runs.view import Watched

    if not run.is_dir():
        known = [str(p) for p in find_runs(run.parent)] if run.parent.is_dir() else []
        raise UserError(f"{run}: no such run folder{did_you_mean(str(run), known) or '; see `igascale runs ls`'}")
    if list(find_runs(run, 0)) != [run]:
        raise UserError(f"{run}: not a run folder (it has no config.yaml); see `igascale runs ls {run}`")
    watched = Watched(run)
    try:
        if as_json or not Console().is_terminal:
            _print(watched, lines, once, as_json)
        else:
            _draw(watched, lines, once)
    except KeyboardInterrupt:
        click.echo()


def _print(watched: Watched, lines: int, once: bool, as_json: bool) -> None:
    """Line by line."""
    import json

    from igascale.runs.reading import ENDED
    from igascale.runs.view import record_line

    first = True
    while True:
        back_at, records, logs = watched.poll()
        past = records[max(0, len(records) - lines) :] if first else records
        if as_json:
            for record in past:
                click.echo(json.dumps(record))
        else:
            if back_at is not None:
                click.echo(f"resumed from step {back_at}")
            for record in past:
                newest = record is past[-1]
                click.echo(record_line(record, watched.run.total, watched.eta() if newest else None))
            for name, line in logs[-lines:] if first else logs:
                click.echo(f"{name}: {line}")
        first = False
        if once or watched.run.state in ENDED:
            break
        time.sleep(_INTERVAL)
    if as_json:
        click.echo(json.dumps({"kind": "status", **watched.run.to_json()}))
    else:
        step = f"step {watched.run.step}" + (f"/{watched.run.total}" if watched.run.total else "")
        click.echo(f"{watched.run.state} at {step}" + (f": {watched.run.message}" if watched.run.message else ""))


def _draw(watched: Watched, lines: int, once: bool) -> None:
    """A picture that moves."""
    from rich.console import Console
    from rich.live import Live

    from igascale.runs.reading import ENDED
    from igascale.runs.view import panel

    console = Console(highlight=False)
    watched.poll()
    if once:
        console.print(panel(watched, lines))
        return
    with Live(panel(watched, lines), console=console, auto_refresh=False, vertical_overflow="visible") as live:
        while watched.run.state not in ENDED:
            time.sleep(_INTERVAL)
            watched.poll()
            live.update(panel(watched, lines), refresh=True)


def _name(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path != folder else path.resolve().name
