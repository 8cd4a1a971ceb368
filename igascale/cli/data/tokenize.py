"""``igascale data tokenize``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from igascale.isomers.tokens import Tokens


@click.command("tokenize")
@click.argument("files", nargs=-1, required=True, type=click.Path())
@click.option("--tokenizer", metavar="PATH", help="Model folder or Hub id. Not needed for a configuration.")
@click.option(
    "--max-length", type=click.IntRange(min=8), help="Only for what is printed [default: data.max_length, or 1024]."
)
def command(files: tuple[str, ...], tokenizer: str | None, max_length: int | None) -> None:
    """Tokenize ahead of a job: fill the cache that training reads, and print sizes and lengths.

    FILES are JSONL files of groups, or configurations (.yaml), whose data files are taken with their model's tokenizer.

    The cache is in $IGASCALE_CACHE, or ~/.cache/igascale; on a cluster, name a folder that every host sees, or run this on each.

    \b
    Examples:
      igascale data tokenize run.yaml
      igascale data tokenize data/train.jsonl --tokenizer models/llama
    """
    from igascale.config import load_config
    from igascale.errors import UserError
    from igascale.model import load_tokenizer

    for name in files:
        if name.endswith((".yaml", ".yml")):
            config = load_config(name)
            loaded = load_tokenizer(tokenizer or config.model.path)
            sources = [path for path in (config.data.train, config.data.validation, config.data.ood) if path]
            for source in sources:
                tokenize(source, loaded, max_length or config.data.max_length)
            if config.data.augment is not None:
                from igascale.loading import load_data

                load_data(config, loaded)
                click.echo(f"{name}: the augmented texts of data.augment are tokenized too")
        elif tokenizer is None:
            raise UserError(
                f"{name}: which tokenizer? Give --tokenizer PATH, or a configuration (.yaml) in place of the file"
            )
        else:
            tokenize(name, load_tokenizer(tokenizer), max_length or 1024)


def tokenize(source: str, tokenizer: Any, max_length: int) -> tuple[Tokens, int]:
    """Fill the cache with a file's tokens, with a bar, and print what there is.

    Args:
        source: a file of groups.
        tokenizer: a Hugging Face tokenizer.
        max_length: to count what it would cut.

    Returns:
        The tokens, and how many instances would have nothing to learn.
    """
    import time

    from rich.console import Console
    from rich.progress import Progress

    from igascale.cli.data.rendered import print_lengths
    from igascale.isomers.cache import Listener, open_tokens

    started, made = time.perf_counter(), False
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"tokenizing {source}", total=None)

        def progress(_: str, done: int, total: int) -> None:
            nonlocal made
            made = made or bool(total)
            bar.update(task, completed=done, total=total or None)

        def warn(line: str) -> None:
            console.print(f"warning: {line}", style="yellow", markup=False, highlight=False, soft_wrap=True)

        tokens, _ = open_tokens(source, tokenizer, Listener(warn, progress))
    seconds = time.perf_counter() - started
    size = f"{tokens.size / 2**20:.1f} MiB" if tokens.folder.exists() else "not kept"
    what = f"tokenized in {seconds:.1f} s" if made else f"are in the cache, checked in {seconds:.1f} s"
    click.echo(f"{source}: {tokens.num_groups:,} groups {what}; {tokens.folder} ({size}, {tokens.dtype.name})")
    return tokens, print_lengths(source, tokens, max_length)
