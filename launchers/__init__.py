"""Launchers: how ``igascale train`` is started on several processes or nodes; one file per backend."""

if __name__ != "igascale.launchers":
    raise ImportError("import igascale.launchers, not launchers")

from igascale.launchers.base import Command, Host, LaunchSpec

__all__ = ["Command", "Host", "LaunchSpec"]
