"""Options of the commands that draw problems, and the reading of comma-separated names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


def names(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """``"a, b"`` as ``("a", "b")``."""
    return tuple(name.strip() for name in value.split(",") if name.strip()) if value is not None else None


def problem_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--kinds``, ``--steps``, ``--width`` and ``--paraphrase``, as a click decorator."""
    options = (
        click.option(
            "--kinds",
            callback=names,
            help="Reasoning kinds or families (all, logical, numeric, relational, grouping), comma-separated "
            "[default: the six with one-token answers].",
        ),
        click.option(
            "--steps",
            "--depth",
            "steps",
            nargs=2,
            type=click.IntRange(1, 6),
            metavar="MIN MAX",
            help="Steps on the longest line of reasoning; some kinds have 4 at most [default: 2 3].",
        ),
        click.option("--width", default=0, show_default=True, help="Facts that no step uses, beyond the kind's own."),
        click.option(
            "--paraphrase",
            metavar="N|full",
            help="Sentence patterns to choose from, of every fact and question [default: 1 of a fact, 2 of a question].",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command
