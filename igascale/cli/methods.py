"""``igascale methods``."""

from __future__ import annotations

import click


@click.command("methods")
def command() -> None:
    """List the methods: each row of the paper's tables as one word for --method, and the controls beside them.

    \b
    Examples:
      igascale methods
      igascale validate run.yaml --method lora-sft
      igascale launch run.yaml --method pcgrad output_dir=runs/pcgrad
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from igascale import methods

    console = Console(highlight=False)
    for title, rows in methods.tables().items():
        table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("method", no_wrap=True)
        if any(label for _, label in rows):
            table.add_column("in the paper")
        table.add_column("what it does")
        table.add_column("sets")
        for name, label in rows:
            method = methods.find(name)
            table.add_row(name, *([label] if label else []), method.description, methods.describe(method))
        console.print(table)
    console.print(
        "What each stands for and where the paper leaves it open: docs/methods.md. A key=value after it still wins."
    )
