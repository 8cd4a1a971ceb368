"""``igascale launch``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from igascale.errors import UserError

_BACKENDS = ("deepspeed", "local", "torchrun", "slurm")


class _Grouped(click.Command):
    """Shows the options in the groups that ``GROUPS`` names."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        left = {p.name: p for p in self.params if isinstance(p, click.Option)}
        for title, names in GROUPS.items():
            rows = [record for name in names if (record := left.pop(name).get_help_record(ctx))]
            with formatter.section(title):
                formatter.write_dl(rows)
        rows = [record for option in left.values() if (record := option.get_help_record(ctx))]
        help_option = self.get_help_option(ctx)  # its name differs between versions of click
        rows += [record] if help_option and (record := help_option.get_help_record(ctx)) else []
        with formatter.section("Other"):
            formatter.write_dl(rows)


GROUPS = {
    "What to train": ("method", "hook", "resume", "allow_change", "stop_after"),
    "Where": ("backend", "num_processes", "num_nodes", "hostfile", "include", "exclude"),
    "How hosts are reached": ("launcher", "ssh_config", "ssh_port", "env"),
    "Where ranks meet": ("master_addr", "master_port", "interface", "rdzv"),
    "Each node by hand": ("no_ssh", "node_rank"),
    "Slurm": ("partition", "time", "account", "sbatch_arg"),
    "When it fails": ("max_restarts",),
}


@click.command("launch", cls=_Grouped)
@click.argument("config", type=click.Path())
@click.argument("overrides", nargs=-1)
@click.option("--method", metavar="NAME", help="As in `igascale train`.")
@click.option("--hook", metavar="NAME", help="As in `igascale train`.")
@click.option("--resume", metavar="auto|PATH", help="As in `igascale train`.")
@click.option("--allow-change", multiple=True, metavar="KEY", help="As in `igascale train`.")
@click.option("--stop-after", type=click.IntRange(min=1), metavar="N", help="As in `igascale train`.")
@click.option(
    "--backend", type=click.Choice(_BACKENDS), default="deepspeed", show_default=True, help="Who starts ranks."
)
@click.option(
    "-n",
    "--num-processes",
    "--slots",
    type=click.IntRange(min=1),
    metavar="N",
    help="Ranks on each node [default: one per GPU, or the hostfile's slots].",
)
@click.option(
    "--num-nodes", "--nodes", type=click.IntRange(min=1), metavar="N", help="The first N hosts; Slurm: how many."
)
@click.option("-H", "--hostfile", metavar="FILE", help="Nodes, a line each: `name slots=N`.")
@click.option("-i", "--include", default="", metavar="FILTER", help="Use these only: hostA@hostB:0,2.")
@click.option("-e", "--exclude", default="", metavar="FILTER", help="Use all but these.")
@click.option(
    "--launcher",
    type=click.Choice(("pdsh", "openmpi", "mpich", "slurm")),
    help="How DeepSpeed starts on a hostfile's nodes [default: pdsh].",
)
@click.option("--ssh-config", metavar="FILE", help="ssh's -F.")
@click.option("--ssh-port", type=click.IntRange(1, 65535), metavar="PORT", help="ssh's -p.")
@click.option("--env", multiple=True, metavar="NAME[=VALUE]", help="One more variable for every rank; repeatable.")
@click.option("--master-addr", metavar="ADDRESS", help="The first node, as others reach it [default: looked up].")
@click.option(
    "--master-port", type=click.IntRange(1, 65535), metavar="PORT", help="[default: a free one; 29500 with --no-ssh]"
)
@click.option(
    "--interface", metavar="NAME", help="Network interface of gloo and NCCL [default: the route to the first node]."
)
@click.option("--rdzv", is_flag=True, help="torchrun: meet by c10d rendezvous instead of fixed node ranks.")
@click.option("--no-ssh", is_flag=True, help="Start this node's ranks only; run the same command on every node.")
@click.option("--node-rank", type=click.IntRange(min=0), metavar="K", help="Which node this is, from 0.")
@click.option("--partition", metavar="NAME", help="sbatch's.")
@click.option("--time", metavar="LIMIT", help="sbatch's.")
@click.option("--account", metavar="NAME", help="sbatch's.")
@click.option("--sbatch-arg", multiple=True, metavar="ARG", help="Such as --gpus-per-node=8; repeatable.")
@click.option(
    "--max-restarts",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Start again with --resume auto, N times at most, when a rank is lost.",
)
@click.option("--dry-run", is_flag=True, help="Print the command of every node and start nothing.")
def command(
    config: str,
    overrides: tuple[str, ...],
    method: str | None,
    hook: str | None,
    resume: str | None,
    allow_change: tuple[str, ...],
    stop_after: int | None,
    dry_run: bool,
    **given: Any,
) -> None:
    """Run `igascale train` on several processes, on one node or many.

    What can be checked without starting ranks (configuration, hook, DeepSpeed file, data files, run folder, hosts, ports) is checked
    first, so that a mistake costs seconds and starts nothing anywhere.

    \b
    Examples:
      igascale launch run.yaml -n 8                               one node, DeepSpeed's launcher
      igascale launch run.yaml -H hosts                           many nodes, over pdsh and ssh
      igascale launch run.yaml -H hosts --exclude node3:0         without one device
      igascale launch run.yaml -H hosts --backend torchrun        over ssh alone
      igascale launch run.yaml --no-ssh --num-nodes 2 -n 8 --master-addr 10.0.0.1 --node-rank 0
      igascale launch run.yaml --backend slurm --nodes 4 -n 8 --time 2-0 --sbatch-arg=--gpus-per-node=8
      igascale launch run.yaml -n 8 --max-restarts 3 --resume auto
      igascale launch run.yaml -H hosts --dry-run                 the commands, and nothing else

    Exit status: 0 done; 2 bad input; 75 a rank was lost, try again with --resume auto; 130, 138, 143 stopped by SIGINT, SIGUSR1, SIGTERM
    after a checkpoint.
    """
    from igascale.supervision.session import leaving_on_signals

    click.get_current_context().with_resource(leaving_on_signals())
    from igascale.config import load_config
    from igascale.launching import checks, show
    from igascale.launching.launch import Launch, sweep
    from igascale.launching.options import Options
    from igascale.launching.specs import BUILDERS, build_spec, describe_slots

    options = Options(**given)
    options.check()
    run_config = load_config(config, overrides, method, hook)
    if run_config.engine.name != "deepspeed":
        raise UserError(f"{config}: engine.name is '{run_config.engine.name}': run `igascale train {config}` instead")
    if options.backend == "slurm":
        from igascale.launching.submit import resume_of_job

        resume = resume_of_job(resume, Path(run_config.output_dir).resolve())
    arguments = ["train", config, *overrides]
    arguments += ["--method", method] if method else []
    arguments += ["--hook", hook] if hook else []
    arguments += ["--resume", resume] if resume else []
    for key in allow_change:
        arguments += ["--allow-change", key]
    arguments += ["--stop-after", str(stop_after)] if stop_after else []
    if options.submits:
        from igascale.launching.submit import submit

        sys.exit(submit(run_config, options, arguments, dry_run))
    spec = build_spec(options, arguments)
    commands = BUILDERS[options.backend](spec)
    if uneven := describe_slots(spec.hosts, options):
        click.secho(f"warning: {uneven}", err=True, fg="yellow")
    if dry_run:
        click.echo("\n".join(show.dry_run(spec, commands)))
        return
    start = checks.check_run(run_config, spec.world_size, resume, allow_change)
    if start and start.finished:
        sweep(Path(run_config.output_dir).resolve())  # its launcher may have been killed after its last step
        click.echo(f"{run_config.output_dir} is finished, at step {start.step}: nothing to do, nothing was changed")
        return
    checks.check_model(run_config, spec)
    checks.check_programs(options, spec)
    checks.check_port(spec)
    if spec.remote:
        checks.check_hosts(spec)
    run = Launch(run_config, options, spec)
    code = run.run()
    if options.backend == "slurm":
        from igascale.launching.submit import requeue

        requeue(code, run.folder)
    sys.exit(code)
