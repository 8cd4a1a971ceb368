"""From a name to a hook's class: built-in files, entry points of installed distributions, ``package.module:Class``."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import warnings
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from igascale.errors import UserError, did_you_mean
from igascale.hooks.base import GradientHook

PACKAGE = "igascale.hooks"
#: Under this group a distribution names its hooks in ``pyproject.toml``: ``my_rule = "my_package.rules:MyRule"``.
GROUP = "igascale.hooks"


def available() -> list[str]:
    """The names of the hooks that come with igascale."""
    names = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]
    return sorted(name for name in names if name != "base" and not name.startswith("_"))


def installed() -> list[EntryPoint]:
    """The hooks that installed distributions offer, by name; nothing is imported."""
    return sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value))


def distribution(entry: EntryPoint) -> str:
    """Name and version of the distribution that offers an entry point."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unnamed distribution"


def find(name: str) -> type[GradientHook]:
    """The class behind a name.

    A built-in name always means the built-in hook, whatever is installed; an entry point of the same name is not used,
    and a warning says so.

    Args:
        name: ``iga`` for the one hook in ``hooks/iga.py``, the name of an installed entry point, or
            ``package.module:Class`` for a hook from anywhere.

    Raises:
        UserError: there is none, it cannot be imported, or two distributions offer one of that name.
    """
    entries = [entry for entry in installed() if entry.name == name]
    if name in available():
        for entry in entries:
            warnings.warn(
                f"hook '{name}' is igascale's own; that of {distribution(entry)} is reached as {entry.value}",
                stacklevel=2,
            )
        return _load(f"{PACKAGE}.{name}", "", f"'{name}'")
    if len({entry.value for entry in entries}) > 1:
        offers = ", ".join(f"{distribution(entry)} ({entry.value})" for entry in entries)
        raise UserError(f"hook.name: several distributions offer '{name}': {offers}; write package.module:Class")
    if entries:
        module, _, cls = entries[0].value.partition(":")
        return _load(module.strip(), cls.split("[")[0].strip(), f"'{name}' of {distribution(entries[0])}")
    module, colon, cls = name.partition(":")
    if not colon:
        known = [*available(), *dict.fromkeys(entry.name for entry in installed())]
        hint = did_you_mean(name, known) or f"; there are {', '.join(known)}, or package.module:Class"
        raise UserError(f"hook.name: unknown hook '{name}'{hint}")
    if "/" in module or module.endswith(".py"):
        raise UserError(f"hook.name: '{name}' is a path; write {Path(module).stem}:{cls or 'Class'}")
    if not (module and cls):
        raise UserError(f"hook.name: '{name}' lacks {'a class' if module else 'a module'}; write package.module:Class")
    return _load(module, cls, f"'{name}'")


def _load(module_name: str, class_name: str, spelled: str) -> type[GradientHook]:
    """The class, or the only hook that the module itself defines."""
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever a user's module does when it is imported
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        missing = isinstance(error, ModuleNotFoundError) and module_name.startswith(str(error.name))
        hint = " (looked for in this folder and among the installed packages)" if missing else ""
        whose = "" if spelled.startswith(f"'{module_name}") else f" for {spelled}"
        raise UserError(f"hook.name: cannot import '{module_name}'{whose}: {reason}{hint}") from None
    if class_name:
        if not hasattr(module, class_name):
            hint = did_you_mean(class_name, dir(module))
            raise UserError(f"hook.name: there is no '{class_name}' in {module_name}{hint}")
        found = getattr(module, class_name)
        if not (inspect.isclass(found) and issubclass(found, GradientHook)):
            raise UserError(f"hook.name: {spelled} is not a subclass of igascale.hooks.GradientHook")
        if inspect.isabstract(found):
            todo = ", ".join(sorted(found.__abstractmethods__))
            raise UserError(f"hook.name: {spelled} is not complete: it must define {todo}()")
        return found
    own = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]
    hooks = [c for c in own if issubclass(c, GradientHook) and not inspect.isabstract(c)]
    if len(hooks) != 1:
        raise UserError(f"hook.name: {spelled} must name one GradientHook, found {len(hooks)}")
    return hooks[0]
