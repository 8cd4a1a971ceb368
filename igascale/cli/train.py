"""``igascale train``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from igascale.isomers.cache import Listener
    from igascale.supervision.lifeline import Lifeline


@click.command("train")
@click.argument("config", type=click.Path())
@click.argument("overrides", nargs=-1)
@click.option("--method", metavar="NAME", help="A row of the paper's tables, or a control: see `igascale methods`.")
@click.option("--hook", metavar="NAME", help="Another gradient rule with its default options: see `igascale hooks`.")
@click.option("--resume", metavar="auto|PATH", help="Continue: the latest checkpoint of this run, or a given one.")
@click.option(
    "--allow-change", multiple=True, metavar="KEY", help="A key or section that may differ from the checkpoint's."
)
@click.option("--stop-after", type=click.IntRange(min=1), metavar="N", help="Take N steps, write a checkpoint, end.")
def command(
    config: str,
    overrides: tuple[str, ...],
    method: str | None,
    hook: str | None,
    resume: str | None,
    allow_change: tuple[str, ...],
    stop_after: int | None,
) -> None:
    """Train in this process; under a launcher, as one of its ranks.

    With engine.name: deepspeed use `igascale launch`, which starts this command on every rank. With engine.name: single
    it is the whole run.

    Ctrl-C (or SIGTERM, SIGUSR1) finishes the step, writes a checkpoint and exits with 130 (143, 138); --resume auto then
    continues bit for bit. A second one exits at once.

    \b
    Examples:
      igascale train run.yaml engine.name=single optimizer.lr=1e-3
      igascale train run.yaml --method pcgrad engine.name=single output_dir=runs/pcgrad
    """
    from igascale.config import load_config
    from igascale.imports import uncollected
    from igascale.launchers import environment, network, ranks

    ranks.adopt(os.environ)
    ranks.share_cores(os.environ)
    network.choose_interface(os.environ)
    run_config = load_config(config, overrides, method, hook)
    from igascale.supervision import session

    session.exit_on_signals()
    with uncollected():
        from igascale import assemble, logs, record, runfolder, status
        from igascale.engine import Collectives
        from igascale.errors import UserError
        from igascale.supervision.lifeline import do_nothing
        from igascale.trainer import Interrupted, Trainer

    # After the imports: loading a large library holds up every thread, this one's too.
    lifeline = session.begin(run_config.supervision)
    rule = assemble.build_hook(run_config)
    device = assemble.start(run_config)
    comm = Collectives(device)
    environment.discard()  # every rank has read it: they have met
    session.meet(lifeline, run_config.supervision, comm.gather_objects, os.environ)
    start = runfolder.open_run(run_config, resume, comm, allow_change)
    folder = assemble.find_run_folder(run_config)
    if start and start.finished:
        if comm.rank == 0:
            told = f"{run_config.output_dir} is finished, at step {start.step}: nothing to do, nothing was changed"
            click.echo(told)
            lifeline.say(told)
        comm.close()
        lifeline.goodbye()
        return
    if resume and start is None and comm.rank == 0:
        click.echo(f"no checkpoint in {run_config.output_dir} yet: starting at step 0")
    if comm.rank == 0:
        lifeline.epitaph = lambda message, code: status.conclude_quickly(folder, status.FAILED, message, code)
    lifeline.own_log = logs.redirect(comm.rank, comm.world_size, os.environ)
    lifeline.cleanup = lambda: runfolder.abandon(run_config, start, comm)
    try:
        comm.gather_objects(lifeline.own_log)  # a start that is refused removes the folder: no log may begin after that
        lifeline.pulse("loading the model")
        student = assemble.build_student(run_config, device)
        if comm.rank == 0:
            record.complete(folder, run_config.model.path)
        lifeline.pulse("preparing")
        data = assemble.load_data(run_config, student.tokenizer, _listener(lifeline))
        assemble.check_same_data(data, student.tokenizer, comm)
        assemble.check_domains(run_config, rule, data.domains)
        assemble.check_room(data, student.model)
        engine = assemble.build_engine(run_config, student, rule, device)
        trainer = Trainer(run_config, data, student, rule, engine, lifeline)
    except Exception as error:
        if comm.rank == 0:
            status.conclude(folder, *status.outcome(error))
        if isinstance(error, UserError):
            lifeline.cleanup()
        raise
    lifeline.cleanup = do_nothing
    for warning in data.warnings if comm.rank == 0 else ():
        click.secho(f"warning: {warning}", fg="yellow")
        lifeline.say(f"warning: {warning}")
    try:
        trainer.train(start, stop_after)
    except Interrupted as interruption:
        engine.close()
        lifeline.goodbye(128 + interruption.signum)
        session.leave(128 + interruption.signum)
    except Exception as error:
        if comm.rank == 0:
            status.conclude(folder, *status.outcome(error))
        raise
    engine.close()
    lifeline.goodbye()
    session.leave(0)


def _listener(lifeline: Lifeline) -> Listener:
    """What the token cache does is said on the terminal and in the rank's log, and counts as a sign of life."""
    from pathlib import Path

    from igascale.isomers.cache import Listener

    def say(line: str) -> None:
        click.secho(f"warning: {line}", fg="yellow")
        lifeline.say(f"warning: {line}")

    def progress(source: str, done: int, total: int) -> None:
        share = f" {done * 100 // total}%" if total else ", which another process does"
        lifeline.pulse(f"tokenizing {Path(source).name}{share}")

    return Listener(say, progress)
