"""``igascale data``: one module a verb, imported when it is asked for."""

from __future__ import annotations

import click

from igascale.cli.lazy import LazyGroup

#: Verb -> module, in the order of a first session.
COMMANDS = {
    "generate": "igascale.cli.data.generate",
    "build": "igascale.cli.data.build",
    "validate": "igascale.cli.data.validate",
    "inspect": "igascale.cli.data.inspect",
    "split": "igascale.cli.data.split",
    "leakage": "igascale.cli.data.leakage",
    "variant": "igascale.cli.data.variant",
    "contamination": "igascale.cli.data.contamination",
}


@click.group("data", cls=LazyGroup, commands_by_module=COMMANDS)
def command() -> None:
    """Make and check isomer groups: one problem told in several domains (docs/data.md)."""
