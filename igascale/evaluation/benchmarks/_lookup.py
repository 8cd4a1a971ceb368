"""From a name to a benchmark: the files of this folder, entry points, or ``package.module:Class``."""

from __future__ import annotations

from importlib.metadata import EntryPoint

from igascale.evaluation.benchmarks.base import Benchmark
from igascale.plugins import Plugins

#: A distribution offers its own under this group in ``pyproject.toml``: ``my_benchmark = "my_package:MyBenchmark"``.
GROUP = "igascale.benchmarks"
_PLUGINS = Plugins("benchmark", "igascale.evaluation.benchmarks", Benchmark, GROUP)  # type: ignore[type-abstract]


def available() -> list[str]:
    """The names of the benchmarks that come with igascale."""
    return _PLUGINS.available()


def installed() -> list[EntryPoint]:
    """The benchmarks that installed distributions offer, by name; nothing is imported."""
    return _PLUGINS.installed()


def find(name: str) -> Benchmark:
    """The benchmark of that name.

    Args:
        name: ``math`` for the one in ``math.py``, the name of an installed entry point, or ``package.module:Class``.

    Raises:
        UserError: there is none, it cannot be imported, or two distributions offer one of that name.
    """
    return _PLUGINS.find(name)()
