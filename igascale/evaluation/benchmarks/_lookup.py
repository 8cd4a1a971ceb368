"""From a name to a benchmark: the files of this folder, or ``package.module:Class``."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

from igascale.errors import UserError, did_you_mean
from igascale.evaluation.benchmarks.base import Benchmark

PACKAGE = "igascale.evaluation.benchmarks"


def available() -> list[str]:
    """The names of the benchmarks that come with igascale."""
    names = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]
    return sorted(name for name in names if name != "base" and not name.startswith("_"))


def find(name: str) -> Benchmark:
    """The benchmark of that name.

    Args:
        name: ``math`` for the one in ``math.py``, or ``package.module:Class`` for one from anywhere.

    Raises:
        UserError: there is none, or it cannot be imported.
    """
    if name in available():
        return _only_class(f"{PACKAGE}.{name}")()
    module, colon, cls = name.partition(":")
    if not (colon and module and cls):
        hint = did_you_mean(name, available()) or f"; there are {', '.join(available())}, or package.module:Class"
        raise UserError(f"unknown benchmark '{name}'{hint}")
    try:
        found = getattr(importlib.import_module(module), cls)
    except Exception as error:  # whatever a user's module does when it is imported
        raise UserError(f"benchmark '{name}': {type(error).__name__}: {' '.join(str(error).split())}") from None
    if not (inspect.isclass(found) and issubclass(found, Benchmark)):
        raise UserError(f"benchmark '{name}': not a subclass of {PACKAGE}.Benchmark")
    if inspect.isabstract(found):
        raise UserError(f"benchmark '{name}': it must define {', '.join(sorted(found.__abstractmethods__))}")
    return found()


def _only_class(module_name: str) -> type[Benchmark]:
    module = importlib.import_module(module_name)
    classes = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module_name]
    (found,) = [c for c in classes if issubclass(c, Benchmark) and not inspect.isabstract(c)]
    return found
