"""The whole of `igascale study`: plan, jobs, tables."""

from __future__ import annotations

import fnmatch
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from igascale.errors import BAD_INPUT, DONE, UserError
from igascale.launching.attempt import Signals
from igascale.studies import matrix, plan
from igascale.studies.jobs import FAILED, FINISHED, INTERRUPTED, Launching, Outcome
from igascale.studies.live import Progress
from igascale.studies.matrix import Row
from igascale.studies.plan import Planned
from igascale.studies.queue import run_jobs, shares
from igascale.studies.records import held
from igascale.studies.schema import Study, read_study

_STYLES = {FINISHED: "green", FAILED: "red", INTERRUPTED: "yellow", "running": "yellow"}


@dataclass(frozen=True)
class Options:
    """Of the command line.

    Attributes:
        out: the study's folder; ``None``: ``runs/NAME``.
        only: patterns of job or row names; empty: all.
        limit: so many jobs at most are begun.
        num_processes: in place of ``launch.num_processes``.
        jobs: in place of ``launch.jobs``.
        retry_failed: try again what failed before.
        tables_only: start nothing.
    """

    out: Path | None = None
    only: tuple[str, ...] = ()
    limit: int | None = None
    num_processes: int | None = None
    jobs: int | None = None
    retry_failed: bool = False
    tables_only: bool = False


def dry_run(source: Path, overrides: Sequence[str], options: Options, console: Console) -> None:
    """Check everything and print every job; nothing is written."""
    study = read_study(source)
    out = options.out or Path("runs") / source.stem
    rows = matrix.build(study, out, overrides)
    launching = plan.launching_of(study.launch, options.num_processes)
    plan.check_folder(out, source, rows)
    plan.check(rows, study, launching)
    planned = plan.look(rows)
    chosen = {id(p.job) for p in _choose(planned, options)}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("job", "method", "sets", "now", "folder"):
        table.add_column(name, overflow="fold", no_wrap=name in ("job", "now"))
    for each in planned:
        sets = " ".join(each.job.overrides)
        style = "" if id(each.job) in chosen else "dim"
        state = Text(each.state, _STYLES.get(each.state, ""))
        table.add_row(
            Text(each.job.name, style), each.row.method or "", Text(sets), state, Text(each.job.folder.name, style)
        )
    console.print(table)
    console.print(f"{len(planned)} jobs in {out / matrix.RUNS}, {len(chosen)} of them to be done; nothing was written")


def run_study(source: Path, overrides: Sequence[str], options: Options, console: Console) -> int:
    """Run what is left of a study, write its tables, and return the exit status.

    Raises:
        UserError: anything is wrong with the study, found before a process starts; or another process works on it.
    """
    study = read_study(source)
    out = options.out or Path("runs") / source.stem
    rows = matrix.build(study, out, overrides)
    launching = plan.launching_of(study.launch, options.num_processes)
    at_a_time = options.jobs or study.launch.jobs
    shares(launching, at_a_time)
    plan.check_folder(out, source, rows)
    plan.check(rows, study, launching)
    with held(out, f"study {out}"), Signals() as signals:
        planned = plan.look(rows)
        for line in plan.claim(out, source, rows, planned):
            console.print(line)
        outcomes = _work(planned, launching, at_a_time, options, console, signals)
        _write(study, rows, out, console)
    return _conclude(planned, outcomes, signals, console)


def _choose(planned: Sequence[Planned], options: Options) -> list[Planned]:
    """Those that are to be done in this start."""

    def wanted(each: Planned) -> bool:
        return not options.only or any(
            fnmatch.fnmatchcase(name, pattern)
            for pattern in options.only
            for name in (each.row.name, each.job.name, each.job.folder.name)
        )

    named = [each for each in planned if wanted(each)]
    if not named:
        raise UserError(
            f"--only {' '.join(options.only)}: no job is called so; there are {', '.join(dict.fromkeys(p.row.name for p in planned))}"
        )
    left = [p for p in named if p.state != FINISHED and (p.state != FAILED or options.retry_failed)]
    return left[: options.limit]


def _work(
    planned: Sequence[Planned],
    launching: Launching,
    at_a_time: int,
    options: Options,
    console: Console,
    signals: Signals,
) -> list[Outcome]:
    todo = [] if options.tables_only else _choose(planned, options)
    done = sum(p.state == FINISHED for p in planned)
    failed = sum(p.state == FAILED for p in planned) if not options.retry_failed else 0
    console.print(
        f"{len(planned)} jobs: {done} done, {failed} failed before, {len(todo)} to do"
        + (f", {at_a_time} at a time" if at_a_time > 1 else ""),
        highlight=False,
    )
    if not todo:
        return []
    jobs = [p.job for p in todo]
    with Progress(jobs, done, failed, at_a_time, console) as progress:
        return run_jobs(
            jobs, launching, progress, at_a_time=at_a_time, retry_failed=options.retry_failed, signals=signals
        )


def _write(study: Study, rows: Sequence[Row], out: Path, console: Console) -> None:
    from igascale.studies.report import report

    report(study, rows, out, console)


def _conclude(planned: Sequence[Planned], outcomes: Sequence[Outcome], signals: Signals, console: Console) -> int:
    """Say what failed and what is left, and give the exit status."""
    now = {outcome.job.name: outcome for outcome in outcomes}
    failed = [
        (p.job, now[p.job.name].reason if p.job.name in now else p.reason)
        for p in planned
        if (now[p.job.name].state if p.job.name in now else p.state) == FAILED
    ]
    for job, reason in failed:
        console.print(Text.assemble(("failed: ", "red"), f"{job.name}: {reason}; log: {job.log}"), soft_wrap=True)
    if failed:
        console.print("mend it, then run the same command with --retry-failed")
    if signals.received:
        name = signal.Signals(signals.received[0]).name
        console.print(f"stopped by {name}; the same command goes on from here")
        return 128 + signals.received[0]
    return BAD_INPUT if failed else DONE
