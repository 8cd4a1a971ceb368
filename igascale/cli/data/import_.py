"""``igascale data import``."""

from __future__ import annotations

import click

from igascale.cli.data.problem_options import names


def _distinct(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    found = names(ctx, param, value)
    if found is not None and len(set(found)) != len(found):
        raise click.BadParameter("names one twice")
    return found or None


@click.command("import")
@click.argument("sources", nargs=-1, required=True)
@click.option("--out", required=True, type=click.Path(), help="The JSONL file of groups to write.")
@click.option("--prompt-field", metavar="COLUMN", help="The problem. A list of messages is taken too.")
@click.option(
    "--completion-field", metavar="COLUMN", help="Solution with its answer, or without where there is an answer column."
)
@click.option(
    "--messages-field",
    metavar="COLUMN",
    help="Chat messages (role and content, or from and value), in place of the two.",
)
@click.option("--domain-field", metavar="COLUMN", help="The domain that a row is told in.")
@click.option("--group-field", metavar="COLUMN", help="What the tellings of one problem share.")
@click.option("--answer-field", metavar="COLUMN", help="The answer by itself.")
@click.option("--cot-field", metavar="COLUMN", help="The solution by itself.")
@click.option(
    "--seed-field", metavar="COLUMN", help="The seed problem, which a split never separates [default: the group]."
)
@click.option("--kind-field", metavar="COLUMN", help="The kind of reasoning.")
@click.option(
    "--answer-pattern",
    metavar="REGEX",
    help="Finds the answer in the completion; its group, if it has one [default: see below].",
)
@click.option(
    "--system",
    type=click.Choice(["prepend", "drop"]),
    default="prepend",
    show_default=True,
    help="A system message: put before the problem, or left out.",
)
@click.option(
    "--turns",
    type=click.Choice(["refuse", "join"]),
    default="refuse",
    show_default=True,
    help="Several turns: refused, or all but the last answer made the problem.",
)
@click.option(
    "--domains", callback=_distinct, help="Only these, in this order, comma-separated [default: all, as first seen]."
)
@click.option(
    "--drop-incomplete",
    is_flag=True,
    help="Leave out groups that lack a domain or have it twice, in place of refusing.",
)
@click.option("--split", help="Of a Hub data set or a folder of `datasets`.")
@click.option("--subset", help="Of a Hub data set: its configuration.")
@click.option("--force", is_flag=True, help="Replace --out where it exists.")
def command(
    sources: tuple[str, ...],
    out: str,
    answer_pattern: str | None,
    system: str,
    turns: str,
    domains: tuple[str, ...] | None,
    drop_incomplete: bool,
    split: str | None,
    subset: str | None,
    force: bool,
    **columns: str | None,
) -> None:
    """Turn your own rows into isomer groups: one row a telling, with a domain column and a group column.

    SOURCES: .jsonl, .json (an array), .csv, .tsv or .parquet files, a folder that `datasets` saved, or a Hub id. Rows of one group need not
    stand together, and memory stays small. Columns that are not named are guessed from common names, and every guess is said.

    Without an answer column the answer is what the completion's last line says after `Answer:` or `####`, or else its last \\boxed{}; a row
    that has none, or says another after the box, is an error. Nothing is written unless every row and every group can be.

    \b
    Examples:
      igascale data import rows.jsonl --out groups.jsonl
      igascale data import train-*.parquet --out groups.jsonl --domain-field subject --group-field qid
      igascale data import chats.jsonl --out groups.jsonl --answer-pattern 'answer is (\\S+)\\.$' --drop-incomplete
      igascale data import my-org/isomers --split train --out groups.jsonl
    """
    from rich.console import Console
    from rich.progress import Progress, TextColumn

    from igascale.cli.data.summary import print_summary
    from igascale.data_import.convert import Options, import_groups
    from igascale.data_import.records import chain_sources
    from igascale.data_import.texts import check_pattern
    from igascale.isomers.dataset import validate_file

    named = {name.removesuffix("_field"): column for name, column in columns.items()}
    options = Options(named, check_pattern(answer_pattern), system, turns, domains, drop_incomplete)
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("reading")
        import_groups(
            chain_sources(sources, split, subset),
            out,
            options,
            lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
            force=force,
            progress=lambda count: bar.update(task, description=f"{count:,} rows read"),
        )
    print_summary(out, validate_file(out))
