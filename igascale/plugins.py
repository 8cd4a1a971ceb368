"""From a name to a class: the files of a package, entry points of installed distributions, ``package.module:Class``."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import warnings
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
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
        group: of the entry points under which a distribution names its own in ``pyproject.toml``:
            ``my_rule = "my_package.rules:MyRule"``.
        key: of the configuration, where a message begins with one; others begin with the sort.
    """

    sort: str
    package: str
    base: type[T]
    group: str
    key: str = ""

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
            name: ``iga`` for the one in ``iga.py``, the name of an installed entry point, or ``package.module:Class``.

        Raises:
            UserError: there is none, it cannot be imported, or two distributions offer one of that name.
        """
        entries = [entry for entry in self.installed() if entry.name == name]
        if name in self.available():
            for entry in entries:
                theirs = f"that of {distribution(entry)} is reached as {entry.value}"
                warnings.warn(f"{self.sort} '{name}' is igascale's own; {theirs}", stacklevel=2)
            return self._load(f"{self.package}.{name}", "", f"'{name}'")
        if len({entry.value for entry in entries}) > 1:
            offers = ", ".join(f"{distribution(entry)} ({entry.value})" for entry in entries)
            raise self._error(f"several distributions offer '{name}': {offers}; write package.module:Class")
        if entries:
            module, _, cls = entries[0].value.partition(":")
            return self._load(module.strip(), cls.split("[")[0].strip(), f"'{name}' of {distribution(entries[0])}")
        module, colon, cls = name.partition(":")
        if not colon:
            known = [*self.available(), *dict.fromkeys(entry.name for entry in self.installed())]
            hint = did_you_mean(name, known) or f"; there are {', '.join(known)}, or package.module:Class"
            raise UserError(f"{self.key and f'{self.key}: '}unknown {self.sort} '{name}'{hint}")
        if "/" in module or module.endswith(".py"):
            raise self._error(f"'{name}' is a path; write {Path(module).stem}:{cls or 'Class'}")
        if not (module and cls):
            raise self._error(f"'{name}' lacks {'a class' if module else 'a module'}; write package.module:Class")
        return self._load(module, cls, f"'{name}'")

    def _load(self, module_name: str, class_name: str, spelled: str) -> type[T]:
        """The class, or the only one of the sort that the module itself defines."""
        try:
            module = importlib.import_module(module_name)
        except (Exception, SystemExit) as error:  # whatever a user's module does when it is imported
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            missing = isinstance(error, ModuleNotFoundError) and module_name.startswith(str(error.name))
            hint = " (looked for in this folder and among the installed packages)" if missing else ""
            whose = "" if spelled.startswith(f"'{module_name}") else f" for {spelled}"
            raise self._error(f"cannot import '{module_name}'{whose}: {reason}{hint}") from None
        if class_name:
            if not hasattr(module, class_name):
                hint = did_you_mean(class_name, dir(module))
                raise self._error(f"there is no '{class_name}' in {module_name}{hint}")
            found = getattr(module, class_name)
            if not (inspect.isclass(found) and issubclass(found, self.base)):
                raise self._error(f"{spelled} is not a subclass of {self.package}.{self.base.__name__}")
            if inspect.isabstract(found):
                todo = ", ".join(f"{name}()" for name in sorted(getattr(found, "__abstractmethods__", ())))
                raise self._error(f"{spelled} is not complete: it must define {todo}")
            return found
        own = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]
        fit = [c for c in own if issubclass(c, self.base) and not inspect.isabstract(c)]
        if len(fit) != 1:
            raise self._error(f"{spelled} must name one {self.base.__name__}, found {len(fit)}")
        return fit[0]

    def _error(self, message: str) -> UserError:
        return UserError(f"{self.key or self.sort}: {message}")


def distribution(entry: EntryPoint) -> str:
    """Name and version of the distribution that offers an entry point."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unnamed distribution"
