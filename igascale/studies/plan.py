"""What a study will do, checked before anything starts, and whether its folder is its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from igascale import status
from igascale.config import RunConfig
from igascale.errors import UserError
from igascale.files import exists, write_atomically
from igascale.studies import records
from igascale.studies.jobs import FAILED, FINISHED, INTERRUPTED, RUNNING, Job, Launching, check_job, finished_before
from igascale.studies.matrix import RUNS, Row, evaluation_arguments, shown
from igascale.studies.schema import Evaluation, Launch, Study

PLAN = "plan.json"
_TOLD = 4  # problems that are told
_NOT_HERE = {
    "endpoint": "would have one served model answer for every run; leave it out",
    "checkpoint": "and a job's result is that of its final adapter; leave it out",
    "watch": "waits for a run, and here each has ended; leave it out",
    "out": "is set by the study itself",
}


@dataclass(frozen=True)
class Planned:
    """A job and how it stands.

    Attributes:
        state: ``finished``, ``failed``, ``interrupted``, ``running`` (it was, when its study was killed) or ``new``.
        reason: why it failed.
    """

    row: Row
    seed: int | None
    job: Job
    state: str
    reason: str = ""


def look(rows: Sequence[Row]) -> list[Planned]:
    """Every job as its record tells, seed by seed, so that a study that is stopped early has whole comparisons."""
    seeds = dict.fromkeys(seed for row in rows for seed in row.jobs)
    found = []
    for seed in seeds:
        for row in rows:
            if seed in row.jobs:
                job = row.jobs[seed]
                record = records.read(job.records)
                state = record.state
                if state == FINISHED and not finished_before(job, record):
                    state = "new"  # its files were removed since
                elif state == RUNNING and status.is_gone(record.process):
                    state = INTERRUPTED
                found.append(Planned(row, seed, job, state, record.reason if state == FAILED else ""))
    return found


def check(rows: Sequence[Row], study: Study, launching: Launching) -> None:
    """Everything that can be wrong before a process starts: configurations, rules, files, what the folder holds already.

    Raises:
        UserError: the problems of all jobs, each told once, the first of many.
    """
    problems: dict[str, list[str]] = {text: [] for text in [*_unknown(study), *_missing(study.eval)]}
    for row in rows:
        for job in row.jobs.values():
            try:
                _check_run(job, check_job(job), launching)
            except UserError as error:
                problems.setdefault(str(error), []).append(job.name)
    if problems:
        told = [_of_jobs(text, names) for text, names in problems.items()]
        more = [f"and {len(told) - _TOLD} more of this kind"] if len(told) > _TOLD else []
        raise UserError("\n".join([*told[:_TOLD], *more]))


def _of_jobs(text: str, names: Sequence[str]) -> str:
    if not names or text.startswith("job "):
        return text
    return f"{names[0]}{f' and {len(names) - 1} more jobs' if len(names) > 1 else ''}: {text}"


def _check_run(job: Job, config: RunConfig, launching: Launching) -> None:
    from igascale import assemble, loading

    data = config.data
    if job.evaluation is not None and data.validation is None and "--id" not in job.evaluation:
        raise UserError(f"{job.config}: nothing to evaluate on: set data.validation, or eval.id in the study")
    for key in ("validation", "ood"):
        path = getattr(data, key)
        if path is not None and not exists(path):
            raise UserError(f"{job.config}: data.{key}: there is no file {path}")
    if not job.trains:
        return
    launching.command(config)
    hook = assemble.build_hook(config)
    loading.check_domains(config, hook, loading.training_domains(data, _domains(data.train)))


@cache
def _domains(train: str) -> tuple[str, ...]:
    from igascale.loading import look_over

    return look_over(train).domains


def _unknown(study: Study) -> list[str]:
    """What `igascale eval` would refuse once the trainings are done."""
    from igascale.cli.eval_arguments import check_arguments

    try:
        options = check_arguments(evaluation_arguments(study))
    except UserError as error:
        return [f"eval: {error}"]
    return [f"eval.options: --{name} {why}" for name, why in _NOT_HERE.items() if options[name]]


def _missing(section: Evaluation) -> list[str]:
    named = [("eval.id", section.id), ("eval.ood", section.ood)]
    # What may be a Hub id is left to who loads it.
    paths = {n: p for n, p in section.benchmarks.items() if p[:1] in "./" or p.count("/") > 1 or Path(p).suffix}
    named += [(f"eval.benchmarks.{name}", path) for name, path in paths.items()]
    return [f"{key}: there is no file {path}" for key, path in named if path is not None and not exists(path)]


def launching_of(section: Launch, num_processes: int | None) -> Launching:
    """The ``launch`` section as options of ``igascale launch``."""
    options: list[str] = []
    for name in ("backend", "hostfile", "max_restarts"):
        if (value := getattr(section, name)) is not None:
            options += [f"--{name.replace('_', '-')}", str(value)]
    return Launching(num_processes or section.num_processes, (*options, *section.options))


def check_folder(out: Path, source: Path, rows: Sequence[Row]) -> None:
    """Refuse a folder that is something else, before a lock is put into it; a study may grow, and may not lose what it has.

    Args:
        out: the study's folder.
        source: its file.
        rows: what the file asks for now.

    Raises:
        UserError: the folder is no study's, or holds jobs that the file does not ask for.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; choose another --out")
    if out.is_dir() and not (out / PLAN).is_file() and any(p.name != records.LOCK for p in out.iterdir()):
        raise UserError(f"{out} exists and holds no study; choose another --out (nothing was changed)")
    folders = {job.folder.name for row in rows for job in row.jobs.values()}
    if lost := [name for folder, name in _jobs_of(out).items() if folder not in folders]:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise UserError(
            f"{out} was made from another study: it holds '{lost[0]}'{more}, which {source} does not ask for; choose another --out, "
            "or put back what was taken out"
        )


def _jobs_of(out: Path) -> dict[str, str]:
    """Folder -> name of the jobs that a study's folder was made for."""
    path = out / PLAN
    if not path.is_file():
        return {}
    try:
        jobs = json.loads(path.read_text())["jobs"]
        return {str(folder): str(name) for folder, name in jobs.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a study's plan ({error}); choose another --out") from None


def claim(out: Path, source: Path, rows: Sequence[Row], planned: Sequence[Planned]) -> list[str]:
    """Write down what the folder is of.

    Args:
        out: the folder, checked; its lock is held.
        source: the study's file.
        rows: of the study as it is now.
        planned: their jobs.

    Returns:
        What is worth saying: how many jobs are new in a folder that had some.
    """
    path, before, folders = out / PLAN, _jobs_of(out), {p.job.folder.name for p in planned}
    (out / RUNS).mkdir(exist_ok=True)
    plan = {
        "study": str(source),
        "text": source.read_text(),
        "jobs": {p.job.folder.name: p.job.name for p in planned},
        "rows": [
            {
                "row": r.name,
                "method": r.method,
                "stands_for": r.stands_for,
                "set": shown(r.settings),
                "seeds": list(r.jobs),
            }
            for r in rows
        ],
    }
    write_atomically(path, json.dumps(plan, indent=1) + "\n")
    new = len(folders - before.keys())
    return [f"{new} of {len(folders)} jobs are new in this study"] if before and new else []
