"""From a name to a hook's class: the files of this folder, entry points, or ``package.module:Class``."""

from __future__ import annotations

from importlib.metadata import EntryPoint

from igascale.hooks.base import GradientHook
from igascale.plugins import Plugins

#: Under this group a distribution names its hooks in ``pyproject.toml``: ``my_rule = "my_package.rules:MyRule"``.
GROUP = "igascale.hooks"
_PLUGINS = Plugins("hook", "igascale.hooks", GradientHook, GROUP, key="hook.name")  # type: ignore[type-abstract]


def available() -> list[str]:
    """The names of the hooks that come with igascale."""
    return _PLUGINS.available()


def installed() -> list[EntryPoint]:
    """The hooks that installed distributions offer, by name; nothing is imported."""
    return _PLUGINS.installed()


def find(name: str) -> type[GradientHook]:
    """The class behind a name.

    Args:
        name: ``iga`` for the one hook in ``hooks/iga.py``, the name of an installed entry point, or
            ``package.module:Class`` for a hook from anywhere.

    Raises:
        UserError: there is none, it cannot be imported, or two distributions offer one of that name.
    """
    return _PLUGINS.find(name)
