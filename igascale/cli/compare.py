"""``igascale compare``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from igascale.comparing.reading import Evaluation


@click.command("compare")
@click.argument("evaluations", metavar="EVAL...", nargs=-1, required=True)
@click.option("--reference", metavar="EVAL", help="The one that the others are compared with.  [default: the first]")
@click.option(
    "--interval",
    default="score",
    show_default=True,
    type=click.Choice(["score", "bca", "percentile"]),
    help="Score intervals, or a bootstrap over groups.",
)
@click.option("--resamples", default=9999, show_default=True, type=click.IntRange(min=100), help="Of a bootstrap.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of a bootstrap.")
@click.option("--show", default=0, metavar="N", type=click.IntRange(min=0), help="N problems that only one has right.")
@click.option("--allow-different-data", is_flag=True, help="Compare what all have in common, and mark the table.")
@click.option(
    "--lm-eval-samples",
    metavar="FILE",
    multiple=True,
    help="samples_TASK_*.jsonl of lm-evaluation-harness: its verdicts beside ours. May be repeated.",
)
@click.option("--export-lm-eval", metavar="DIR", help="Write one EVAL in the format of lm_eval --log_samples.")
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output, in full precision.")
def command(
    evaluations: tuple[str, ...],
    reference: str | None,
    interval: str,
    resamples: int,
    seed: int,
    show: int,
    allow_different_data: bool,
    lm_eval_samples: tuple[str, ...],
    export_lm_eval: str | None,
    as_json: bool,
) -> None:
    """Tell whether evaluations differ, problem by problem.

    EVAL is a run, or a folder that `igascale eval --out` wrote. Samples are joined by suite, side and id. Each evaluation's
    accuracy, its difference to the reference with a 95% interval, p by an exact paired test that knows of groups, and which answers
    differ. Evaluations of different problems, answers, token limits or scoring are refused. Where all of them are runs, what they cost,
    how their settings were selected, and where they stand at one validation loss follow.

    \b
    Examples:
      igascale compare runs/mean runs/iga
      igascale compare runs/mean runs/iga runs/irm --reference runs/mean --show 3
      igascale compare results/a results/b --interval bca --json
      igascale compare results/math --lm-eval-samples lm/samples_minerva_math_algebra_2026-11-29T10-00-00.jsonl
      igascale compare results/math --export-lm-eval lm

    docs/compare.md says how the numbers are made and what they do not claim.
    """
    from igascale.comparing.compare import compare
    from igascale.comparing.reading import read_evaluations
    from igascale.errors import UserError

    read = read_evaluations(_ordered(evaluations, reference))
    if lm_eval_samples or export_lm_eval:
        if len(read) != 1:
            option = "--lm-eval-samples" if lm_eval_samples else "--export-lm-eval"
            raise UserError(f"{option} goes with one EVAL, not {len(read)}; take each by itself")
        if export_lm_eval:
            _export(read[0], export_lm_eval)
        if lm_eval_samples:
            _with_lm_eval(read[0], lm_eval_samples, as_json, show)
        return
    if len(read) < 2:
        raise UserError("nothing to compare with: name two evaluations or more")
    found = compare(
        read,
        choice=interval,  # type: ignore[arg-type]
        allow_different_data=allow_different_data,
        resamples=resamples,
        seed=seed,
    )
    if as_json:
        import json

        click.echo(json.dumps(found.to_dict(), indent=2, ensure_ascii=False, allow_nan=False))
        return
    from rich.console import Console

    from igascale.comparing.examples import choose_examples, print_example
    from igascale.comparing.same_data import common_keys
    from igascale.comparing.tables import comparison_tables, differing_table
    from igascale.tables import to_rich

    console, keys = Console(), common_keys(read)
    for table in [*comparison_tables(found), *(differing_table(read[0], other, keys) for other in read[1:])]:
        console.print(to_rich(table))
    for other in read[1:]:
        for key in choose_examples(read[0], other, keys, show):
            print_example(read[0], other, key)
    from igascale.evaluation.compare_runs import print_runs

    print_runs(console, evaluations)


def _ordered(evaluations: tuple[str, ...], reference: str | None) -> list[str]:
    """The reference first."""
    if reference is None:
        return list(evaluations)
    from igascale.errors import UserError

    plain = [path.rstrip("/") for path in evaluations]
    if reference.rstrip("/") not in plain:
        raise UserError(f"--reference {reference} is none of the evaluations: {', '.join(evaluations)}")
    first = plain.index(reference.rstrip("/"))
    return [evaluations[first], *(path for i, path in enumerate(evaluations) if i != first)]


def _with_lm_eval(evaluation: Evaluation, files: tuple[str, ...], as_json: bool, show: int) -> None:
    from igascale.comparing.lm_eval_samples import compare_with_lm_eval

    found = compare_with_lm_eval(evaluation, files)
    if as_json:
        import json

        click.echo(json.dumps(found.to_dict(), indent=2, ensure_ascii=False, allow_nan=False))
        return
    from rich.console import Console

    from igascale.comparing.lm_eval_table import agreement_table, differing
    from igascale.tables import to_rich

    Console().print(to_rich(agreement_table(found)))
    for text in differing(found, show):
        click.echo(f"\n{text}")


def _export(evaluation: Evaluation, folder: str) -> None:
    from pathlib import Path

    from igascale.comparing.lm_eval_export import export_lm_eval

    for path in export_lm_eval(evaluation, Path(folder)):
        click.echo(path, err=True)
