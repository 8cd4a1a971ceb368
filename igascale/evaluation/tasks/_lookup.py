"""From a benchmark's name to its task: the files of this folder, entry points, or ``package.module:Class``."""

from __future__ import annotations

from igascale.evaluation.tasks.base import Task
from igascale.plugins import Plugins

#: A distribution offers its own under this group in ``pyproject.toml``: ``my_benchmark = "my_package:MyTask"``.
GROUP = "igascale.tasks"
_PLUGINS = Plugins("task", "igascale.evaluation.tasks", Task, GROUP)  # type: ignore[type-abstract]


def available() -> list[str]:
    """The names of the benchmarks whose task comes with igascale."""
    return _PLUGINS.available()


def find(name: str) -> Task:
    """The task of a benchmark.

    Args:
        name: of the benchmark, igascale's own or an installed entry point's; or ``package.module:Class`` of the task.

    Raises:
        UserError: there is none, it cannot be imported, or two distributions offer one of that name.
    """
    return _PLUGINS.find(name)()
