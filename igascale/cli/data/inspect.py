"""``igascale data inspect``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pathlib import Path

    from igascale.isomers.inspection.browse import Selection, Source

_TERMINAL, _PAGE = 5, 200  # groups shown where --limit is not given


@click.command("inspect")
@click.argument("path", type=click.Path())
@click.option("--group", "groups", multiple=True, metavar="ID", help="This group; may be repeated.")
@click.option("--seed-id", "seeds", multiple=True, metavar="ID", help="Groups of this seed problem; may be repeated.")
@click.option("--kind", "kinds", multiple=True, help="Groups of this kind; may be repeated.")
@click.option("--domain", "domains", multiple=True, help="Show only this domain's tellings; may be repeated.")
@click.option(
    "--grep", "text", metavar="TEXT", help="Groups with TEXT in a problem, solution, answer or graph, in whatever case."
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help=f"Show the first so many [default: {_TERMINAL}, and {_PAGE} with --html].",
)
@click.option(
    "--sample", type=click.IntRange(min=1), metavar="N", help="Show N drawn at random from the whole file instead."
)
@click.option("--seed", default=0, show_default=True, help="Of the draw of --sample.")
@click.option("--rejected", is_flag=True, help="Show what a build turned down, and why, instead of its groups.")
@click.option(
    "--html", metavar="OUT.html", type=click.Path(), help="Write a page, one file that needs no network, instead."
)
def command(
    path: str,
    groups: tuple[str, ...],
    seeds: tuple[str, ...],
    kinds: tuple[str, ...],
    domains: tuple[str, ...],
    text: str | None,
    limit: int | None,
    sample: int | None,
    seed: int,
    rejected: bool,
    html: str | None,
) -> None:
    """Look at groups: their tellings side by side, what they share, and the graph; in the terminal or as a page.

    PATH is a file of groups (JSONL), or the folder of `igascale data build`.

    \b
    Examples:
      igascale data inspect data/demo/train.jsonl
      igascale data inspect data/demo/train.jsonl --kind rules --domain law --domain science
      igascale data inspect data/build --sample 50 --html build.html
      igascale data inspect data/build --rejected
    """
    from pathlib import Path

    from igascale.isomers.inspection.browse import Selection, Wanted, find_source

    if sample is not None and (limit is not None or groups):
        raise click.UsageError("--sample draws from the whole file; it does not go with --limit or --group")
    if rejected and (groups or kinds or domains or sample is not None or html is not None):
        raise click.UsageError("--rejected goes with --seed-id, --grep and --limit only (a page of a build has both)")
    source = find_source(Path(path))
    for warning in source.warnings:
        click.secho(f"warning: {warning}", err=True, fg="yellow")
    cut = limit or (_PAGE if html is not None else _TERMINAL)
    if rejected:
        _print_rejected(source, seeds, text, cut)
        return
    selection = Selection(source.groups, Wanted(groups, seeds, kinds, domains, text, cut, sample, seed))
    if html is not None:
        _write_page(Path(html), source, selection)
    else:
        _print(selection)


def _print(selection: Selection) -> None:
    from rich.console import Console

    from igascale.isomers.inspection.view import print_groups

    console = Console(highlight=False, emoji=False)
    print_groups(console, selection, selection.wanted.domains)
    more = "" if selection.shown == selection.total else " (--limit, --sample and --grep show others)"
    console.print(f"{selection.summary()}{more}", markup=False)


def _print_rejected(source: Source, seeds: tuple[str, ...], text: str | None, limit: int) -> None:
    from rich.console import Console

    from igascale.isomers.inspection.rejections import Rejections, print_rejected

    # A file is taken to be one of rejections; of a folder without one, reading says so.
    path = source.rejected or (source.path / "rejected.jsonl" if source.path.is_dir() else source.path)
    console = Console(highlight=False, emoji=False)
    rejections = Rejections(path, seeds, text, limit)
    print_rejected(console, rejections)
    console.print(rejections.summary(), markup=False)


def _write_page(html: Path, source: Source, selection: Selection) -> None:
    from contextlib import nullcontext

    from rich.console import Console

    from igascale.isomers.inspection.page import write_page
    from igascale.isomers.inspection.rejections import Rejections

    errors = Console(stderr=True)  # a sample of a large file takes a while
    with errors.status(f"reading {source.groups}") if errors.is_terminal else nullcontext():
        write_page(
            html,
            selection,
            title=source.path.resolve().name,
            shown=lambda: f"Shown: {selection.summary()}.",
            domains=selection.wanted.domains,
            manifest=source.manifest,
            rejections=Rejections(source.rejected, limit=selection.wanted.limit) if source.rejected else None,
            warnings=source.warnings,
        )
    click.echo(f"{html}: {selection.summary()} ({html.stat().st_size / 1e6:.1f} MB; open it in any browser)")
