"""``igascale data``: one module a verb, imported when it is asked for."""

from __future__ import annotations

import click

from igascale.cli.lazy import LazyGroup

#: Verb -> module, in the order of a first session.
COMMANDS = {
    "generate": "igascale.cli.data.generate",
    "seeds": "igascale.cli.data.seeds",
    "benchmark": "igascale.cli.data.benchmark",
    "build": "igascale.cli.data.build",
    "inspect": "igascale.cli.data.inspect",
    "import": "igascale.cli.data.import_",
    "validate": "igascale.cli.data.validate",
    "split": "igascale.cli.data.split",
    "leakage": "igascale.cli.data.leakage",
    "contamination": "igascale.cli.data.contamination",
    "variant": "igascale.cli.data.variant",
    "tokenize": "igascale.cli.data.tokenize",
}


@click.group("data", cls=LazyGroup, commands_by_module=COMMANDS)
def command() -> None:
    """Make and check isomer groups: one problem told in several domains (docs/data.md)."""
