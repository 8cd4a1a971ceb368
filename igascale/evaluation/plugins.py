"""From a name to a class: the files of a package, entry points of installed distributions, ``package.module:Class``."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import warnings
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from igascale.errors import UserError, did_you_mean

T = TypeVar("T")


@dataclass(frozen=True)
class Plugins(Generic[T]):
    """Classes of one sort, found by name.

    Attributes:
        sort: what a message calls one of them, ``benchmark`` for example.
        package: whose files hold igascale's own, one class each; the file name is the name.
        base: what all of them derive from.
        group: of the entry points under which a distribution names its own in ``pyproject.toml``.
    """

    sort: str
    package: str
    base: type[T]
    group: str

    def available(self) -> list[str]:
        """The names of those that come with igascale."""
        paths = importlib.import_module(self.package).__path__
        names = [module.name for module in pkgutil.iter_modules(paths)]
        return sorted(name for name in names if name != "base" and not name.startswith("_"))

    def installed(self) -> list[EntryPoint]:
        """Those that installed distributions offer, by name; nothing is imported."""
        return sorted(entry_points(group=self.group), key=lambda entry: (entry.name, entry.value))

    def find(self, name: str) -> type[T]:
        """The class of that name.

        A name of igascale's own always means igascale's own; an entry point of that name is not used, and a warning says so.

        Args:
            name: ``math`` for the one in ``math.py``, the name of an installed entry point, or ``package.module:Class``.

        Raises:
            UserError: there is none, it cannot be imported, or two distributions offer one of that name.
        """
        entries = [entry for entry in self.installed() if entry.name == name]
        if name in self.available():
            for entry in entries:
                theirs = f"that of {_distribution(entry)} is reached as {entry.value}"
                warnings.warn(f"{self.sort} '{name}' is igascale's own; {theirs}", stacklevel=2)
            return self._only_class(f"{self.package}.{name}")
        if len({entry.value for entry in entries}) > 1:
            offers = ", ".join(f"{_distribution(entry)} ({entry.value})" for entry in entries)
            raise UserError(f"{self.sort} '{name}': offered by {offers}; write package.module:Class")
        spelled = entries[0].value.split("[")[0].replace(" ", "") if entries else name
        module, colon, cls = spelled.partition(":")
        if not (colon and module and cls):
            known = [*self.available(), *dict.fromkeys(entry.name for entry in self.installed())]
            hint = did_you_mean(name, known) or f"; there are {', '.join(known)}, or package.module:Class"
            raise UserError(f"unknown {self.sort} '{name}'{hint}")
        return self._checked(name, module, cls)

    def _checked(self, name: str, module: str, cls: str) -> type[T]:
        try:
            found = getattr(importlib.import_module(module), cls)
        except Exception as error:  # whatever a user's module does when it is imported
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise UserError(f"{self.sort} '{name}': {reason}") from None
        if not (inspect.isclass(found) and issubclass(found, self.base)):
            whole = f"{self.package}.{self.base.__name__}"
            raise UserError(f"{self.sort} '{name}': not a subclass of {whole}")
        if inspect.isabstract(found):
            todo = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
            raise UserError(f"{self.sort} '{name}': it must define {todo}")
        return found

    def _only_class(self, module_name: str) -> type[T]:
        module = importlib.import_module(module_name)
        classes = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module_name]
        (found,) = [c for c in classes if issubclass(c, self.base) and not inspect.isabstract(c)]
        return found


def _distribution(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unnamed distribution"
