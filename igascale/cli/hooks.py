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
        console.print(inspect.cleandoc(cls.__doc__ or "no documentation"), markup=False, soft_wrap=True)
        if hooks.options(cls):
            console.print("\n[bold]Options[/] (keys of the hook: section)")
        for key, parameter in hooks.options(cls).items():
            default = "required" if parameter.default is parameter.empty else parameter.default
            console.print(f"  {key}: {str(parameter.annotation).strip(chr(39))} = {default}", markup=False)
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
