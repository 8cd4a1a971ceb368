"""``igascale study``."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command("study")
@click.argument("study", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="The study's folder.  [default: runs/NAME]")
@click.option("--dry-run", is_flag=True, help="Check everything, print every job, start nothing.")
@click.option("-n", "--num-processes", type=click.IntRange(min=1), metavar="N", help="Ranks of each training.")
@click.option(
    "-j", "--jobs", type=click.IntRange(min=1), metavar="N", help="Jobs at a time.  [default: launch.jobs, or 1]"
)
@click.option("--only", multiple=True, metavar="GLOB", help="Only rows or jobs of such names now; repeatable.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Begin at most N jobs now.")
@click.option("--retry-failed", is_flag=True, help="Try again what failed in an earlier start.")
@click.option("--tables", "tables_only", is_flag=True, help="Only write the tables of what is there.")
def command(
    study: Path,
    overrides: tuple[str, ...],
    out: Path | None,
    dry_run: bool,
    num_processes: int | None,
    jobs: int | None,
    only: tuple[str, ...],
    limit: int | None,
    retry_failed: bool,
    tables_only: bool,
) -> None:
    """Train and evaluate a matrix of methods, seeds and ablations, and make the paper's tables of it.

    STUDY is a YAML file (docs/study.md). Every job trains in a process of its own, is evaluated in another, and fails alone.
    Interrupted in whatever way, the same command goes on; what is finished is not done again. key=value is set in every run.

    Tables 1, 2, 3 and 5 have means and standard deviations over seeds, the paper's own numbers beside them, and a statement of which of its
    orderings were reproduced, which contradicted and which cannot be told.

    \b
    Examples:
      igascale study study.yaml --dry-run
      igascale study study.yaml --out runs/first
      igascale study study.yaml -n 8 --only 'iga*' train.max_steps=500
      igascale study study.yaml --out runs/first --tables

    \b
    Writes into the study's folder: study.md, study.json, tableN.csv, tableN.tex, orderings.csv; the runs lie in runs/.
    Exit status: 0 nothing failed; 2 bad input, or a job failed; 130, 138, 143 stopped by a signal.
    """
    from rich.console import Console

    from igascale.imports import uncollected
    from igascale.studies import run

    options = run.Options(out, only, limit, num_processes, jobs, retry_failed, tables_only)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    with uncollected():
        from igascale import assemble  # noqa: F401
    if dry_run:
        run.dry_run(study, overrides, options, console)
        return
    sys.exit(run.run_study(study, overrides, options, console))
