"""Public benchmarks as tasks: prompts, answer extraction, scoring; a file each (docs/scoring.md).

The name of a task is that of its benchmark.

>>> available()
['arb', 'logiqa2', 'math', 'reclor']
"""

from igascale.evaluation.tasks._lookup import available, find
from igascale.evaluation.tasks.base import Task

__all__ = ["Task", "available", "find"]
