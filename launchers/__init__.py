"""Launchers: how ``igascale train`` is started on several processes or nodes; one file per backend."""

if __name__ != "igascale.launchers":
    raise ImportError("import igascale.launchers, not launchers")

from igascale.launchers.base import LaunchSpec, run

__all__ = ["LaunchSpec", "run"]
