"""The whole of a launch: attempts, what is shown and recorded of them, and starting again."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from igascale.config import RunConfig
from igascale.launchers import deepspeed, environment
from igascale.launchers.base import LaunchSpec, free_port
from igascale.launching import checks
from igascale.launching.attempt import LOST, Attempt, Outcome
from igascale.launching.options import Options
from igascale.launching.specs import BUILDERS

#: Seconds before a new attempt, for processes and ports on other hosts to go.
PAUSE = 3.0


def launch(config: RunConfig, options: Options, spec: LaunchSpec) -> int:
    """Start the ranks, watch them, and start them again as ``--max-restarts`` allows; returns the exit code."""
    folder = Path(config.output_dir).resolve()
    for attempt in range(1, options.max_restarts + 2):
        began, started = time.time(), time.monotonic()
        outcome = _attempt(config, options, spec, attempt)
        again = outcome.exit_code == LOST and not outcome.asked and attempt <= options.max_restarts
        _record(folder, options, spec, attempt, began, time.monotonic() - started, outcome)
        if outcome.exit_code and not outcome.asked:
            click.secho(f"error: {outcome.reason}", err=True, fg="red")
        if not again:
            break
        click.echo(
            f"attempt {attempt} ended ({outcome.reason}); attempt {attempt + 1} of {options.max_restarts + 1} continues with "
            f"--resume auto in {PAUSE:.0f} s"
        )
        time.sleep(PAUSE)
        port = spec.master_port if options.master_port else free_port()
        spec = replace(spec, arguments=resuming(spec.arguments), master_port=port)
    return outcome.exit_code


def resuming(arguments: Sequence[str]) -> tuple[str, ...]:
    """The same arguments with ``--resume auto``.

    Example:
        >>> resuming(["train", "run.yaml", "--resume", "runs/a", "--stop-after", "3"])
        ('train', 'run.yaml', '--stop-after', '3', '--resume', 'auto')
    """
    kept = list(arguments)
    if "--resume" in kept:
        at = kept.index("--resume")
        del kept[at : at + 2]
    return (*kept, "--resume", "auto")


def _attempt(config: RunConfig, options: Options, spec: LaunchSpec, number: int) -> Outcome:
    spec = replace(spec, environment={**spec.environment, "IGASCALE_ATTEMPT": str(number)})
    private = None
    with tempfile.TemporaryDirectory(prefix="igascale-") as folder:
        if spec.remote and options.backend == "deepspeed" and spec.launcher == "pdsh":
            private = checks.send_private_file(spec, environment.pack({**spec.forwarded, **spec.environment}))
            early = [(k, v) for k, v in spec.environment.items() if k in ("DS_ACCELERATOR", "OMP_NUM_THREADS")]
            file = Path(folder) / "deepspeed_env"
            file.write_text(deepspeed.env_file(private, early))
            spec = replace(spec, env_file=str(file), environment=dict(early))
        try:
            return Attempt(BUILDERS[options.backend](spec), spec.forwarded, spec.world_size, None, lambda: None).run()
        finally:
            if private:
                checks.on_hosts(spec, f"rm -f {private}\n")


def _record(
    folder: Path, options: Options, spec: LaunchSpec, attempt: int, began: float, seconds: float, outcome: Outcome
) -> None:
    """A line in ``launches.jsonl``; a run that was refused before it had a folder leaves none."""
    if not (folder / "config.yaml").is_file():
        return
    entry = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "attempt": attempt,
        "backend": options.backend,
        "hosts": [host.name for host in spec.hosts],
        "world_size": spec.world_size,
        "seconds": round(seconds, 1),
        "exit_code": outcome.exit_code,
        "reason": outcome.reason,
    }
    try:
        with (folder / "launches.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")
    except OSError as error:
        click.secho(f"warning: {folder / 'launches.jsonl'}: {error.strerror}", err=True, fg="yellow")
