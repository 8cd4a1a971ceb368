"""``igascale data split``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from igascale.isomers.split import Cost


@click.command("split")
@click.argument("file", type=click.Path())
@click.option("--out", required=True, type=click.Path(), help="Folder to write; must be new or empty.")
@click.option("--validation", type=float, default=0.2, show_default=True, help="Share of the seeds; 0 for none.")
@click.option("--test", type=float, default=0.0, show_default=True, help="Share of the seeds; 0 for none.")
@click.option("--seed", default=0, show_default=True, help="Chooses which seeds.")
@click.option("--threshold", type=float, help="Similarity from which two problems are near-duplicates [default: 0.8].")
@click.option(
    "--ignore",
    multiple=True,
    metavar="CATEGORY",
    help="Let problem, near or form be on two sides (docs/leakage.md); may be repeated.",
)
def command(
    file: str, out: str, validation: float, test: float, seed: int, threshold: float | None, ignore: tuple[str, ...]
) -> None:
    """Split FILE by seed into train, validation and test, alike problems on one side, and prove it.

    \b
    Examples:
      igascale data split groups.jsonl --out data/mine
      igascale data split groups.jsonl --out data/mine --validation 0.1 --test 0.1 --seed 1
    """
    from igascale.cli.data.leakage import print_proof
    from igascale.isomers.similarity import THRESHOLD
    from igascale.isomers.split_file import split_file

    fractions = {name: share for name, share in (("validation", validation), ("test", test)) if share != 0}
    result = split_file(
        file, out, fractions, seed, threshold=THRESHOLD if threshold is None else threshold, ignore=ignore
    )
    for part, groups in result.groups.items():
        click.echo(f"{out}/{part}.jsonl: {groups} groups of {result.cost.given[part]} seeds")
    print_cost(result.cost)
    for proof in result.proofs:
        held_out = tuple(f"{out}/{found.file}" for found in proof.held_out)
        print_proof(proof, f"{out}/{proof.training}", held_out)


def print_cost(cost: Cost) -> None:
    """Print what was kept together, and where a part is smaller than asked for."""
    if cost.tied:
        ties = ", ".join(f"{category} {count}" for category, count in cost.ties.items())
        click.echo(
            f"kept together: {cost.tied} of {cost.seeds} seeds in {cost.clusters} clusters of alike problems (ties: {ties}); "
            f"the largest has {cost.largest} ({', '.join(cost.largest_holds)}{', ...' if cost.largest > 5 else ''})"
        )
    for part, asked in cost.asked.items():
        if cost.given[part] != asked:
            click.secho(f"{part}: {cost.given[part]} seeds, not {asked}: no cluster was left that fits", fg="yellow")
