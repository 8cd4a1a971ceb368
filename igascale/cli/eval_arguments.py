"""Options of `igascale eval` that stand somewhere else than on a command line: in a study's file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from igascale.cli.eval import command
from igascale.cli.eval_options import check_options, given_options
from igascale.errors import UserError
from igascale.evaluation.layer_names import parse_layers
from igascale.evaluation.request import parse_benchmarks


def check_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    """The options by name; refuse what `igascale eval MODEL ARGUMENTS` would refuse before it reads a file.

    Raises:
        UserError: names the option.
    """
    try:
        context = command.make_context("eval", ["MODEL", *arguments])
    except click.exceptions.Exit:
        raise UserError("--help is no option of an evaluation; leave it out") from None
    except click.ClickException as error:
        raise UserError(error.format_message()) from None
    options = {**context.params, "given": given_options(context)}
    chosen = parse_benchmarks(options["benchmarks"], options["subsets"])
    parse_layers(options["layers"])
    # Whether there are isomer groups depends on the run.
    check_options(
        "endpoint" if options["endpoint"] else options["generator"], options, isomers=True, benchmarks=bool(chosen)
    )
    return options
