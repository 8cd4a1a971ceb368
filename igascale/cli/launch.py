"""``igascale launch``."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

import click

from igascale.errors import UserError

if TYPE_CHECKING:
    from igascale.resuming.start import Resumption


@click.command("launch")
@click.argument("config", type=click.Path())
@click.argument("overrides", nargs=-1)
@click.option("--method", metavar="NAME", help="As in `igascale train`.")
@click.option("--hook", metavar="NAME", help="As in `igascale train`.")
@click.option("-n", "--num-processes", type=click.IntRange(min=1), help="Ranks on this node [default: one per GPU].")
@click.option("--master-port", type=click.IntRange(1, 65535), help="Where the ranks meet [default: a free port].")
@click.option("--resume", metavar="auto|PATH", help="As in `igascale train`.")
@click.option("--allow-change", multiple=True, metavar="KEY", help="As in `igascale train`.")
@click.option("--stop-after", type=click.IntRange(min=1), metavar="N", help="As in `igascale train`.")
@click.option("--dry-run", is_flag=True, help="Print the command and start nothing.")
def command(
    config: str,
    overrides: tuple[str, ...],
    method: str | None,
    hook: str | None,
    num_processes: int | None,
    master_port: int | None,
    resume: str | None,
    allow_change: tuple[str, ...],
    stop_after: int | None,
    dry_run: bool,
) -> None:
    """Run `igascale train` on several processes under the deepspeed launcher.

    What can be checked without starting ranks (configuration, hook, DeepSpeed file, data files, run folder) is checked
    here first, so that a mistake costs seconds.

    \b
    Examples:
      igascale launch run.yaml --num-processes 2 --method erm-sft output_dir=runs/erm
      igascale launch run.yaml --num-processes 2 --hook iga hook.tau=1 output_dir=runs/tau1
    """
    from igascale.config import load_config
    from igascale.launchers import base, deepspeed

    run_config = load_config(config, overrides, method, hook)
    if run_config.engine.name != "deepspeed":
        raise UserError(f"{config}: engine.name is '{run_config.engine.name}': run `igascale train {config}` instead")
    if num_processes is None:
        import torch

        num_processes = torch.cuda.device_count()
        if num_processes == 0:
            raise UserError("no GPU here: say how many CPU processes to start, --num-processes N")
    arguments = ["train", config, *overrides]
    arguments += ["--method", method] if method else []
    arguments += ["--hook", hook] if hook else []
    arguments += ["--resume", resume] if resume else []
    for key in allow_change:
        arguments += ["--allow-change", key]
    arguments += ["--stop-after", str(stop_after)] if stop_after else []
    spec = base.LaunchSpec(num_processes, "igascale", tuple(arguments), master_port or base.free_port())
    argv = deepspeed.build_command(spec)
    if dry_run:
        click.echo(shlex.join(argv))
        return
    start = preflight(run_config, num_processes, resume, allow_change)
    if start and start.finished:
        click.echo(f"{run_config.output_dir} is finished, at step {start.step}: nothing to do, nothing was changed")
        return
    sys.exit(base.run(argv, deepspeed.environment(spec)))


def preflight(
    run_config: object, num_processes: int, resume: str | None, allow_change: tuple[str, ...] = ()
) -> Resumption | None:
    """Check what every rank would otherwise find out together, after its start; what the run would continue from."""
    from igascale import assemble, runfolder
    from igascale.config import RunConfig
    from igascale.engine.ds_config import load_ds_config
    from igascale.isomers.schema import read_groups

    assert isinstance(run_config, RunConfig)
    rule, section = assemble.build_hook(run_config), run_config.data
    load_ds_config(run_config.engine.ds_config, bf16=run_config.model.dtype == "bfloat16")
    training = read_groups(section.train)
    held_out = {path: {g.seed_id for g in read_groups(path)} for path in (section.validation, section.ood) if path}
    assemble.check_domains(run_config, rule, assemble.training_domains(section, training))
    assemble.check_seeds(section, {g.seed_id for g in training}, held_out)
    if num_processes > run_config.groups_per_step:
        raise UserError(
            f"--num-processes {num_processes}: more ranks than the {run_config.groups_per_step} groups of a step; a group is "
            "never split between ranks. Raise train.groups_per_batch or use fewer processes"
        )
    return runfolder.check_start(run_config, resume, allow_change, num_processes)
