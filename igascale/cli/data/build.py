"""``igascale data build``."""

from __future__ import annotations

import sys
from typing import Any

import click


def _write_defaults(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if not value or ctx.resilient_parsing:
        return
    from igascale.isomers.factory.domains import write_defaults

    for path in write_defaults(value):
        click.echo(path)
    click.echo(f"edit them, then: igascale data build ... --domains {value}/domains.yaml --prompts {value}/prompts")
    ctx.exit()


class _BuildCommand(click.Command):
    """Its options are the fields of `BuildOptions`, which is imported when they are asked for."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        from igascale.isomers.factory.options import click_parameters

        return [*click_parameters(), *super().get_params(ctx)]


@click.command("build", cls=_BuildCommand)
@click.option(
    "--config", metavar="FILE", help="YAML file of options by their names (base_url: ...); the command line wins."
)
@click.option(
    "--write-defaults",
    metavar="DIR",
    is_eager=True,
    expose_value=False,
    callback=_write_defaults,
    help="Write the packaged domains file and prompts there, to edit, and exit.",
)
@click.pass_context
def command(ctx: click.Context, config: str | None, **given: Any) -> None:
    """Turn a bank of problems into verified isomer groups, by a teacher model (docs/factory.md).

    SEEDS is a JSONL or Parquet file, a folder saved by `datasets`, or a Hub id. The key comes from the environment
    (OPENAI_API_KEY). Everything answered is stored in the --out folder: stop at any time, run the same command again, and nothing
    is paid for twice.

    \b
    Examples:
      igascale data build seeds.jsonl --out data/isomers --model gpt-4.1 --preview 3
      igascale data build seeds.jsonl --out data/isomers --model gpt-4.1 --input-price 2 --output-price 8 --budget 50
      igascale data build seeds.jsonl --out data/local --model Qwen/Qwen3-32B --base-url http://localhost:8000/v1
      igascale data build bank.parquet --problem-field question --config build.yaml
    """
    from click.core import ParameterSource
    from rich.console import Console

    from igascale.isomers.factory.build import Build, Stopped
    from igascale.isomers.factory.options import load_options

    given = {name: value for name, value in given.items() if ctx.get_parameter_source(name) != ParameterSource.DEFAULT}
    options = load_options(given, config)
    console = Console()
    try:
        result = Build(options, console).run()
    except (Stopped, KeyboardInterrupt) as stopped:
        click.secho(
            f"stopped ({str(stopped) or 'SIGINT'}). Everything answered is stored in {options.out}: run the same command again to go on, or with "
            "--offline to make files of what is there",
            fg="yellow",
        )
        sys.exit(getattr(stopped, "exit_code", 130))
    if options.preview:
        _show(console, result.groups, options.preview)


def _show(console: Any, groups: Any, wanted: int) -> None:
    from igascale.isomers.inspection.view import print_groups

    print_groups(console, groups)
    if len(groups) < wanted:
        click.secho(
            f"{len(groups)} of {wanted} groups were accepted; rerun with --offline for the reasons", fg="yellow"
        )
    click.echo("Nothing more was asked. What was is stored: the build without --preview goes on from here.")
