"""``igascale data``: one module a verb, imported when it is asked for."""

from __future__ import annotations

import click

from igascale.cli.lazy import LazyGroup

#: Verb -> module, in the order of a first session.
COMMANDS = {
    "generate": "igascale.cli.data.generate",
    "seeds": "igascale.cli.data.seeds",
    "validate": "igascale.cli.data.validate",
    "benchmark": "igascale.cli.data.benchmark",
    "split": "igascale.cli.data.split",
    "leakage": "igascale.cli.data.leakage",
    "variant": "igascale.cli.data.variant",
    "contamination": "igascale.cli.data.contamination",
    "import": "igascale.cli.data.import_",
    "validate": "igascale.cli.data.validate",
    "tokenize": "igascale.cli.data.tokenize",
    "inspect": "igascale.cli.data.inspect",
}


@click.group("data", cls=LazyGroup, commands_by_module=COMMANDS)
def command() -> None:
    """Make and check isomer groups: one problem told in several domains (docs/data.md)."""
