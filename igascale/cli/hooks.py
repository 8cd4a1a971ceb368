"""``igascale hooks``."""

from __future__ import annotations

import inspect
import re

import click


@click.command("hooks")
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """List the gradient rules, or show one with its options.

    \b
    Examples:
      igascale hooks
      igascale hooks iga
      igascale hooks my_package.my_module:MyHook
    """
    from rich.console import Console
    from rich.table import Table

    from igascale import hooks

    console = Console(highlight=False)
    if name is not None:
        cls = hooks.find(name)
        console.print(f"[bold]{name}[/]  {cls.__module__}:{cls.__qualname__}\n")
        console.print(inspect.cleandoc(cls.__doc__ or "no documentation"), markup=False)
        console.print("\n[bold]Options[/] (keys of the hook: section)")
        for key, parameter in hooks.options(cls).items():
            console.print(f"  {parameter}" if parameter.kind is not parameter.VAR_KEYWORD else key, markup=False)
        return
    table = Table("name", "what it does", box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("reference", no_wrap=True)
    for known in hooks.available():
        cls = hooks.find(known)
        doc = inspect.getdoc(cls) or ""
        link = re.search(r"https://arxiv\.org/abs/[\w.]+", doc)
        table.add_row(known, doc.split("\n")[0], link.group() if link else "")
    console.print(table)
    console.print("\n`igascale hooks NAME` explains one and its options. Your own: hook.name=package.module:Class")
