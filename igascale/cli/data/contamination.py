"""``igascale data contamination``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from igascale.isomers.contamination import Report

_SHOWN = 10  # hits on the screen; the report has all


@click.command("contamination")
@click.argument("files", nargs=-1, required=True, type=click.Path())
@click.option(
    "--against",
    multiple=True,
    required=True,
    type=click.Path(),
    help="JSONL of groups or of seeds, or plain text with one text a line; may be repeated.",
)
@click.option("--n", default=13, show_default=True, help="Words of an n-gram.")
@click.option("--report", type=click.Path(), help="Write every hit as JSON.")
@click.option("--fail", is_flag=True, help="Exit 2 when there is a hit.")
def command(files: tuple[str, ...], against: tuple[str, ...], n: int, report: str | None, fail: bool) -> None:
    """Look for benchmark problems in FILES (groups, seeds or plain text): runs of n words that both have.

    \b
    Examples:
      igascale data contamination data/demo/train.jsonl --against data/demo/ood.jsonl
      igascale data contamination train.jsonl --against math.jsonl --against logiqa.jsonl --report hits.json --fail
    """
    import json
    from pathlib import Path

    from igascale.errors import UserError
    from igascale.files import write_atomically
    from igascale.isomers.contamination import check
    from igascale.isomers.texts import read_texts

    texts = (pair for path in files for pair in read_texts(path))
    references = ((Path(path).stem, name, text) for path in against for name, text in read_texts(path, solutions=False))
    result = check(texts, references, n)
    if report is not None:
        try:
            write_atomically(Path(report), json.dumps(result.record(), indent=2, ensure_ascii=False) + "\n")
        except OSError as error:
            raise UserError(f"{report}: cannot write the report ({error.strerror})") from None
    _print(result)
    if fail and result.hits:
        raise UserError(f"{result.contaminated} texts repeat benchmark problems; take them out (--report lists them)")


def _print(result: Report) -> None:
    benchmarks = ", ".join(f"{name} {count}" for name, count in result.references.items())
    click.echo(f"{result.texts} texts against {benchmarks}; runs of {result.n} words")
    if result.short or result.tiny:
        click.echo(
            f"{result.short} references are shorter and must be contained whole, {result.tiny} so short that a text must be equal"
        )
    if result.boilerplate:
        click.echo(f"{result.boilerplate} runs are in too many references to mean anything and were left out")
    for hit in result.hits[:_SHOWN]:
        click.echo(f'  {hit.id}: {hit.coverage:.0%} of {hit.benchmark} {hit.reference}: "{hit.overlap}"')
    if len(result.hits) > _SHOWN:
        click.echo(f"  ... and {len(result.hits) - _SHOWN} more (--report)")
    click.secho(f"{result.contaminated} contaminated, {len(result.hits)} hits", fg="yellow" if result.hits else "green")
