"""``igascale tune``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from rich.console import Console

    from igascale.tuning.search import Chosen, Search


@click.command("tune")
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder of the search; the same again goes on."
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="NAME",
    help="A method to tune, as often as needed.  [default: erm-sft, iga, iga-mixed]",
)
@click.option("--hook", "hooks", multiple=True, metavar="NAME", help="A gradient rule of yours to tune, likewise.")
@click.option("--trials", type=click.IntRange(min=1), default=8, show_default=True, help="Settings of each method.")
@click.option(
    "--by",
    type=click.Choice(["leave-one-domain-out", "in-domain"]),
    default="leave-one-domain-out",
    show_default=True,
    help="What a setting is scored on: a training domain that it did not see, or the training domains' held-out groups.",
)
@click.option(
    "--folds",
    default="all",
    show_default=True,
    metavar="all|N",
    help="Leave each training domain out in turn, or only the first N.",
)
@click.option(
    "--search",
    multiple=True,
    metavar="KEY=VALUES",
    help="Search KEY over a,b,c or low..high or low..high:log.  [default: optimizer.lr around the configured one, and each "
    "rule's own strength]",
)
@click.option(
    "--stops", type=click.IntRange(min=1), default=6, show_default=True, help="Step counts of each run to score."
)
@click.option(
    "--score",
    type=click.Choice(["loss", "accuracy"]),
    default="loss",
    show_default=True,
    help="Of the held-out groups; accuracy generates answers at the end of each run, and so cannot choose the steps.",
)
@click.option("--seed", default=0, show_default=True, help="Of the search; the runs keep the configuration's.")
@click.option("--train", is_flag=True, help="Then train and evaluate each method as chosen, on all domains.")
@click.option("--retry-failed", is_flag=True, help="Try trials again that failed or diverged before.")
@click.option("--dry-run", is_flag=True, help="Say what would be searched and what it would cost; write nothing.")
@click.option(
    "-j", "--jobs", "at_a_time", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at a time."
)
@click.option("-n", "--num-processes", type=click.IntRange(min=1), help="Ranks of each run.  [default: one per GPU]")
def command(
    config: Path,
    overrides: tuple[str, ...],
    out: Path,
    methods: tuple[str, ...],
    hooks: tuple[str, ...],
    trials: int,
    by: str,
    folds: str,
    search: tuple[str, ...],
    stops: int,
    score: str,
    seed: int,
    train: bool,
    retry_failed: bool,
    dry_run: bool,
    at_a_time: int,
    num_processes: int | None,
) -> None:
    """Choose learning rate, steps and each rule's own strength, with the same budget for every method.

    Every setting is trained on all training domains but one and scored by the loss on that one's held-out groups, in turn; no
    out-of-distribution data is looked at. The learning rates are the same for all methods. What is chosen is written for all
    domains to OUT/tuned/METHOD.yaml, with how it was chosen in its `selection` section; each trial is a line of OUT/trials.jsonl.
    Killed at any moment, the same command goes on. docs/tune.md says when this cannot work.

    \b
    Examples:
      igascale tune run.yaml --out tune/first --trials 8 --train
      igascale tune run.yaml train.max_steps=500 --out tune/pc --method erm-sft --method pcgrad
      igascale tune run.yaml --out tune/tau --search optimizer.lr=1e-4..3e-3:log --search hook.tau=0.25,0.5,1,2
      igascale tune run.yaml --out tune/first --dry-run
    """
    from rich.console import Console

    from igascale.errors import UserError
    from igascale.studies.jobs import INTERRUPTED, Launching
    from igascale.tuning.plan import Asked
    from igascale.tuning.search import Search, check_chosen

    asked = Asked(
        config,
        overrides,
        methods,
        hooks,
        by.replace("-", "_"),
        trials,
        _folds(folds),
        stops,
        score,
        search,
        seed,
    )
    console = Console(highlight=False, soft_wrap=True, markup=False)
    found = Search(asked, out, console.print)
    _announce(console, found)
    if dry_run:
        return
    launching = Launching(num_processes)
    chosen = found.run(launching, at_a_time, retry_failed)
    if chosen is None:
        _leave(found)
    _conclude(console, chosen, by)
    if train:
        ended = found.train(chosen, launching, at_a_time)
        if any(each.state == INTERRUPTED for each in ended):
            _leave(found)
        failed = [each for each in ended if each.state != "finished"]
        if failed:
            raise UserError(f"{failed[0].job.name} could not be trained as chosen: {failed[0].reason}")
    check_chosen(chosen)


def _leave(found: Search) -> NoReturn:
    """End as every command does that a signal stopped."""
    click.echo(f"stopped on request; the same command goes on from what is in {found.folder}")
    sys.exit(128 + (found.stopped or 2))


def _folds(text: str) -> int | None:
    from igascale.errors import UserError

    if text == "all":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--folds {text}: write all, or how many domains are left out in turn")
    return int(text)


def _announce(console: Console, found: Search) -> None:
    """Whom, what, on what and for how much, before the first step."""
    from igascale.tuning.folds import IN_DOMAIN
    from igascale.tuning.plan import ACCURACY, budget, describe

    asked, first = found.asked, found.contestants[0]
    if asked.by == IN_DOMAIN:
        console.print(
            "warning: only in-domain validation will choose. It favours what fits the training domains alone, a shortcut above all; "
            "--by leave-one-domain-out scores on a domain that was not trained on",
            style="yellow",
        )
    else:
        names = ", ".join(fold.name for fold in first.folds)
        console.print(
            f"leaving out in turn: {names}. What means the same in every training domain cannot be told from logic this way"
        )
        if len(first.folds) <= len(first.folds[0].domains):
            console.print(
                "warning: not every domain is left out: the choice hangs on what these are like", style="yellow"
            )
    console.print(f"scored on {first.config.eval.max_groups} groups at most (eval.max_groups) of {found.held_out}")
    if asked.score == ACCURACY:
        console.print("--score accuracy: the end of each run only; the number of steps is not chosen", style="yellow")
    for each in found.contestants:
        console.print(describe(each))
    for line in budget(found.contestants, asked.trials):
        console.print(f"budget of {line}")


def _conclude(console: Console, chosen: list[Chosen], by: str) -> None:
    """What was chosen, and what a comparison of it could not show."""
    from igascale.tables import to_rich
    from igascale.tuning.claims import Compared, claims
    from igascale.tuning.show import chosen_table

    console.print(to_rich(chosen_table(chosen, by)))
    for each in chosen:
        for note in each.notes:
            console.print(f"note: {note}", style="yellow")
        if each.config is not None:
            console.print(f"{each.contestant.name}: {each.file}")
    runs = [Compared.of(e.contestant.name, e.config.model_dump(mode="json")) for e in chosen if e.config is not None]
    for told in claims(runs):
        console.print(f"note: {told}", style="yellow")
