"""``igascale doctor``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from igascale.preflight.conversation import Conversation
    from igascale.preflight.examine import Plan
    from igascale.preflight.finding import Finding

COLOURS = {"pass": "green", "warn": "yellow", "fail": "red"}


@click.command("doctor")
@click.argument("config", required=False, type=click.Path())
@click.argument("overrides", nargs=-1)
@click.option("-H", "--hostfile", metavar="FILE", help="Nodes, as for `igascale launch`; else this one alone.")
@click.option("-i", "--include", default="", metavar="FILTER", help="Use these only: hostA@hostB:0,2.")
@click.option("-e", "--exclude", default="", metavar="FILTER", help="Use all but these.")
@click.option("--ssh-config", metavar="FILE", help="ssh's -F.")
@click.option("--ssh-port", type=click.IntRange(1, 65535), metavar="PORT", help="ssh's -p.")
@click.option("--env", multiple=True, metavar="NAME[=VALUE]", help="One more variable for every host; repeatable.")
@click.option("--master-addr", metavar="ADDRESS", help="The first node, as others reach it [default: looked up].")
@click.option("--master-port", type=click.IntRange(1, 65535), default=29500, show_default=True, metavar="PORT")
@click.option("--run-folder", metavar="DIR", help="Where runs are written [default: the configuration's output_dir].")
@click.option(
    "--timeout", type=click.FloatRange(min=1), default=60.0, show_default=True, help="Seconds a host has for a check."
)
@click.option("--json", "as_json", is_flag=True, help="All findings as JSON.")
def command(config: str | None, overrides: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Look for what usually goes wrong between hosts, before a run does.

    Each line passes, warns or fails, and says what to do. With a CONFIG the run folder, the room for its checkpoints, the model folder
    and the data files are looked at too. docs/doctor.md explains every line.

    \b
    Examples:
      igascale doctor                                  this host alone
      igascale doctor run.yaml -H hosts                all that `igascale launch run.yaml -H hosts` needs
      igascale doctor -H hosts --run-folder /data/runs --master-port 29501

    Exit status: 0 with passes and warnings, 1 if anything fails, 2 for bad input.
    """
    from igascale.config import load_config
    from igascale.preflight.examine import Examination, where

    run = load_config(config, overrides).model_dump(mode="json") if config else None
    plan = make_plan(run, where(given.pop("run_folder"), run), **given)
    patients = open_conversations(plan, **given)
    findings = []
    try:
        for finding in Examination(plan, patients).run():
            findings.append(finding)
            if not as_json:
                show(finding)
    finally:
        for patient in patients:
            patient.close()
    count = {status: sum(f.status == status for f in findings) for status in COLOURS}
    if as_json:
        import json
        from dataclasses import asdict

        click.echo(
            json.dumps({"hosts": list(plan.hosts), "findings": [asdict(f) for f in findings], **count}, indent=2)
        )
    else:
        click.echo(f"{count['pass']} passed, {count['warn']} warned, {count['fail']} failed")
    sys.exit(1 if count["fail"] else 0)


def make_plan(run: dict[str, Any] | None, folder: str | None, **given: Any) -> Plan:
    """Hosts, address and port from the options.

    Raises:
        UserError: a bad hostfile, filter or name.
    """
    from igascale.errors import UserError
    from igascale.launchers import hostfile, network
    from igascale.preflight.examine import Plan

    path = given["hostfile"]
    if path is None:
        for name in ("include", "exclude", "ssh_config", "ssh_port", "master_addr"):
            if given[name]:
                raise UserError(f"--{name.replace('_', '-')} needs --hostfile FILE")
        hosts, address = {"this host": _own_devices()}, "127.0.0.1"
    else:
        chosen = hostfile.select(hostfile.read(path), given["include"], given["exclude"])
        hosts, first = {host.name: host.slots for host in chosen}, chosen[0].name
        try:
            address = given["master_addr"] or network.address_of(first, given["ssh_config"])
        except OSError:
            raise UserError(
                f"{path}: host '{first}' does not resolve here: mend its name, add it to the ssh config, or give --master-addr"
            ) from None
    return Plan(hosts, path is not None, address, given["master_port"], given["timeout"], folder, run)


def _own_devices() -> tuple[int, ...]:
    """Every GPU here, without PyTorch's opinion of them; one slot where there is none."""
    import torch

    return tuple(range(max(1, torch.cuda.device_count())))


def open_conversations(plan: Plan, **given: Any) -> list[Conversation]:
    """Start the examining process on every host, with the variables that ranks would get there.

    Raises:
        UserError: ssh is not installed, or a variable is not set.
    """
    import os
    import shutil
    from pathlib import Path

    from igascale.errors import UserError
    from igascale.launchers import environment
    from igascale.preflight.conversation import Conversation

    variables = environment.forwarded(os.environ, given["env"])
    if plan.remote and shutil.which("ssh") is None:
        raise UserError("'ssh' is not installed or not on PATH: Debian package openssh-client")
    return [
        Conversation(
            host,
            remote=plan.remote,
            environment=variables,
            folder=str(Path.cwd()),
            config_file=given["ssh_config"],
            port=given["ssh_port"],
        )
        for host in plan.hosts
    ]


def show(finding: Finding) -> None:
    """A line, and below it the remedy."""
    click.echo(f"{click.style(finding.status, fg=COLOURS[finding.status])}  {finding.name:<15}  {finding.found}")
    if finding.remedy:
        click.echo(f"{'':<21}  -> {finding.remedy}")
