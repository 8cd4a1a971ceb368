"""``igascale data validate``."""

from __future__ import annotations

import click


@click.command("validate")
@click.argument("files", nargs=-1, required=True, type=click.Path())
def command(files: tuple[str, ...]) -> None:
    """Check JSONL files line by line and summarise them; the first problem is named with its file, line and field.

    \b
    Example:
      igascale data validate data/demo/train.jsonl data/demo/ood.jsonl
    """
    from igascale.cli.data.summary import print_summary
    from igascale.isomers.dataset import validate_file

    for path in files:
        print_summary(path, validate_file(path))
