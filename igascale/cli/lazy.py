"""A click group whose commands' modules are imported when a command is asked for, so that ``--help`` stays quick."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click


class LazyGroup(click.Group):
    """A group by a table of verb -> module; each module has a ``command``.

    Args:
        commands_by_module: verb -> module, in the order that ``--help`` lists them.
    """

    def __init__(self, *args: Any, commands_by_module: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._modules = commands_by_module

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every verb, in the table's order."""
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command, imported now."""
        if cmd_name not in self._modules:
            return None
        command: click.Command = importlib.import_module(self._modules[cmd_name]).command
        return command
