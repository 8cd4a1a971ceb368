"""Handing a run to Slurm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise, takewhile
from pathlib import Path

import click

from igascale.config import RunConfig
from igascale.errors import TRY_AGAIN, UserError
from igascale.launchers.slurm import Job, batch_script
from igascale.launching import checks
from igascale.launching.launch import resuming
from igascale.launching.options import Options
from igascale.resuming import history

#: Stopped by the warning signal or by the end of the job, or a rank was lost.
REQUEUE = (138, 143, TRY_AGAIN)
#: Launches in a row that lost ranks, after which a job does not go back into the queue.
MAX_LOSSES = 3
_OURS = "# written by `igascale launch --backend slurm`"


def submit(config: RunConfig, options: Options, arguments: Sequence[str], dry_run: bool) -> int:
    """Write ``RUN.sbatch`` beside the run folder, submit it and print the job's id.

    Args:
        config: the run.
        options: of the launch.
        arguments: ``train CONFIG ...``; the job runs ``launch CONFIG ... --resume auto``, or what they say of ``--resume``.
        dry_run: print the script and do nothing.

    Returns:
        An exit code.

    Raises:
        UserError: Slurm refuses, or something that the job would find out later.
    """
    if options.num_processes is None:
        raise UserError(
            "how many ranks on each node? Give --num-processes N (with GPUs: --sbatch-arg=--gpus-per-node=N too)"
        )
    run = Path(config.output_dir).resolve()
    launch = [sys.executable, "-m", "igascale", "launch", *resuming(arguments, run, [])[1:], "--backend", "slurm"]
    launch += ["--num-processes", str(options.num_processes)]
    for text in options.env:
        launch += ["--env", text.partition("=")[0]]
    launch += ["--interface", options.interface] if options.interface else []
    named = (options.partition, options.time, options.account, options.sbatch_arg)
    log = f"{run}.slurm-%j.log"
    job = Job(run.name, options.num_nodes or 1, options.num_processes, log, *named)
    script = batch_script(job, launch, str(Path.cwd()))
    if dry_run:
        from igascale.launchers.environment import redact

        click.echo("\n".join(redact(line) for line in script.splitlines()))
        return 0
    resume = arguments[arguments.index("--resume") + 1] if "--resume" in arguments else None
    allow = [key for option, key in pairwise(arguments) if option == "--allow-change"]
    # One job may be queued to go on where another, which still runs, will end.
    checks.check_run(config, job.nodes * job.slots, resume, allow, at_once=False)
    checks.check_programs(options, None)
    return _sbatch(run, script, options)


def _sbatch(run: Path, script: str, options: Options) -> int:
    file = run.with_name(f"{run.name}.sbatch")
    if file.exists() and _OURS not in file.read_text(errors="replace"):
        raise UserError(f"{file} exists and is not ours: move it away, or choose another output_dir")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(script)
    own = dict(text.split("=", 1) for text in options.env if "=" in text)
    done = subprocess.run(
        ["sbatch", "--parsable", str(file)], env={**os.environ, **own}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise UserError(f"sbatch refused {file}: {said[-1].removeprefix('sbatch: error: ')}")
    job = done.stdout.strip().partition(";")[0]
    click.echo(f"job {job} submitted ({file}); it requeues itself after a preemption")
    click.echo(f"output: {run}.slurm-{job}.log; stop it with a checkpoint: scancel --signal=USR1 --batch {job}")
    click.echo(f"end it for good: scancel {job}")
    return 0


def resume_of_job(resume: str | None, run: Path) -> str | None:
    """What ``--resume`` means to our own batch job: after a requeue the run goes on, and does not begin again where it began."""
    job = os.environ.get("SLURM_JOB_ID")
    if resume is None or not job or os.environ.get("IGASCALE_REQUEUE") != "1":
        return resume
    return history.restart(run, resume, [record for record in history.read(run) if record.get("job") == job])


def requeue(exit_code: int, run: Path) -> None:
    """Inside our own batch job: put the job back into the queue where that may help, as its last act.

    A job that is being cancelled, or that Slurm puts back by itself, is left alone; so is one that only loses ranks.

    Args:
        exit_code: of the launch.
        run: the run folder, whose ``launches.jsonl`` knows the earlier ones.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if exit_code not in REQUEUE or not job or os.environ.get("IGASCALE_REQUEUE") != "1":
        return
    if exit_code == TRY_AGAIN and _losses_in_a_row(run) >= MAX_LOSSES:
        click.echo(
            f"job {job} is not requeued: {MAX_LOSSES} launches in a row lost ranks; see {run / 'launches.jsonl'}"
        )
        return
    state = _ask("squeue", "--noheader", "--jobs", job, "--format", "%T")
    if state != "RUNNING":
        return
    click.echo(f"exit status {exit_code}: job {job} goes back into the queue and continues with --resume auto")
    sys.stdout.flush()
    _ask("scontrol", "requeue", job)


def _losses_in_a_row(run: Path) -> int:
    try:
        lines = (run / "launches.jsonl").read_text().splitlines()
    except OSError:
        return 0
    return sum(1 for _ in takewhile(lambda line: json.loads(line)["exit_code"] == TRY_AGAIN, reversed(lines)))


def _ask(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
