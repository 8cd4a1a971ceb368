"""``igascale hooks``: list the gradient rules, show one, try one on the contract."""

from __future__ import annotations

import re
import sys
import warnings
from typing import TYPE_CHECKING, Any

import click

from igascale.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from igascale.hooks import GradientHook


class _Group(click.Group):
    """``igascale hooks NAME`` is short for ``igascale hooks show NAME``."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] in self.commands or args[0].startswith("-"):
            return super().resolve_command(ctx, args)
        if len(args) > 1:
            hint = did_you_mean(args[0], self.commands) or f"; there are {', '.join(self.commands)}"
            raise UserError(f"igascale hooks has no command '{args[0]}'{hint}")
        return "show", self.commands["show"], args


@click.group("hooks", cls=_Group, invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> None:
    """List the gradient rules; show one; check one, yours too.

    A rule is named by its file in igascale (`iga`), by the name under which an installed package offers it, or as
    package.module:Class, also of a file in the current folder. docs/hooks.md shows how to write one.

    \b
    Examples:
      igascale hooks                            every rule, with its paper and its options
      igascale hooks show iga                   one rule: formula, options, figures
      igascale hooks check my_rules:Mine        does it keep the contract?
      igascale train run.yaml --hook my_rules:Mine hook.temperature=2
    """
    if ctx.invoked_subcommand is None:
        _list()


@command.command("list")
def list_command() -> None:
    """List the rules that come with igascale, and those of installed packages.

    \b
    Example:
      igascale hooks list
    """
    _list()


@command.command("show")
@click.argument("name")
def show_command(name: str) -> None:
    """Show one rule: its formula and paper, its options with type and default, the figures it reports.

    \b
    Examples:
      igascale hooks show vrex
      igascale hooks show my_package.my_module:MyHook
    """
    from rich.padding import Padding
    from rich.text import Text

    from igascale import docstring, hooks

    console, cls = _console(), hooks.find(name)
    console.print(Text(f"{name}  ", "bold").append(f"{cls.__module__}:{cls.__qualname__}", "dim"))
    console.print(Text(docstring.summary(cls) or "It has no documentation."))
    for block in docstring.blocks(cls):
        left = {"text": 0, "item": 2, "math": 4}[block.kind]
        text = f"- {block.text}" if block.kind == "item" else block.text
        console.print(Padding(Text(text), (0 if block.kind == "item" else 1, 0, 0, left)))
    if hooks.options(cls):
        console.print(Text("\nOptions: keys of the hook section, or hook.KEY=VALUE on the command line", "bold"))
        console.print(_option_table(cls))
    console.print(Text("\nFacts", "bold"))
    console.print(_facts(name, cls))


@command.command("check")
@click.argument("name")
@click.argument("options", nargs=-1, metavar="[OPTION=VALUE]...")
def check_command(name: str, options: tuple[str, ...]) -> None:
    """Try a rule on every clause of the contract; 0 if it keeps all of them, 1 if not.

    It is run on small synthetic gradients, with the given options or the defaults: shapes, determinism, several ranks,
    order of adapters and domains, zero, huge, tiny and NaN gradients, resuming. For a clause that does not hold the
    line says what was seen and what to do.

    \b
    Examples:
      igascale hooks check my_rules:Mine
      igascale hooks check iga preset=paper
      igascale hooks check my_package.rules:Mine temperature=2 clip=true
    """
    from igascale import contract, hooks

    given, cls = _read_options(options), hooks.find(name)
    if given:
        hooks.build(name, given)  # a mistake in the options is not the rule's
    title = " ".join([name, *(f"{key}={value}" for key, value in given.items())])
    click.echo(f"{title}  ({cls.__module__}:{cls.__qualname__})\n")
    clauses = contract.check(lambda: hooks.build(name, given))
    width = max(len(clause.name) for clause in clauses)
    for clause in clauses:
        failed = "FAIL" if clause.required else "note"
        mark, colour = {True: ("pass", "green"), False: (failed, "red"), None: ("-", None)}[clause.ok]
        click.echo(f"{click.style(f'{mark:<4}', fg=colour)}  {clause.name:<{width}}  {clause.statement}")
        if clause.ok is not True:
            what = "not checked: " if clause.ok is None else ""
            click.echo(f"{'':<{width + 8}}{click.style(what + clause.detail, fg=colour)}")
    broken = [clause.name for clause in clauses if clause.ok is False and clause.required]
    if broken:
        click.secho(f"\n{name} breaks the contract: {', '.join(broken)}. docs/hooks.md explains each clause.", fg="red")
        sys.exit(1)
    click.secho(f"\n{name} keeps the contract.", fg="green")


def _read_options(pairs: tuple[str, ...]) -> dict[str, Any]:
    import yaml

    given = {}
    for pair in pairs:
        key, separator, value = pair.removeprefix("hook.").partition("=")
        if not separator or not key:
            raise UserError(f"'{pair}': write OPTION=VALUE, for instance tau=0.5")
        try:
            given[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"'{pair}': the value is not valid YAML") from None
    return given


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, markup=False)


def _list() -> None:
    from rich.table import Table
    from rich.text import Text

    from igascale import hooks
    from igascale.plugins import distribution

    console = _console()
    built_in = hooks.available()
    table = Table("name", "what it does; paper; options", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for name in built_in:
        table.add_row(Text(name, "bold"), _entry(name))
    console.print(table)
    entries = hooks.installed()
    if entries:
        table = Table("name", "from installed packages", box=None, pad_edge=False, padding=(0, 3, 0, 0))
        for entry in entries:
            offered = f"{distribution(entry)} ({entry.value})"
            if entry.name in built_in:
                note = Text(
                    f"{offered}: not used under this name, which is igascale's own; write {entry.value}", "yellow"
                )
            else:
                note = _entry(entry.name).append(f"\n{offered}", "dim")
            table.add_row(Text(entry.name, "bold"), note)
        console.print("")
        console.print(table)
    console.print(
        "\n`igascale hooks show NAME` explains one, `igascale hooks check NAME` tries it. Your own: package.module:Class"
    )


def _entry(name: str) -> Any:
    """Two or three lines about a rule; a rule that cannot be imported says so and does not hide the others."""
    from rich.text import Text

    from igascale import docstring, hooks

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a package's hook with a name of ours: it has a line of its own
            cls = hooks.find(name)
    except UserError as error:
        return Text(str(error), "red")
    links = re.findall(r"https://arxiv\.org/abs/[\w.]+", cls.__doc__ or "")
    text = Text(docstring.summary(cls) or "no documentation")
    if links:
        text.append(f"\n{links[0]}", "cyan")
    if hooks.options(cls):
        text.append(f"\n{' '.join(hooks.options(cls))}", "dim")
    return text


def _option_table(cls: type[GradientHook]) -> Table:
    from rich.table import Table
    from rich.text import Text

    from igascale import docstring, hooks

    table = Table("option", "default", "what it does", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.columns[0].no_wrap = True
    texts = docstring.option_texts(cls)
    for key, parameter in hooks.options(cls).items():
        default = "required" if parameter.default is parameter.empty else _yaml(parameter.default)
        text = Text(texts.get(key, "not documented"))
        if parameter.annotation is not parameter.empty:
            text.append(f"  [{_type(cls, key)}]", "dim")
        table.add_row(Text(key, "bold"), Text(default), text)
    return table


def _yaml(value: Any) -> str:
    """A default as it would stand in a configuration; nothing for one that other options decide."""
    words = {None: "-", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def _type(cls: type[GradientHook], key: str) -> str:
    """An option's type as its allowed values: ``adam | max``, ``number``."""
    import typing

    from igascale import hooks

    try:
        return hooks.spell(typing.get_type_hints(cls.__init__)[key])
    except Exception:  # `igascale hooks check` says what is wrong with it
        return str(hooks.options(cls)[key].annotation)


def _facts(name: str, cls: type[GradientHook]) -> Table:
    from rich.table import Table

    from igascale import hooks

    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 3, 0, 0))
    try:
        hook: Any = hooks.build(name, {})
    except UserError as error:
        table.add_row("defaults", f"cannot be made: {error}")
        hook = cls
    table.add_row("fewest domains", str(hook.min_domains))
    table.add_row("order of the domains", "does not matter" if hook.symmetric else "matters")
    table.add_row("figures of each step", ", ".join(hook.statistics) or "none")
    table.add_row(
        "Adam's second moment",
        ("that of the larger of the result and a reference gradient" if hook.uses_reference else "plain")
        + (" (by default)" if hooks.options(cls) else ""),
    )
    if hook.auxiliary is not None:
        table.add_row("second backward pass", "yes, for an auxiliary statistic")
    return table
