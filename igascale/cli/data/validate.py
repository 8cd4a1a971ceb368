"""``igascale data validate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from igascale.isomers.dataset import Summary


@click.command("validate")
@click.argument("files", nargs=-1, type=click.Path())
@click.option(
    "--tokenizer", metavar="PATH", help="Model folder or Hub id: also show one group as training sees it, and lengths."
)
@click.option(
    "--config", metavar="RUN.yaml", help="Its tokenizer and max_length; and its data files, where none are named."
)
@click.option("--max-length", type=click.IntRange(min=8), help="Tokens kept [default: data.max_length, or 1024].")
@click.option(
    "--max-problems", type=click.IntRange(min=1), default=50, show_default=True, help="Shown per file; all are counted."
)
def command(
    files: tuple[str, ...], tokenizer: str | None, config: str | None, max_length: int | None, max_problems: int
) -> None:
    """Check JSONL files line by line: every problem with its file, line and field, then a summary. Exit code 2 if there is one.

    \b
    Examples:
      igascale data validate data/demo/train.jsonl data/demo/ood.jsonl
      igascale data validate data/train.jsonl --tokenizer models/llama --max-length 512
      igascale data validate --config run.yaml
    """
    from igascale.cli.data.summary import print_summary
    from igascale.config import load_config
    from igascale.errors import UserError

    run = load_config(config) if config else None
    if run and not files:
        files = tuple(path for path in (run.data.train, run.data.validation, run.data.ood) if path)
    if not files:
        raise UserError("which files? Name JSONL files of groups, or --config RUN.yaml")
    wanted = tokenizer or (run.model.path if run else None)
    length = max_length or (run.data.max_length if run else 1024)
    bad: list[str] = []
    for path in files:
        summary, problems = _check(path, max_problems)
        if problems:
            click.secho(f"{path}: {problems:,} problem(s){_shown(problems, max_problems)}", fg="red", err=True)
            bad.append(path)
        if summary.groups:
            print_summary(f"{path}, its lines without a problem" if problems else path, summary)
        if wanted and not problems and not _tokens(path, wanted, length):
            bad.append(path)
    if bad:
        raise UserError(f"not fit for training: {', '.join(bad)}; what is wrong stands above")


def _shown(problems: int, most: int) -> str:
    return f", the first {most} shown" if problems > most else ""


def _check(path: str, most: int) -> tuple[Summary, int]:
    """Print a file's problems; its summary, and how many there are."""
    from igascale.isomers.dataset import summarise
    from igascale.isomers.schema import iter_groups

    count = 0

    def report(problem: str) -> None:
        nonlocal count
        count += 1
        if count <= most:
            click.echo(problem, err=True)

    summary = summarise(group for _, group in iter_groups(path, report))
    if not summary.groups and not count:
        report(f"{path}: no groups in it; expected one JSON object a line (docs/data.md)")
    return summary, count


def _tokens(path: str, tokenizer: str, max_length: int) -> bool:
    """Show the first group as training sees it, and the lengths; whether every instance has something to learn."""
    from rich.console import Console

    from igascale.cli.data.rendered import print_marked
    from igascale.cli.data.tokenize import tokenize
    from igascale.isomers.tokens import Encoded
    from igascale.model import load_tokenizer

    loaded: Any = load_tokenizer(tokenizer)
    tokens, nothing = tokenize(path, loaded, max_length)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    store = Encoded(tokens, max_length)
    for index, domain in enumerate(tokens.domains):
        console.rule(f"group {tokens.group_id(0)}, {domain}; the loss is on the marked tokens", align="left")
        print_marked(console, loaded, store[index])
    return not nothing
